"""The two protocols of systemd: it passes listening sockets (sd_listen_fds(3)) and takes notices (sd_notify(3)).

Both use environment variables, which are removed so that no child process uses them. Any other service manager with the same protocols
works, too. This module does not know the server: the state of the server is passed in as functions.
"""

from __future__ import annotations

import os
import socket
import stat
import time
from collections.abc import Awaitable, Callable, MutableMapping

import attrs
import trio

from relay.ground import logs

FIRST_PASSED_FILE = 3
"""The file descriptor of the first passed socket; SD_LISTEN_FDS_START in sd_listen_fds(3)."""
MAX_PASSED_SOCKETS = 64
"""Sockets that may be passed. A larger number is a mistake."""
NOTICE_TIMEOUT = 1.0
"""Seconds that a notice waits for room in systemd's queue before it is dropped."""
STATUS_INTERVAL = 10.0
"""Seconds between two notices of the server's status, or half of the watchdog's timeout if that is less."""

log = logs.get("relay.systemd")


class SystemdError(Exception):
    """A socket or variable from systemd cannot be used. The message is written for the operator."""


def take_listeners(environ: MutableMapping[str, str]) -> list[socket.socket]:
    """Return the listening sockets that were passed to this process. They are non-blocking and not inherited by child processes.

    Raises:
        SystemdError: a passed file descriptor cannot accept TCP connections.
    """
    count, pid, _ = (environ.pop(name, "") for name in ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"))
    if not count:
        return []
    if pid != str(os.getpid()):
        log.warning("ignoring sockets that were passed to another process", listenPid=pid, pid=os.getpid())
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
        raise SystemdError(f"file descriptor {fd}, passed to be listened on, is not a socket")
    os.set_inheritable(fd, False)
    passed = socket.socket(fileno=fd)
    if passed.family not in (socket.AF_INET, socket.AF_INET6):
        wrong = "is not a TCP socket; use ListenStream= with a port, or an address and a port"
    elif passed.type != socket.SOCK_STREAM:
        wrong = "is a datagram socket; use ListenStream="
    elif not passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        wrong = "does not listen; with ListenStream=, Accept=no is needed"
    else:
        passed.setblocking(False)
        return passed
    passed.detach()
    raise SystemdError(f"file descriptor {fd}, passed to be listened on, {wrong}")


def take_notifier(environ: MutableMapping[str, str]) -> Notifier:
    """Return a notifier for the service manager. Without NOTIFY_SOCKET it sends nothing.

    Raises:
        SystemdError: a variable has an invalid value.
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
    """Sends notices about this process to its service manager."""

    address: str | None
    """A path, or @ and an abstract name. None: nothing is sent."""
    watchdog_timeout: float | None
    """Seconds without a sign of life after which systemd kills the process. None: no watchdog."""

    async def ready(self, status: str) -> None:
        """Notify that the server accepts connections."""
        await self.notify("READY=1", f"STATUS={status}")

    async def reloading(self) -> None:
        """Notify that the configuration is being reloaded, until `ready`. The time is what Type=notify-reload needs."""
        await self.notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    async def stopping(self, status: str) -> None:
        """Notify that the server is stopping."""
        await self.notify("STOPPING=1", f"STATUS={status}")

    async def notify(self, *assignments: str) -> None:
        """Send one notice, waiting at most NOTICE_TIMEOUT. Logs a failure instead of raising, so that it never stops the server."""
        if self.address is None:
            return
        address = "\0" + self.address[1:] if self.address[0] == "@" else self.address
        with trio.socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams:
            try:
                with trio.fail_after(NOTICE_TIMEOUT):
                    await datagrams.sendto("\n".join(assignments).encode(), address)
            except (OSError, trio.TooSlowError) as error:
                cause = error.strerror if isinstance(error, OSError) else "the socket is not read"
                log.warning("cannot notify systemd", cause=cause, notice=assignments[0], socket=self.address)

    async def run(
        self,
        prove_alive: Callable[[], Awaitable[None]],
        status: Callable[[], str],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Send the status and, for a watchdog, signs of life until cancelled. Returns at once without NOTIFY_SOCKET.

        A sign of life is sent only after `prove_alive` has returned. `status` is called synchronously.
        """
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
