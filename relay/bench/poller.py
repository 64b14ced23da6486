"""The event loop of a load: epoll over all connections, in one thread. Knows no protocol."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable
from typing import Protocol

MAX_EVENTS = 2048
"""Events that are handled at a time."""
MAX_POLL_TIMEOUT = 0.05
"""Seconds of one wait for events."""
READ, WRITE = select.EPOLLIN, select.EPOLLOUT


class Handler(Protocol):
    """The owner of a socket."""

    def handle(self, events: int) -> None:
        """Handle events of the socket."""

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
        """Watch a socket for other events."""
        self._epoll.modify(sock.fileno(), events)

    def remove(self, sock: socket.socket) -> None:
        """Stop watching a socket. Call before closing it."""
        del self._handlers[sock.fileno()]
        self._epoll.unregister(sock.fileno())

    def poll(self, timeout: float) -> None:
        """Wait at most `timeout` seconds, and handle the events that are ready."""
        handlers = self._handlers
        for fd, events in self._epoll.poll(max(0.0, min(timeout, MAX_POLL_TIMEOUT)), MAX_EVENTS):
            handler = handlers.get(fd)
            if handler is not None:  # an earlier handler may have closed it
                handler.handle(events)

    def poll_until(self, done: Callable[[], bool], timeout: float) -> bool:
        """Handle events until `done`. Return False if `timeout` seconds pass before."""
        deadline = time.monotonic() + timeout
        while not done():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self.poll(left)
        return True
