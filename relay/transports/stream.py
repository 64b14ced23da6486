"""One accepted TCP connection: what HTTP and WebSocket read from and write to."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable
from typing import ClassVar

import trio

from relay.ground.errors import ProtocolError

DEFAULT_RECEIVE_BYTES = 64 * 1024
MAX_HEAD_BYTES = 16 * 1024
"""Bytes of a request's first line and headers."""
MAX_UNSENT_BYTES = 128 * 1024
"""Bytes that the kernel takes before it has sent them. By itself it takes 4 MiB for a peer that does not read: more than an outbox may
hold, and a slow reader would have to read all of it before anything newer."""
SEND_TIMEOUT = 30.0
"""Seconds without the kernel taking a byte after which a write is given up: the peer of an answer does not read."""
RELEASE_TIMEOUT = 10.0
"""Seconds for which the kernel goes on trying to deliver what a closed connection left to a peer that acknowledges nothing."""
_TLS_HANDSHAKE = b"\x16"
"""What a connection that speaks TLS begins with (RFC 8446, 5.1), and no request does."""
_END_OF_HEAD = b"\r\n\r\n"
_RESET = struct.pack("ii", 1, 0)


class UnexpectedTlsError(ProtocolError):
    """What came is a handshake of TLS."""


class ByteStream(trio.abc.HalfCloseableStream):
    """A non-blocking socket as a Trio stream, with a write that never waits and a place for bytes that were read too early.

    One task reads and one writes at a time; `abort` may come from any.
    """

    __slots__ = ("_pushed_back", "peer", "sock")

    secure: ClassVar[bool] = False
    """Whether what is written here is encrypted on the wire."""

    def __init__(self, sock: socket.socket, peer: tuple[str, int]) -> None:
        """Take over an accepted socket; `peer` is its address and port."""
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, MAX_UNSENT_BYTES)
        self.sock = sock
        self.peer = peer
        self._pushed_back = b""

    @property
    def has_unread(self) -> bool:
        """Whether bytes were put back that the next `receive_some` returns."""
        return bool(self._pushed_back)

    def unread(self, data: bytes) -> None:
        """Put bytes back: the next `receive_some` returns them first."""
        self._pushed_back = data + self._pushed_back

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return what came, at most `max_bytes`; empty at the end. Always a checkpoint.

        Raises:
            trio.BrokenResourceError: the connection was reset.
            trio.ClosedResourceError: it was closed here.
        """
        if self._pushed_back:
            await trio.lowlevel.checkpoint()
            size = max_bytes or DEFAULT_RECEIVE_BYTES
            data, self._pushed_back = self._pushed_back[:size], self._pushed_back[size:]
            return data
        sock = self.sock
        if sock.fileno() < 0:
            raise trio.ClosedResourceError("this stream was closed")
        while True:
            # A peer is seldom faster than we: to ask before there is anything would be a system call for nothing.
            await trio.lowlevel.wait_readable(sock)
            try:
                return sock.recv(max_bytes or DEFAULT_RECEIVE_BYTES)
            except BlockingIOError:
                continue
            except OSError as error:
                raise self._error(error) from error

    async def receive_head(self, begin: bytes = b"") -> bytes:
        """Return the head of the next request, up to and with its empty line; empty at the end. What came behind it is put back.

        `begin` was read already. The caller bounds the time; cancelled, what was read is lost.

        Raises:
            ProtocolError: it is longer than MAX_HEAD_BYTES.
            UnexpectedTlsError: TLS is spoken, where there is none.
        """
        received = begin
        while True:
            if received.startswith(_TLS_HANDSHAKE):
                raise UnexpectedTlsError("This port does not speak TLS: use http:// or ws://.")
            end = received.find(_END_OF_HEAD)
            if 0 <= end <= MAX_HEAD_BYTES:
                end += len(_END_OF_HEAD)
                if len(received) > end:
                    self.unread(received[end:])
                return received[:end]
            if len(received) > MAX_HEAD_BYTES:
                raise ProtocolError(f"The head of a request may have at most {MAX_HEAD_BYTES} bytes.")
            more = await self.receive_some()
            if not more:
                return b""
            received += more

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write everything. Cancelled, an unknown part is written: the stream is of no use any more.

        Raises as `receive_some`, also where the peer takes nothing for SEND_TIMEOUT.
        """
        await trio.lowlevel.checkpoint()
        with memoryview(data) as view:
            sent = 0
            while sent < len(view):
                try:
                    sent += self.sock.send(view[sent:])
                except BlockingIOError:
                    with trio.move_on_after(SEND_TIMEOUT) as waiting:
                        await self.wait_writable()
                    if waiting.cancelled_caught:
                        raise trio.BrokenResourceError("the peer does not read") from None
                except OSError as error:
                    raise self._error(error) from error

    async def wait_send_all_might_not_block(self) -> None:
        """Return when the kernel takes something."""
        await self.wait_writable()

    async def send_eof(self) -> None:
        """Say that nothing more will be written."""
        await trio.lowlevel.checkpoint()
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise self._error(error) from error

    @property
    def send_nowait(self) -> Callable[[bytes], int]:
        """What writes as much as the kernel takes now, and returns how many bytes that was. See `outbox.Transport`."""
        return self.sock.send

    async def wait_writable(self) -> None:
        """Return when the kernel takes something, or the connection is gone. Raises as `receive_some`."""
        if self.sock.fileno() < 0:
            raise trio.ClosedResourceError
        await trio.lowlevel.wait_writable(self.sock)

    async def aclose(self) -> None:
        """Close; see `close`."""
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Close. What the kernel has not sent yet it tries to send for RELEASE_TIMEOUT. A plain call; idempotent."""
        if self.sock.fileno() >= 0:
            # Else it holds the memory of a connection whose peer is gone for minutes; of any number of them, for no process to see.
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(RELEASE_TIMEOUT * 1000))
            self._close()

    def abort(self) -> None:
        """Reset the connection, so that whoever waits for the peer waits no more. A plain call; idempotent."""
        if self.sock.fileno() >= 0:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._close()

    def _close(self) -> None:
        trio.lowlevel.notify_closing(self.sock)  # who waits for it is woken
        self.sock.close()

    def _error(self, error: OSError) -> Exception:
        if self.sock.fileno() < 0 or error.errno == errno.EBADF:
            return trio.ClosedResourceError("this stream was closed")
        return trio.BrokenResourceError(f"the connection is gone: {error.strerror}")
