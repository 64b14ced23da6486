"""One non-blocking TCP connection of a load. Subclasses interpret its bytes."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import ssl
from typing import NamedTuple

from relay.bench.poller import READ, WRITE, Poller

READ_BYTES = 32 * 1024
"""Bytes read at once: at least a TLS record, so that no decrypted byte remains in OpenSSL, where epoll does not see
it."""
_BUFFER_BYTES = 256 * 1024
_NOT_YET = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Address(NamedTuple):
    """The address of a server."""

    family: int
    sockaddr: tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]
    host: str
    """The value of the Host header."""
    tls: ssl.SSLContext | None = None
    server_name: str = ""
    """The host name that the server's certificate must have, with TLS."""


class Connection:
    """A socket with its send buffer, and three methods for subclasses: `connected`, `received`, `ended`."""

    __slots__ = ("_address", "_connecting", "_out", "_poller", "_socket", "_writing")

    def __init__(self, poller: Poller, address: Address) -> None:
        self._poller = poller
        self._address = address
        self._socket: socket.socket | None = None
        self._connecting = False
        self._writing = False
        self._out = bytearray()

    def connected(self) -> None:
        """Called when the connection is established."""
        raise NotImplementedError

    def received(self, data: bytes) -> None:
        """Called with received bytes."""
        raise NotImplementedError

    def ended(self, why: str) -> None:
        """Called when the peer closed the connection, or it could not be opened. Not called after `close`."""
        raise NotImplementedError

    @property
    def waiting_bytes(self) -> int:
        """Bytes that the kernel has not accepted yet."""
        return len(self._out)

    def open(self) -> None:
        """Start to connect."""
        sock = socket.socket(self._address.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._out.clear()
        self._socket, self._connecting, self._writing = sock, True, True
        code = sock.connect_ex(self._address.sockaddr)
        self._poller.add(sock, self, READ | WRITE)
        if code not in (0, errno.EINPROGRESS):
            self._end(os.strerror(code))

    def limit_send_buffer(self) -> None:
        """Limit the kernel's send buffer, so that this process is not far ahead of the server."""
        assert self._socket is not None
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)

    def close(self) -> None:
        """Close the connection. Idempotent."""
        sock, self._socket = self._socket, None
        if sock is not None:
            self._poller.remove(sock)
            sock.close()

    def send(self, data: bytes) -> None:
        """Send, and queue the bytes that the kernel does not accept. Do nothing if the connection is closed."""
        if self._socket is None:
            return
        self._out += data
        if not self._writing:
            self._flush()

    def handle(self, events: int) -> None:
        """Handle events of the socket."""
        if self._connecting:
            self._connect()
            return
        if events & READ:
            assert self._socket is not None
            try:
                data = self._socket.recv(READ_BYTES)
            except _NOT_YET:
                return
            except OSError as error:
                self._end(error.strerror or str(error))
                return
            if not data:
                self._end("the server ended the connection")
                return
            self.received(data)
        if events & ~READ and self._socket is not None:
            if events & WRITE:
                self._flush()
            else:
                self._end("the connection broke")

    def _connect(self) -> None:
        assert self._socket is not None
        code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._end(os.strerror(code))
            return
        if self._address.tls is not None:
            try:
                if not isinstance(self._socket, ssl.SSLSocket):
                    self._socket = self._address.tls.wrap_socket(
                        self._socket, do_handshake_on_connect=False, server_hostname=self._address.server_name
                    )
                self._socket.do_handshake()
            except ssl.SSLWantReadError:
                self._poller.change(self._socket, READ)
                return
            except OSError as error:
                self._end(f"no TLS: {getattr(error, 'verify_message', '') or error.strerror or error}")
                return
            self._poller.change(self._socket, READ | WRITE)
        self._connecting = False
        self._flush()
        self.connected()

    def _flush(self) -> None:
        assert self._socket is not None
        out = self._out
        try:
            while out:
                del out[: self._socket.send(out)]
        except _NOT_YET:
            pass
        except OSError as error:
            self._end(error.strerror or str(error))
            return
        if bool(out) != self._writing:
            self._writing = bool(out)
            self._poller.change(self._socket, READ | WRITE if out else READ)

    def _end(self, why: str) -> None:
        with contextlib.suppress(OSError):
            self.close()
        self.ended(why)
