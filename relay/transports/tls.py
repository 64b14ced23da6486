"""TLS under HTTP and WebSocket: a stream like any other, whose bytes are ciphertext on the wire.

OpenSSL is driven over buffers in memory, without a task or a lock: a record is made in the call that sends it. Nothing is encrypted before
the kernel has taken all that was encrypted earlier, so that what waits for a slow reader waits as plaintext in its outbox, where it
is bounded, replaced and dropped; at most one piece of ciphertext waits here.

It knows no HTTP and no WebSocket, and is given the certificate.
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
"""Plaintext that is encrypted at once: what bounds the ciphertext that waits for the kernel."""
MAX_ANSWERS_BYTES = 16 * 1024
"""Ciphertext that may wait beside such a piece: what TLS itself has to answer, to a peer that asks and does not read."""

GOODBYE_TIMEOUT = 1.0
"""Seconds that a reader has to take enough for a goodbye to go out."""
MIN_RECEIVE_BYTES = 16 * 1024 + 256
"""Ciphertext asked of the kernel at least: a whole record, for nothing can be read of a part (RFC 8446, 5.2)."""

_PLAIN_HTTP = ("HTTP_REQUEST", "HTTPS_PROXY_REQUEST")

log = logs.get("relay.tls")


class PlainHttpError(ProtocolError):
    """The peer speaks HTTP without TLS."""


class Buffers:
    """Where OpenSSL reads and writes ciphertext: one pair for all connections of a thread.

    Every call into OpenSSL is given what came for its connection, and what it leaves is taken out before anything else runs. A pair of
    its own would keep, for each connection, the size of the largest piece that it ever wrote: 80 KB a connection instead of 14.
    """

    __slots__ = ("incoming", "outgoing")

    def __init__(self) -> None:
        self.incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()


class TlsStream(ByteStream):
    """A connection with TLS, from its handshake on: that happens while the first bytes are awaited, and nothing is sent before.

    One task reads and one writes at a time; `abort` may come from any. Of a write that was not taken as a whole, the rest is to be
    passed again, as outboxes do.
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
        self._ciphertext = b""  # came, and OpenSSL has not looked at it yet
        self._more = False  # whether something can be read before anything more comes
        self._ended = False  # whether the peer writes no more
        self._broken: Exception | None = None  # why nothing can be read or written any more
        self._pending = b""  # written by OpenSSL, and the kernel has not taken it
        self._encrypted = 0  # bytes of what is to be written next that are encrypted already: see send_nowait
        self._heard: trio.Event | None = None  # set when something came, where a write has to wait for that

    @property
    def has_unread(self) -> bool:
        """Whether the next `receive_some` returns bytes that are here already."""
        return bool(self._pushed_back) or (self._more and bool(self._ciphertext or self._tls.pending()))

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return what came, at most `max_bytes`; empty at the end, whether or not the peer said goodbye. Always a checkpoint.

        Raises:
            PlainHttpError: it was a request without TLS. The socket may be used for an answer in kind.
            trio.BrokenResourceError: the connection was reset, or what came is no TLS.
            trio.ClosedResourceError: it was closed here.
        """
        if self._pushed_back:
            return await super().receive_some(max_bytes)
        size = max_bytes or DEFAULT_RECEIVE_BYTES
        if self._more or self._broken is not None or self._ended:
            await trio.lowlevel.checkpoint()
            if data := self._decrypt(size):
                return data
        while not self._ended:
            came = await super().receive_some(max(size, MIN_RECEIVE_BYTES))
            self._ciphertext += came
            self._ended = not came
            if data := self._decrypt(size):
                return data
        return b""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write everything. Cancelled, an unknown part is written: the stream is of no use any more.

        Raises as `send_nowait`, also where the peer takes nothing for SEND_TIMEOUT.
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
        """Say that nothing more will be written."""
        if self._say_goodbye():
            with trio.move_on_after(GOODBYE_TIMEOUT):
                await self.wait_writable()
        await super().send_eof()

    def send_nowait(self, data: bytes | memoryview) -> int:
        """Encrypt and write as long as the kernel takes all of it, and return how many bytes that was. A plain call.

        Where all is encrypted and the kernel refused a part, the last byte counts as not written until it has taken the rest: so the
        caller waits, and comes again.

        Raises:
            trio.BrokenResourceError: the connection is gone, or not there yet.
            trio.ClosedResourceError: it was closed here.
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
        """Return when all that is encrypted is written and more would be taken, or the connection is gone. Raises as `send_nowait`."""
        while True:
            await self._wait_for_room()
            self._put_out()
            if not self._pending:
                return

    async def _wait_for_room(self) -> None:
        """Return when the kernel takes something, and TLS lets us write."""
        if self._heard is not None:
            await self._heard.wait()
        await super().wait_writable()

    def close(self) -> None:
        """Say goodbye, unless the peer is too slow to be told, and close. A plain call; idempotent."""
        self._say_goodbye()
        super().close()
        self._let_go()

    def abort(self) -> None:
        """Reset the connection, so that whoever waits for the peer waits no more. A plain call; idempotent."""
        super().abort()
        self._let_go()

    def _decrypt(self, max_bytes: int) -> bytes:
        """Return what can be read of what came; empty if that is nothing yet, or the end."""
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
        """Write what TLS itself has to say to what came."""
        if not self._pending:
            return
        try:
            self._put_out()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._broken = error  # once what was read is handed out
        if len(self._pending) > MAX_PIECE_BYTES + MAX_ANSWERS_BYTES:
            self._broken = trio.BrokenResourceError("the peer asks for answers and does not read them")

    def _put_out(self) -> None:
        """Hand the kernel what is encrypted. What it refuses stays pending."""
        try:
            self._pending = self._pending[self.sock.send(self._pending) :]
        except BlockingIOError:
            pass
        except OSError as error:
            raise self._error(error) from error

    def _say_goodbye(self) -> bool:
        """Tell the peer that this is the end and nothing was cut off (RFC 8446, 6.1); return whether the kernel refused that.

        Where a write is not finished, something is cut off, and nothing is said.
        """
        if not self._established or self._pending or self._broken is not None or self.sock.fileno() < 0:
            return False
        with suppress(ssl.SSLError):  # it wants to read the peer's goodbye too, which may never come
            self._tls.unwrap()
        self._pending = self._buffers.outgoing.read()
        with suppress(trio.BrokenResourceError):
            self._put_out()
            return bool(self._pending)
        return False

    def _wait_to_hear(self) -> None:
        """Have writes wait until more was read: the peer is in the middle of a message of TLS itself."""
        if self._ended:
            raise trio.BrokenResourceError("the peer left in the middle of a message")
        if self._heard is None:
            self._heard = trio.Event()

    def _let_go(self) -> None:
        """Free what OpenSSL holds. The rest may be part of a circle, and wait for the garbage collector."""
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
        """Return what an error of OpenSSL means here."""
        if self._established:
            return trio.BrokenResourceError(f"the connection is broken: {error.reason}")
        if error.reason in _PLAIN_HTTP:
            return PlainHttpError("This port speaks TLS: use https:// or wss://.")
        log.info("no TLS handshake", address=self.peer[0], cause=error.reason)
        return trio.BrokenResourceError(f"no TLS handshake: {error.reason}")
