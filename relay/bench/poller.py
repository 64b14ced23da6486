"""The loop: epoll over all connections of a load, in one thread. Knows no protocol."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable
from typing import Protocol

MAX_EVENTS = 2048
MAX_POLL_TIMEOUT = 0.05
READ, WRITE = select.EPOLLIN, select.EPOLLOUT


class Handler(Protocol):
    """What owns a socket."""

    def handle(self, events: int) -> None:
        """Take in what the kernel says about the socket."""

    def close(self) -> None:
        """Close the socket."""


class Poller:
    """Waits for the sockets of a load."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}

    def close(self) -> None:
        """Close every socket that is watched."""
        for handler in list(self._handlers.values()):
            handler.close()
        self._epoll.close()

    def add(self, sock: socket.socket, handler: Handler, events: int) -> None:
        """Watch a socket."""
        self._handlers[sock.fileno()] = handler
        self._epoll.register(sock.fileno(), events)

    def change(self, sock: socket.socket, events: int) -> None:
        """Watch a socket for something else."""
        self._epoll.modify(sock.fileno(), events)

    def remove(self, sock: socket.socket) -> None:
        """Watch a socket no more; before it is closed."""
        del self._handlers[sock.fileno()]
        self._epoll.unregister(sock.fileno())

    def poll(self, timeout: float) -> None:
        """Handle what is ready, after `timeout` seconds at most."""
        handlers = self._handlers
        for fd, events in self._epoll.poll(max(0.0, min(timeout, MAX_POLL_TIMEOUT)), MAX_EVENTS):
            handler = handlers.get(fd)
            if handler is not None:  # one that was handled before it may have closed it
                handler.handle(events)

    def poll_until(self, done: Callable[[], bool], timeout: float) -> bool:
        """Handle what comes until `done`; returns False if that took more than `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while not done():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self.poll(left)
        return True
