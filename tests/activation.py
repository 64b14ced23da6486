"""What a service manager does: owns listening sockets, starts a process with them, and hears what it says."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import trio

_LAUNCH = """
import fcntl, os, sys
passed = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 100) for fd in sys.argv[1].split(",")]
for number, fd in enumerate(passed, 3):
    os.dup2(fd, number)
    os.close(fd)
os.environ.update(LISTEN_FDS=str(len(passed)), LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES="relay.socket")
os.execv(sys.argv[2], sys.argv[2:])
"""


def with_sockets(command: Sequence[str], sockets: Sequence[socket.socket]) -> list[str]:
    """Return a command that starts this one with the sockets as systemd passes them. They must be inherited (`pass_fds`)."""
    return [sys.executable, "-ISc", _LAUNCH, ",".join(str(one.fileno()) for one in sockets), *command]


def listening(port: int = 0, *, backlog: int = 4096) -> socket.socket:
    """Return a socket that listens on this machine."""
    one = socket.create_server(("127.0.0.1", port), backlog=backlog)
    one.setblocking(False)
    return one


class Notices:
    """A socket that notices are sent to."""

    def __init__(self, address: str) -> None:
        self.address = address
        """As it goes into NOTIFY_SOCKET."""
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)

    async def receive(self, timeout: float = 15.0) -> dict[str, str]:
        """Return the next notice."""
        with trio.fail_after(timeout):
            await trio.lowlevel.wait_readable(self.socket)
        notice = self.socket.recv(65536).decode()
        return dict(line.split("=", 1) for line in notice.split("\n"))

    def forget(self) -> None:
        """Pass over what has come."""
        with suppress(BlockingIOError):
            while True:
                self.socket.recv(65536)

    async def until(self, variable: str, timeout: float = 15.0) -> dict[str, str]:
        """Return the next notice that assigns this variable, passing over others."""
        with trio.fail_after(timeout):
            while variable not in (notice := await self.receive()):
                pass
        return notice


@contextmanager
def notices(address: str) -> Iterator[Notices]:
    """Listen for notices, at a path or at @ and an abstract name."""
    heard = Notices(address)
    try:
        yield heard
    finally:
        heard.socket.close()
