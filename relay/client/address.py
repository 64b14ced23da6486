"""The address of a server."""

from __future__ import annotations

import os
import ssl
from urllib.parse import urlsplit

import anyio
import attrs
from anyio.abc import ByteStream

TLS_SCHEMES = {"http": False, "ws": False, "https": True, "wss": True}
LIVE = "/v1/live"


@attrs.frozen
class Address:
    """The host, port and path of a server."""

    host: str
    port: int
    path: str
    """The path before `/v1/`; empty, or begins with a slash and ends without one."""
    tls: ssl.SSLContext | None
    """None: without TLS."""

    @classmethod
    def of(cls, url: str, tls: ssl.SSLContext | None) -> Address:
        """Return the address of a URL. `tls` is used with `https` and `wss`; None: the system's certificates.

        Raises:
            ValueError: the URL is not that of a server.
        """
        try:
            parts = urlsplit(url)
            secure = TLS_SCHEMES[parts.scheme]
            port = parts.port or (443 if secure else 80)
        except (KeyError, ValueError):
            raise _wrong(url) from None
        plain = url.isascii() and url.isprintable() and " " not in url
        if not (plain and parts.hostname) or parts.query or parts.fragment or "@" in parts.netloc:
            raise _wrong(url)
        path = parts.path.rstrip("/").removesuffix(LIVE).rstrip("/")
        return cls(parts.hostname, port, path, (tls or ssl.create_default_context()) if secure else None)

    @property
    def authority(self) -> str:
        """The value of the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"

    async def connect(self) -> ByteStream:
        """Open a connection, with TLS if the address has it. Cancelled, nothing stays open.

        Raises:
            OSError: the server cannot be reached, or TLS failed.
        """
        if self.tls is None:
            return await anyio.connect_tcp(self.host, self.port)
        # Many servers and proxies end a connection without TLS's close notification; HTTP and WebSocket mark their own end.
        try:
            return await anyio.connect_tcp(
                self.host, self.port, ssl_context=self.tls, tls_hostname=self.host, tls_standard_compatible=False
            )
        except (anyio.BrokenResourceError, anyio.EndOfStream) as error:
            raise ConnectionError("the connection ended before TLS was established") from error


def _wrong(url: str) -> ValueError:
    return ValueError(f"{url!r} is not the URL of a server; use one such as https://relay.example.org")


def cause_of(error: BaseException) -> str:
    """Return why a connection failed, for people. anyio keeps the cause of the last attempt below its own error."""
    inner = error.__cause__ if isinstance(error.__cause__, OSError) else error
    if isinstance(inner, ConnectionError) and inner.errno is not None:
        return os.strerror(inner.errno)  # asyncio has a text of its own there
    return getattr(inner, "strerror", None) or str(inner) or type(inner).__name__
