"""Holds the certificate for new connections. Watches its files, and loads them again when they change.

Open connections keep the certificate that they began with.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import trio

from relay.config.certificate import CertificateError, load_certificate
from relay.ground import logs
from relay.transports.tls import Buffers, TlsStream

POLL_INTERVAL = 10.0
"""Seconds between two checks of the files. A renewal writes two files, so it is loaded when both are unchanged for
one interval."""
EXPIRY_NOTICE = timedelta(days=7)
"""How long before its expiry Relay warns of a certificate. By then an automatic renewal should have replaced it."""

_State = tuple[tuple[int, int, int] | None, ...]

log = logs.get("relay.tls")


class Certificates:
    """Makes streams from accepted sockets, with the newest valid certificate."""

    def __init__(
        self, cert: Path, key: Path, now: Callable[[], datetime], *, poll_interval: float = POLL_INTERVAL
    ) -> None:
        """Load the files.

        Raises:
            CertificateError: the files cannot be used.
        """
        self._files = (cert, key)
        self._now = now
        self._poll_interval = poll_interval
        self._buffers = Buffers()
        self._seen = self._tried = self._state()
        self._certificate = load_certificate(cert, key)
        self._report("certificate loaded")

    def make_stream(self, sock: socket.socket, peer: tuple[str, int]) -> TlsStream:
        """Take over an accepted socket."""
        return TlsStream(sock, peer, self._certificate.context, self._buffers)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Watch the files until cancelled."""
        task_status.started()
        while True:
            await trio.sleep(self._poll_interval)
            state = await trio.to_thread.run_sync(self._state)
            if state == self._seen and state != self._tried:
                await self.reload()
            self._seen = state

    async def reload(self) -> None:
        """Load the files again. If they cannot be used, keep the previous certificate, and log the cause."""
        self._tried = await trio.to_thread.run_sync(self._state)
        try:
            self._certificate = await trio.to_thread.run_sync(load_certificate, *self._files)
        except CertificateError as error:
            expires_at = self._certificate.expires_at.isoformat()
            log.error(
                "new certificate cannot be used, keeping the previous one",
                setting=f"server.{error.setting}", cause=error, expiresAt=expires_at,
            )  # fmt: skip
        else:
            self._report("certificate renewed")

    def _report(self, message: str) -> None:
        certificate = self._certificate
        fields = {"hosts": ",".join(certificate.hosts), "expiresAt": certificate.expires_at.isoformat()}
        log.info(message, **fields)
        now = self._now()
        if certificate.expires_at <= now:
            log.warning("the certificate has expired: clients will refuse it", **fields)
        elif certificate.expires_at <= now + EXPIRY_NOTICE:
            log.warning("the certificate is about to expire", **fields)

    def _state(self) -> _State:
        """Return a value that changes when the files are written, replaced, or linked elsewhere."""
        return tuple(_state_of(file) for file in self._files)


def _state_of(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
