"""TLS below HTTP and WebSocket: a stream that encrypts and decrypts.

OpenSSL works on buffers in memory, without a task or a lock: the call that sends a record encrypts it. Nothing is
encrypted before the kernel has accepted all earlier ciphertext. So bytes for a slow client stay in its outbox as
plaintext, where they are bounded, replaced and dropped. At most one piece of ciphertext is pending here.

This module knows neither HTTP nor WebSocket, and gets the certificate from its caller.
"""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress

import trio

from relay.ground import logs
from relay.ground.errors import ProtocolError
from relay.transports.stream import DEFAULT_RECEIVE_BYTES, SEND_TIMEOUT, ByteStream

MAX_PIECE_BYTES = 64 * 1024
"""Bytes of plaintext that are encrypted at once. This bounds the ciphertext that is pending for the kernel."""
MAX_ANSWERS_BYTES = 16 * 1024
"""Further bytes of pending ciphertext: TLS's own answers to a client that asks for them and does not read."""

CLOSE_NOTIFY_TIMEOUT = 1.0
"""Seconds that a slow client may take until the close notification can be sent."""
MIN_RECEIVE_BYTES = 16 * 1024 + 256
"""The least bytes of ciphertext per read: a whole record, because a part cannot be decrypted (RFC 8446, 5.2)."""

_PLAIN_HTTP = ("HTTP_REQUEST", "HTTPS_PROXY_REQUEST")

log = logs.get("relay.tls")


class PlainHttpError(ProtocolError):
    """The client speaks HTTP without TLS."""


class Buffers:
    """OpenSSL's ciphertext buffers: one pair for all connections of a thread.

    Each call into OpenSSL gets the ciphertext of its connection, and its output is removed before other code runs. A
    pair per connection would keep the size of the largest piece ever written: 80 KB a connection instead of 14.
    """

    __slots__ = ("incoming", "outgoing")

    def __init__(self) -> None:
        self.incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()


class TlsStream(ByteStream):
    """A connection with TLS. The handshake runs during the first `receive_some`, and nothing can be sent before it.

    One task reads and one writes at a time; any task may call `abort`. After a partial write the caller must pass the
    rest again, as outboxes do.
    """

    __slots__ = (
        "_broken", "_buffers", "_ciphertext", "_encrypted", "_ended", "_established", "_heard", "_more", "_pending", "_tls",
    )  # fmt: skip

    secure = True

    def __init__(self, sock: socket.socket, peer: tuple[str, int], context: ssl.SSLContext, buffers: Buffers) -> None:
        """Take over an accepted socket; `peer` is its address and port."""
        super().__init__(sock, peer)
        self._tls = context.wrap_bio(buffers.incoming, buffers.outgoing, server_side=True)
        self._buffers = buffers
        self._established = False
        self._ciphertext = b""  # received, and not yet passed to OpenSSL
        self._more = False  # whether plaintext can be read without further ciphertext
        self._ended = False  # whether the client has ended its stream
        self._broken: Exception | None = None  # why the stream is unusable
        self._pending = b""  # ciphertext that the kernel has not accepted
        self._encrypted = 0  # bytes at the start of the next write that are encrypted already: see send_nowait
        self._heard: trio.Event | None = None  # set when bytes arrive, if a write must wait for that

    @property
    def has_unread(self) -> bool:
        """Whether the next `receive_some` returns without waiting for the client."""
        return bool(self._pushed_back) or (self._more and bool(self._ciphertext or self._tls.pending()))

    @property
    def reads_at_once(self) -> bool:
        """Whether the next read needs no wait for the socket: it returns bytes or the end, or raises."""
        return bool(self._pushed_back) or self._more or self._ended or self._broken is not None

    def receive_nowait(self, max_bytes: int | None = None) -> bytes:
        """Return what has come, at most `max_bytes`; empty at the end, with or without a close notification. Called synchronously.

        Raises:
            BlockingIOError: nothing has come yet.
            PlainHttpError: it was a request without TLS. The socket may be used for an answer in kind.
            trio.BrokenResourceError: the connection was reset, or what came is not TLS.
            trio.ClosedResourceError: it was closed here.
        """
        if self._pushed_back:
            return super().receive_nowait(max_bytes)
        size = max_bytes or DEFAULT_RECEIVE_BYTES
        if (self._more or self._broken is not None or self._ended) and (data := self._decrypt(size)):
            return data
        while not self._ended:
            came = super().receive_nowait(max(size, MIN_RECEIVE_BYTES))
            self._ciphertext += came
            self._ended = not came
            if data := self._decrypt(size):
                return data
        return b""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write everything. If cancelled, an unknown part is written, so the stream is unusable.

        Raises as `send_nowait`, and BrokenResourceError if the client accepts nothing for SEND_TIMEOUT.
        """
        await trio.lowlevel.checkpoint()
        with memoryview(data) as view:
            sent = self.send_nowait(view)
            while sent < len(view):
                with trio.move_on_after(SEND_TIMEOUT) as waiting:
                    await self._wait_for_room()
                if waiting.cancelled_caught:
                    raise trio.BrokenResourceError("the peer does not read")
                sent += self.send_nowait(view[sent:])

    async def send_eof(self) -> None:
        """Shut down writing."""
        if self._notify_close():
            with trio.move_on_after(CLOSE_NOTIFY_TIMEOUT):
                await self.wait_writable()
        await super().send_eof()

    def send_nowait(self, data: bytes | memoryview) -> int:
        """Encrypt and write as long as the kernel accepts all ciphertext. Return the number of plaintext bytes.

        If everything is encrypted but the kernel refused a part, the last byte counts as unwritten until it accepts
        the rest. So the caller waits, and calls again.

        Raises:
            trio.BrokenResourceError: the connection is lost, or the handshake has not happened.
            trio.ClosedResourceError: the stream was closed on this side.
        """
        if self._pending:
            self._put_out()
            if self._pending:
                return 0
        if self._broken is not None:
            raise self._broken
        if not self._established:
            raise trio.BrokenResourceError("there was no handshake yet")
        size = len(data)
        taken, self._encrypted = self._encrypted, 0
        while taken < size:
            piece = data if size <= MAX_PIECE_BYTES and not taken else memoryview(data)[taken : taken + MAX_PIECE_BYTES]
            try:
                taken += self._tls.write(piece)
            except ssl.SSLWantReadError:
                self._wait_to_hear()
                break
            except ssl.SSLError as error:
                self._broken = self._cause(error)
                raise self._broken from error
            finally:
                self._pending = self._buffers.outgoing.read()
            self._put_out()
            if self._pending:
                if taken == size:
                    self._encrypted = 1
                    return size - 1
                break
        return taken

    async def wait_writable(self) -> None:
        """Wait until all ciphertext is written and more is accepted, or the connection is lost.

        Raises as `send_nowait`.
        """
        while True:
            await self._wait_for_room()
            self._put_out()
            if not self._pending:
                return

    async def _wait_for_room(self) -> None:
        """Wait until the kernel accepts bytes and TLS allows a write."""
        if self._heard is not None:
            await self._heard.wait()
        await super().wait_writable()

    def close(self) -> None:
        """Send a close notification, unless the client is too slow for it, and close. Idempotent."""
        self._notify_close()
        super().close()
        self._let_go()

    def abort(self) -> None:
        """Reset the connection, and wake every task that waits for it. Idempotent."""
        super().abort()
        self._let_go()

    def _decrypt(self, max_bytes: int) -> bytes:
        """Decrypt received bytes. Empty if no record is complete, or at the end."""
        if self._broken is not None:
            raise self._broken
        pieces: list[bytes] = []
        incoming, outgoing = self._buffers.incoming, self._buffers.outgoing
        incoming.write(self._ciphertext)
        self._more = False
        try:
            while max_bytes > 0:
                piece = self._tls.read(max_bytes)
                if not piece:
                    self._ended = True
                    break
                pieces.append(piece)
                max_bytes -= len(piece)
            else:
                self._more = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self._ended = True
        except ssl.SSLError as error:
            self._broken = self._cause(error)
        finally:
            self._ciphertext = incoming.read()
            self._pending += outgoing.read()
        if not self._established:
            self._established = self._tls.version() is not None
        self._answer()
        self._wake()
        if self._broken is not None and not pieces:
            raise self._broken
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _answer(self) -> None:
        """Write TLS's own answers to received records."""
        if not self._pending:
            return
        try:
            self._put_out()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._broken = error  # raised after the decrypted bytes are returned
        if len(self._pending) > MAX_PIECE_BYTES + MAX_ANSWERS_BYTES:
            self._broken = trio.BrokenResourceError("the peer asks for answers and does not read them")

    def _put_out(self) -> None:
        """Pass the pending ciphertext to the kernel. The part that it refuses stays pending."""
        try:
            self._pending = self._pending[self.sock.send(self._pending) :]
        except BlockingIOError:
            pass
        except OSError as error:
            raise self._error(error) from error

    def _notify_close(self) -> bool:
        """Send a close notification, which shows that nothing was cut off (RFC 8446, 6.1). Return whether the kernel
        refused it.

        After an unfinished write something is cut off, so no notification is sent.
        """
        if not self._established or self._pending or self._broken is not None or self.sock.fileno() < 0:
            return False
        with suppress(ssl.SSLError):  # unwrap also waits for the client's notification, which may never arrive
            self._tls.unwrap()
        self._pending = self._buffers.outgoing.read()
        with suppress(trio.BrokenResourceError):
            self._put_out()
            return bool(self._pending)
        return False

    def _wait_to_hear(self) -> None:
        """Make writes wait until more is read, because the client is in the middle of one of TLS's own messages."""
        if self._ended:
            raise trio.BrokenResourceError("the peer left in the middle of a message")
        if self._heard is None:
            self._heard = trio.Event()

    def _let_go(self) -> None:
        """Free OpenSSL's memory. The rest may be in a reference cycle, and wait for the garbage collector."""
        self._broken = trio.ClosedResourceError("this stream was closed")
        self._more = False
        if hasattr(self, "_tls"):
            del self._tls
        self._wake()

    def _wake(self) -> None:
        if self._heard is not None:
            self._heard.set()
            self._heard = None

    def _cause(self, error: ssl.SSLError) -> Exception:
        """Return the exception for an error of OpenSSL."""
        if self._established:
            return trio.BrokenResourceError(f"the connection is broken: {error.reason}")
        if error.reason in _PLAIN_HTTP:
            return PlainHttpError("This port speaks TLS: use https:// or wss://.")
        log.info("no TLS handshake", address=self.peer[0], cause=error.reason)
        return trio.BrokenResourceError(f"no TLS handshake: {error.reason}")
