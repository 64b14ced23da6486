"""What systemd gives a service, and what it wants to hear: listening sockets (sd_listen_fds(3)) and notices (sd_notify(3)).

Both are a few environment variables, which are taken out, so that no child process believes that it is meant. Anything that
speaks the same protocol will do as well. What the server is and how it does is not known here: it is passed in as functions.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Awaitable, Callable, MutableMapping

import attrs
import trio

from relay.ground import logs

FIRST_PASSED_FILE = 3
"""The file descriptor of the first socket that is passed; SD_LISTEN_FDS_START."""
MAX_PASSED_SOCKETS = 64
NOTICE_TIMEOUT = 1.0
"""Seconds that a notice may wait for room in systemd's queue; then it is dropped."""
STATUS_INTERVAL = 10.0
"""Seconds between two notices of how the server does; shorter where the watchdog wants to hear more often."""

log = logs.get("relay.systemd")


class SystemdError(Exception):
    """What was passed cannot be used; the message is written for whoever runs the server."""


def take_listeners(environ: MutableMapping[str, str]) -> list[socket.socket]:
    """Return the listening sockets that were passed to this process, none if none were. Non-blocking, and not inherited.

    Raises:
        SystemdError: something was passed that TCP connections cannot be accepted on.
    """
    count, pid, _ = (environ.pop(name, "") for name in ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"))
    if not count:
        return []
    if pid != str(os.getpid()):
        log.warning("sockets were passed to another process, they are not used", listenPid=pid, pid=os.getpid())
        return []
    if not (count.isascii() and count.isdecimal() and int(count[:9]) <= MAX_PASSED_SOCKETS):
        raise SystemdError(
            f"LISTEN_FDS is {count[:40]!r}; it must be the number of sockets, up to {MAX_PASSED_SOCKETS}"
        )
    return [_listener(fd) for fd in range(FIRST_PASSED_FILE, FIRST_PASSED_FILE + int(count))]


def _listener(fd: int) -> socket.socket:
    try:
        is_socket = stat.S_ISSOCK(os.fstat(fd).st_mode)
    except OSError:
        raise SystemdError(f"LISTEN_FDS promises a socket as file descriptor {fd}, but nothing is open there") from None
    if not is_socket:
        raise SystemdError(f"file descriptor {fd}, passed to be listened on, is no socket")
    os.set_inheritable(fd, False)
    passed = socket.socket(fileno=fd)
    if passed.family not in (socket.AF_INET, socket.AF_INET6):
        wrong = "is not of TCP; use ListenStream= with a port, or an address and a port"
    elif passed.type != socket.SOCK_STREAM:
        wrong = "is of datagrams; use ListenStream="
    elif not passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        wrong = "does not listen; with ListenStream=, Accept=no is needed"
    else:
        passed.setblocking(False)
        return passed
    passed.detach()
    raise SystemdError(f"file descriptor {fd}, passed to be listened on, {wrong}")


def take_notifier(environ: MutableMapping[str, str]) -> Notifier:
    """Return what tells whoever started this process; where nobody wants to hear, it says nothing.

    Raises:
        SystemdError: a variable has a value that cannot be meant.
    """
    address, usec, pid = (environ.pop(name, "") for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"))
    if not address:
        return Notifier(None, None)
    if address[0] not in "/@" or len(address) < 2:
        raise SystemdError(f"NOTIFY_SOCKET is {address[:100]!r}; it must be a path, or @ and an abstract name")
    if not usec or pid not in ("", str(os.getpid())):
        return Notifier(address, None)
    if not (usec.isascii() and usec.isdecimal() and int(usec[:18]) > 0):
        raise SystemdError(f"WATCHDOG_USEC is {usec[:40]!r}; it must be a number of microseconds")
    return Notifier(address, int(usec[:18]) / 1e6)


@attrs.frozen
class Notifier:
    """Tells whoever started this process how it does."""

    address: str | None
    """A path, or @ and an abstract name; None: nobody wants to hear."""
    watchdog_timeout: float | None
    """Seconds without a sign of life after which the process is killed; None: it is not watched."""

    async def ready(self, status: str) -> None:
        """Say that connections are served from now on."""
        await self.notify("READY=1", f"STATUS={status}")

    async def stopping(self, status: str) -> None:
        """Say that the server is about to end."""
        await self.notify("STOPPING=1", f"STATUS={status}")

    async def notify(self, *assignments: str) -> None:
        """Send one notice. It never raises: a server does not stop because nobody listens to it."""
        if self.address is None:
            return
        address = "\0" + self.address[1:] if self.address[0] == "@" else self.address
        with trio.socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams:
            try:
                with trio.fail_after(NOTICE_TIMEOUT):
                    await datagrams.sendto("\n".join(assignments).encode(), address)
            except (OSError, trio.TooSlowError) as error:
                cause = error.strerror if isinstance(error, OSError) else "nobody reads there"
                log.warning("cannot tell systemd", cause=cause, notice=assignments[0], socket=self.address)

    async def run(
        self,
        prove_alive: Callable[[], Awaitable[None]],
        status: Callable[[], str],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Send signs of life and how the server does, for ever. `prove_alive` returns when all that matters has answered."""
        task_status.started()
        if self.address is None:
            return
        interval = STATUS_INTERVAL
        if self.watchdog_timeout is not None:
            interval = min(interval, self.watchdog_timeout / 2)
        while True:
            await trio.sleep(interval)
            if self.watchdog_timeout is None:
                await self.notify(f"STATUS={status()}")
                continue
            with trio.move_on_after(self.watchdog_timeout) as scope:
                await prove_alive()
                await self.notify("WATCHDOG=1", f"STATUS={status()}")
            if scope.cancelled_caught:
                log.error("the store does not answer, so the watchdog hears nothing and will end this process")
