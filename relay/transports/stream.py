"""One accepted TCP connection, which HTTP and WebSocket read and write."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable
from typing import ClassVar

import trio

from relay.ground.errors import ProtocolError

DEFAULT_RECEIVE_BYTES = 64 * 1024
"""Bytes that are received at a time, unless the caller says how many."""
MAX_HEAD_BYTES = 16 * 1024
"""Bytes of a request's first line and headers."""
MAX_UNSENT_BYTES = 128 * 1024
"""Unsent bytes that the kernel buffers. By default it buffers 4 MiB for a client that does not read. That is more
than an outbox may hold, and a slow client would have to read all of it before anything newer."""
SEND_TIMEOUT = 30.0
"""Seconds after which a write fails if the kernel accepts no byte, because the client does not read."""
RELEASE_TIMEOUT = 10.0
"""Seconds for which the kernel tries to deliver the last bytes of a closed connection to an unresponsive client."""
_TLS_HANDSHAKE = b"\x16"
"""The first byte of a TLS connection (RFC 8446, 5.1). No HTTP request begins with it."""
_END_OF_HEAD = b"\r\n\r\n"
_RESET = struct.pack("ii", 1, 0)
_TCP_INFO = 11
_ACKNOWLEDGED_AT = 120
"""The place of `tcpi_bytes_acked` in Linux's `struct tcp_info` (`linux/tcp.h`), since 4.1."""
_ACKNOWLEDGED = struct.Struct("=Q")


class UnexpectedTlsError(ProtocolError):
    """The client started a TLS handshake."""


class HeadTooLargeError(ProtocolError):
    """The head of a request has more than MAX_HEAD_BYTES."""


class ByteStream(trio.abc.HalfCloseableStream):
    """A non-blocking socket as a Trio stream, with a write that never waits, and `unread` for bytes that were read
    too early.

    One task reads and one writes at a time; `abort` may come from any.
    """

    __slots__ = ("_pushed_back", "peer", "sock")

    secure: ClassVar[bool] = False
    """Whether the stream encrypts."""

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
        """Whether the next `receive_some` returns bytes from `unread`."""
        return bool(self._pushed_back)

    @property
    def reads_at_once(self) -> bool:
        """Whether the next read needs no wait for the socket: it returns bytes that are here, or raises."""
        return bool(self._pushed_back)

    @property
    def sent_bytes(self) -> int | None:
        """The bytes that the peer's machine has acknowledged, with TLS and HTTP; None if the system cannot tell.

        The kernel counts them anyway, so a count costs nothing until it is read.
        """
        try:
            info = self.sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _ACKNOWLEDGED.size + _ACKNOWLEDGED_AT)
        except OSError:
            return None
        if len(info) < _ACKNOWLEDGED_AT + _ACKNOWLEDGED.size:
            return None
        (acknowledged,) = _ACKNOWLEDGED.unpack_from(info, _ACKNOWLEDGED_AT)
        return int(acknowledged)

    def unread(self, data: bytes) -> None:
        """Put bytes back. The next `receive_some` returns them first."""
        self._pushed_back = data + self._pushed_back

    def take_unread(self, max_bytes: int) -> bytes:
        """Return bytes that were put back, at most `max_bytes`, or empty."""
        data, self._pushed_back = self._pushed_back[:max_bytes], self._pushed_back[max_bytes:]
        return data

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return received bytes, at most `max_bytes`; empty at the end. Always a checkpoint.

        Raises:
            trio.BrokenResourceError: the connection was reset.
            trio.ClosedResourceError: the stream was closed on this side.
        """
        if self.reads_at_once:
            await trio.lowlevel.checkpoint()
        else:
            # A peer is seldom faster than we are: a read before there is anything would be a system call for nothing.
            await self._wait_readable()
        while True:
            try:
                return self.receive_nowait(max_bytes)
            except BlockingIOError:
                await self._wait_readable()

    def receive_nowait(self, max_bytes: int | None = None) -> bytes:
        """Return what has come, at most `max_bytes`; empty at the end. Called synchronously.

        Raises:
            BlockingIOError: nothing has come yet.
            trio.BrokenResourceError, trio.ClosedResourceError: as `receive_some`.
        """
        size = max_bytes or DEFAULT_RECEIVE_BYTES
        if self._pushed_back:
            data, self._pushed_back = self._pushed_back[:size], self._pushed_back[size:]
            return data
        try:
            return self.sock.recv(size)
        except BlockingIOError:
            raise
        except OSError as error:
            raise self._error(error) from error

    async def _wait_readable(self) -> None:
        if self.sock.fileno() < 0:
            raise trio.ClosedResourceError("this stream was closed")
        await trio.lowlevel.wait_readable(self.sock)

    def interrupt(self) -> None:
        """Make a waiting `receive_some` raise ClosedResourceError. One that has bytes already is not affected."""
        if self.sock.fileno() >= 0:
            trio.lowlevel.notify_closing(self.sock)

    def split_head(self, received: bytes) -> bytes | None:
        """Return the head at the beginning of these bytes, or None if it is incomplete. Bytes after it are put back.

        Raises as `receive_head`.
        """
        if received.startswith(_TLS_HANDSHAKE):
            raise UnexpectedTlsError("This port does not speak TLS: use http:// or ws://.")
        end = received.find(_END_OF_HEAD)
        if 0 <= end <= MAX_HEAD_BYTES:
            end += len(_END_OF_HEAD)
            if len(received) > end:
                self.unread(received[end:])
            return received[:end]
        if len(received) > MAX_HEAD_BYTES:
            raise HeadTooLargeError(f"The head of a request may have at most {MAX_HEAD_BYTES} bytes.")
        return None

    async def receive_head(self, begin: bytes = b"") -> bytes:
        """Return the head of the next request, including its empty line; empty at the end. Bytes after it are put
        back.

        `begin` has bytes that were read already. The caller bounds the time. If cancelled, the bytes read are lost.

        Raises:
            HeadTooLargeError: the head is longer than MAX_HEAD_BYTES.
            UnexpectedTlsError: the client speaks TLS on a port without it.
        """
        received = begin
        while (head := self.split_head(received)) is None:
            more = await self.receive_some()
            if not more:
                return b""
            received += more
        return head

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write everything. If cancelled, an unknown part is written, so the stream is unusable.

        Raises as `receive_some`, and BrokenResourceError if the client accepts nothing for SEND_TIMEOUT.
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
        """Wait until the kernel accepts bytes."""
        await self.wait_writable()

    async def send_eof(self) -> None:
        """Shut down writing."""
        await trio.lowlevel.checkpoint()
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise self._error(error) from error

    @property
    def send_nowait(self) -> Callable[[bytes], int]:
        """A function that writes the bytes that the kernel accepts now, and returns their number.

        See `outbox.Transport`.
        """
        return self.sock.send

    async def wait_writable(self) -> None:
        """Wait until the kernel accepts bytes, or the connection is lost. Raises as `receive_some`."""
        if self.sock.fileno() < 0:
            raise trio.ClosedResourceError
        await trio.lowlevel.wait_writable(self.sock)

    async def aclose(self) -> None:
        """Close; see `close`."""
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Close. The kernel tries to send its remaining bytes for RELEASE_TIMEOUT. Idempotent."""
        if self.sock.fileno() >= 0:
            # Otherwise the kernel keeps the memory of connections to lost clients for minutes, without a bound, and
            # invisible to any process.
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(RELEASE_TIMEOUT * 1000))
            self._close()

    def abort(self) -> None:
        """Reset the connection, and wake every task that waits for it. Idempotent."""
        if self.sock.fileno() >= 0:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._close()

    def _close(self) -> None:
        trio.lowlevel.notify_closing(self.sock)  # wakes the tasks that wait for the socket
        self.sock.close()

    def _error(self, error: OSError) -> Exception:
        if self.sock.fileno() < 0 or error.errno == errno.EBADF:
            return trio.ClosedResourceError("this stream was closed")
        return trio.BrokenResourceError(f"the connection is gone: {error.strerror}")
