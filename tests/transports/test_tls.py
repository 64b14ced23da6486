"""The stream with TLS, on real sockets against Python's own client side."""

from __future__ import annotations

import gc
import logging
import random
import socket
import ssl
import subprocess
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio

from relay.config.certificate import load_certificate
from relay.sessions.flusher import Flusher
from relay.sessions.outbox import Outbox
from relay.transports.tls import MAX_ANSWERS_BYTES, MAX_PIECE_BYTES, Buffers, PlainHttpError, TlsStream
from tests.certificates import trusting, write_certificate
from tests.waiting import TIMEOUT

LIMIT = 10.0
SMALL_BUFFER = 4096
RECORD_OVERHEAD = 100  # of four records, at most


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificate")
    write_certificate(folder)
    return folder


BUFFERS = Buffers()


@pytest.fixture(autouse=True)
def _nothing_is_left_for_another_connection() -> Iterator[None]:
    yield
    assert (BUFFERS.incoming.pending, BUFFERS.outgoing.pending) == (0, 0)


@attrs.frozen
class Accepted:
    """The server's side of a connection, and the socket of the client's."""

    stream: TlsStream
    client: trio.SocketStream


@asynccontextmanager
async def accepted(folder: Path, *, small: bool = False) -> AsyncIterator[Accepted]:
    """Connect, and take the server's side; `small` has the kernel hold little of what is written to the client."""
    context = load_certificate(folder / "relay.crt", folder / "relay.key").context
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.socket() as client:
        if small:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
        client.connect(listening.getsockname())
        client.setblocking(False)
        sock, peer = listening.accept()
        stream = TlsStream(sock, peer, context, BUFFERS)
        try:
            with trio.fail_after(LIMIT):
                yield Accepted(stream, trio.SocketStream(trio.socket.from_stdlib_socket(client)))
        finally:
            stream.close()


@asynccontextmanager
async def established(
    folder: Path, *, small: bool = False, maximum: ssl.TLSVersion = ssl.TLSVersion.MAXIMUM_SUPPORTED
) -> AsyncIterator[tuple[TlsStream, trio.SSLStream[trio.SocketStream]]]:
    """Connect with TLS; the client insists on goodbyes."""
    context = trusting(folder)
    context.maximum_version = maximum
    async with accepted(folder, small=small) as both:
        client = trio.SSLStream(both.client, context, server_hostname="localhost")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send_all, b"hello")
            assert await both.stream.receive_some() == b"hello"
        yield both.stream, client


async def receive_exactly(stream: trio.abc.ReceiveStream, size: int) -> bytes:
    received = b""
    while len(received) < size:
        data = await stream.receive_some(min(65536, size - len(received)))
        assert data, f"the end came after {len(received)} of {size} bytes"
        received += data
    return received


VERSIONS = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])


@VERSIONS
@pytest.mark.parametrize("size", [1, 2, 16384, 16385, MAX_PIECE_BYTES, MAX_PIECE_BYTES + 1, 1_000_003])
async def test_any_number_of_bytes_goes_both_ways(folder: Path, size: int, version: ssl.TLSVersion) -> None:
    data = random.Random(size).randbytes(size)
    async with established(folder, maximum=version) as (stream, client), trio.open_nursery() as nursery:
        assert client.selected_alpn_protocol() is None
        nursery.start_soon(client.send_all, data)
        assert await receive_exactly(stream, size) == data
        nursery.start_soon(stream.send_all, data)
        assert await receive_exactly(client, size) == data


async def test_a_read_returns_no_more_than_was_asked_for(folder: Path) -> None:
    async with established(folder) as (stream, client):
        await client.send_all(b"0123456789" * 1000)
        await trio.sleep(0.05)
        for _ in range(20):
            assert len(await stream.receive_some(100)) == 100
            assert stream.has_unread
        stream.unread(b"unread")
        assert await stream.receive_some(4) == b"unre"
        unread = [stream.has_unread]
        assert await receive_exactly(stream, 8002) == b"ad" + b"0123456789" * 800
        unread.append(stream.has_unread)
        await stream.aclose()
        unread.append(stream.has_unread)
        assert unread == [True, False, False]


async def test_many_records_are_read_at_once(folder: Path) -> None:
    async with established(folder) as (stream, client):
        for _ in range(100):
            await client.send_all(b"x" * 10)
        await trio.sleep(0.05)
        assert await stream.receive_some() == b"x" * 1000


async def test_connections_that_share_buffers_do_not_mix(folder: Path) -> None:
    """Messages of every size, on several connections by turns, reads that stop in the middle among them."""
    dice = random.Random(1)

    async def exchange(number: int) -> None:
        data = bytes([number]) * 300_000
        async with established(folder) as (stream, client), trio.open_nursery() as nursery:
            nursery.start_soon(client.send_all, data)
            nursery.start_soon(stream.send_all, data)
            for side in (stream, client):
                received = 0
                while received < len(data):
                    part = await side.receive_some(dice.choice((1, 100, 5000, 65536)))
                    assert part == bytes([number]) * len(part)
                    received += len(part)

    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(exchange, number)


# -- slow readers ------------------------------------------------------------------------------------------------------


async def test_nothing_is_encrypted_while_the_kernel_refuses(folder: Path) -> None:
    async with established(folder, small=True) as (stream, client):
        sent = b""
        frame = b"0123456789" * 6000
        while (taken := stream.send_nowait(frame)) == len(frame):
            sent += frame
        sent += frame[:taken]
        assert 0 < len(stream._pending) <= len(frame) + RECORD_OVERHEAD
        pending = stream._pending
        for _ in range(10):
            assert stream.send_nowait(frame[taken:]) == 0
            assert pending.endswith(stream._pending)
        assert taken == len(frame) - 1, "all is encrypted, and the last byte counts as not written"
        received = b""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.wait_writable)
            received += await receive_exactly(client, len(sent) + 1)
        assert received == sent + frame[-1:], "what was encrypted gets out without another write"
        assert stream.send_nowait(frame[taken:]) == 1
        await stream.send_all(b"end")
        assert await receive_exactly(client, 3) == b"end", "and the last byte was not sent twice"


async def test_a_large_write_is_encrypted_piece_by_piece(folder: Path) -> None:
    async with established(folder, small=True) as (stream, client):
        data = bytes(1_000_000)
        taken = stream.send_nowait(data)
        assert taken % MAX_PIECE_BYTES == 0
        assert 0 < taken < len(data)
        assert 0 < len(stream._pending) <= MAX_PIECE_BYTES + RECORD_OVERHEAD
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, data[taken:])
            assert await receive_exactly(client, len(data)) == data


@asynccontextmanager
async def outbox_on(stream: TlsStream, max_bytes: int) -> AsyncIterator[tuple[Outbox, list[str]]]:
    """Give a stream an outbox, with a flusher and somebody who drains it."""
    happened: list[str] = []

    def blocked() -> None:
        happened.append("blocked")
        nursery.start_soon(outbox.drain)

    async with trio.open_nursery() as nursery:
        flusher = Flusher()
        nursery.start_soon(flusher.run)
        outbox = Outbox(
            stream, flusher, max_bytes, on_blocked=blocked, on_overflow=lambda: happened.append("overflowed")
        )
        yield outbox, happened
        nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_what_an_outbox_holds_arrives_whole_and_in_order(folder: Path) -> None:
    """Frames of every size, to a reader that is now fast, now slow; the outbox is empty only when the kernel has everything."""
    dice = random.Random(2)
    async with (
        established(folder, small=True) as (stream, client),
        outbox_on(stream, 10_000_000) as (outbox, happened),
        trio.open_nursery() as nursery,
    ):
        frames = [dice.randbytes(dice.choice((2, 50, 3000, 70_000))) for _ in range(150)]
        expected = b"".join(frames)

        async def read() -> None:
            left = len(expected)
            received = []
            while left:
                received.append(await receive_exactly(client, min(left, 50_000)))
                left -= len(received[-1])
                if dice.random() < 0.2:
                    await trio.sleep(0.005)
            assert b"".join(received) == expected

        nursery.start_soon(read)
        for number, frame in enumerate(frames):
            outbox.push(frame)
            if number % 10 == 0:
                await trio.sleep(0.001)
        await outbox.wait_until_written()
        assert stream._pending == b""
    assert "blocked" in happened
    assert "overflowed" not in happened


async def test_a_slow_reader_is_given_the_newest_value(folder: Path) -> None:
    async with established(folder, small=True) as (stream, client), outbox_on(stream, 100_000) as (outbox, happened):
        count = 0
        while not happened:
            outbox.push_latest("price", b"%08d" % count * 100)
            count += 1
            await trio.sleep(0)
        written = count
        for _ in range(1000):
            outbox.push_latest("price", b"%08d" % count * 100)
            count += 1
        assert outbox.size < 100_000
        received = await receive_exactly(client, (written + 1) * 800)
        assert received[-800:] == b"%08d" % (count - 1) * 100
        assert happened == ["blocked"]


async def test_a_reader_that_is_too_slow_costs_no_more_than_the_bound(folder: Path) -> None:
    async with established(folder, small=True) as (stream, client), outbox_on(stream, 50_000) as (outbox, happened):
        while "overflowed" not in happened:
            outbox.push(bytes(1000))
            await trio.sleep(0)
            assert outbox.size <= 50_000
            assert len(stream._pending) <= MAX_PIECE_BYTES + RECORD_OVERHEAD
        outbox.send_nowait(b"the last words")
        received = b""
        while not received.endswith(b"the last words"):
            received += await client.receive_some()
        await outbox.wait_until_written()


# -- what TLS itself says ----------------------------------------------------------------------------------------------


@VERSIONS
async def test_a_close_says_goodbye(folder: Path, version: ssl.TLSVersion) -> None:
    async with established(folder, maximum=version) as (stream, client):
        await stream.send_all(b"bye")
        await stream.aclose()
        stream.close()
        assert await receive_exactly(client, 3) == b"bye"
        assert await client.receive_some() == b""


@pytest.mark.slow
async def test_a_write_to_a_peer_that_does_not_read_is_given_up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that reads a little now and then is waited for."""
    monkeypatch.setattr("relay.transports.tls.SEND_TIMEOUT", 0.3)
    async with established(folder, small=True) as (stream, client), trio.open_nursery() as nursery:
        began = trio.current_time()

        async def read_a_little() -> None:
            for _ in range(10):
                await trio.sleep(0.1)
                await receive_exactly(client, 20_000)

        nursery.start_soon(read_a_little)
        with pytest.raises(trio.BrokenResourceError, match="does not read"):
            await stream.send_all(bytes(10_000_000))
        assert 1 < trio.current_time() - began < 5


async def test_a_goodbye_that_the_kernel_refuses_is_said_later(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusals = 1

    def put_out(stream: TlsStream) -> None:
        nonlocal refusals
        if refusals == 0:
            really(stream)
        refusals -= 1

    async with established(folder) as (stream, client):
        really = TlsStream._put_out
        monkeypatch.setattr(TlsStream, "_put_out", put_out)
        await stream.send_eof()
        assert await client.receive_some() == b""


async def test_a_goodbye_waits_for_nobody_who_does_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.transports.tls.CLOSE_NOTIFY_TIMEOUT", 0.05)
    async with established(folder) as (stream, _):
        monkeypatch.setattr(TlsStream, "_put_out", lambda stream: None)
        with trio.fail_after(TIMEOUT):
            await stream.send_eof()


async def test_an_end_of_writing_leaves_reading(folder: Path) -> None:
    async with established(folder) as (stream, client):
        await client.send_all(b"before")
        await stream.send_eof()
        assert await client.receive_some() == b""
        assert await stream.receive_some() == b"before"
        with pytest.raises(trio.BrokenResourceError):
            stream.send_nowait(b"too late")


@VERSIONS
async def test_the_end_is_the_end_with_and_without_a_goodbye(folder: Path, version: ssl.TLSVersion) -> None:
    for polite in (True, False):
        async with established(folder, maximum=version) as (stream, client):
            await client.send_all(b"last")
            if polite:
                with pytest.raises(ssl.SSLWantReadError):
                    client._ssl_object.unwrap()
                await client.transport_stream.send_all(client._outgoing.read())
            else:
                await client.transport_stream.send_eof()
            assert await stream.receive_some() == b"last"
            assert await stream.receive_some() == b""
            assert await stream.receive_some() == b""
            await stream.send_all(b"answer")
            assert await client.transport_stream.receive_some() != b""


async def test_a_connection_that_is_reset(folder: Path) -> None:
    async with established(folder) as (stream, client):
        client.transport_stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.transport_stream.socket.close()
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        with pytest.raises(trio.BrokenResourceError):
            await stream.send_all(b"nobody hears")


async def test_a_connection_that_is_closed_here(folder: Path) -> None:
    for end in (TlsStream.close, TlsStream.abort):
        async with established(folder, small=True) as (stream, _):

            async def reads(stream: TlsStream = stream) -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await stream.receive_some()

            async def writes(stream: TlsStream = stream) -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await stream.send_all(bytes(4_000_000))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(reads)
                nursery.start_soon(writes)
                await trio.testing.wait_all_tasks_blocked()
                end(stream)
            for _ in range(2):
                with pytest.raises(trio.ClosedResourceError):
                    stream.send_nowait(b"x")
                with pytest.raises(trio.ClosedResourceError):
                    await stream.wait_writable()


async def test_bytes_that_are_no_record_end_the_connection(folder: Path) -> None:
    async with established(folder) as (stream, client):
        await client.send_all(b"good")
        await client.transport_stream.send_all(b"\x17\x03\x03\x00\x20" + bytes(32))
        await trio.sleep(0.05)
        assert await stream.receive_some() == b"good", "what came before is handed out"
        for _ in range(2):
            with pytest.raises(trio.BrokenResourceError):
                await stream.receive_some()
        with pytest.raises(trio.BrokenResourceError):
            await stream.send_all(b"x")
        with pytest.raises(trio.BrokenResourceError):
            await client.receive_some()


@pytest.mark.slow
async def test_keys_are_renewed_in_the_middle(folder: Path) -> None:
    """OpenSSL's client renews its keys, and asks for ours, whenever it is told a line with a K."""
    context = load_certificate(folder / "relay.crt", folder / "relay.key").context
    with socket.create_server(("127.0.0.1", 0)) as listening, trio.fail_after(LIMIT):
        port = listening.getsockname()[1]
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}"]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0
        ) as client:
            assert client.stdin is not None
            assert client.stdout is not None
            sock, peer = await trio.to_thread.run_sync(listening.accept)
            stream = TlsStream(sock, peer, context, BUFFERS)
            for number in range(3):
                client.stdin.write(b"line %d\n" % number)
                assert await stream.receive_some() == b"line %d\n" % number
                client.stdin.write(b"K\n")
                await trio.sleep(0.1)
                await stream.send_all(b"answer %d\n" % number)
            await stream.send_eof()
            client.stdin.close()
            said = await trio.to_thread.run_sync(client.stdout.read)
            assert [line for line in said.splitlines() if line.startswith(b"answer")] == [
                b"answer 0", b"answer 1", b"answer 2",
            ]  # fmt: skip
            assert b"KEYUPDATE" in said
            stream.close()


@pytest.mark.slow
async def test_a_write_waits_where_tls_has_to_be_heard_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class InTheMiddle:
        """What OpenSSL does where half a message of its own has come."""

        def __init__(self, tls: ssl.SSLObject) -> None:
            self.tls = tls
            self.heard = False

        def read(self, size: int) -> bytes:
            data = self.tls.read(size)
            self.heard = True
            return data

        def write(self, data: bytes) -> int:
            if not self.heard:
                raise ssl.SSLWantReadError
            return self.tls.write(data)

        def unwrap(self) -> None:
            self.tls.unwrap()

    for end in ("data", "end", "abort", "close"):
        async with established(folder) as (stream, client), trio.open_nursery() as nursery:
            monkeypatch.setattr(stream, "_tls", InTheMiddle(stream._tls))
            assert stream.send_nowait(b"answer") == 0
            waited = trio.Event()

            async def writes(stream: TlsStream = stream, waited: trio.Event = waited, end: str = end) -> None:
                if end == "data":
                    await stream.send_all(b"answer")
                else:
                    with pytest.raises((trio.BrokenResourceError, trio.ClosedResourceError)):
                        await stream.send_all(b"answer")
                waited.set()

            nursery.start_soon(writes)
            await trio.sleep(0.05)
            assert not waited.is_set()
            if end == "data":
                await client.send_all(b"more")
                assert await stream.receive_some() == b"more"
                assert await receive_exactly(client, 6) == b"answer"
            elif end == "end":
                await client.transport_stream.send_eof()
                assert await stream.receive_some() == b""
            elif end == "abort":
                stream.abort()
            else:
                stream.close()
            await waited.wait()


async def test_a_write_that_fails_leaves_nothing_for_another_connection(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing:
        def write(self, data: bytes) -> int:
            BUFFERS.outgoing.write(b"an alert")
            error = ssl.SSLError(1, "something is wrong")
            error.reason = "WRONG"
            raise error

    async with established(folder) as (stream, _):
        monkeypatch.setattr(stream, "_tls", Failing())
        for _ in range(2):
            with pytest.raises(trio.BrokenResourceError):
                stream.send_nowait(b"x")
            assert BUFFERS.outgoing.pending == 0


async def test_a_peer_that_asks_for_answers_and_does_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Chatty:
        """An OpenSSL that answers each thing that it reads."""

        def __init__(self, tls: ssl.SSLObject) -> None:
            self.tls = tls

        def read(self, size: int) -> bytes:
            data = self.tls.read(size)
            BUFFERS.outgoing.write(bytes(1000))
            return data

        def write(self, data: bytes) -> int:
            return self.tls.write(data)

        def unwrap(self) -> None:
            self.tls.unwrap()

    async with established(folder, small=True) as (stream, client):
        monkeypatch.setattr(stream, "_tls", Chatty(stream._tls))
        with pytest.raises(trio.BrokenResourceError, match="does not read"):
            while True:
                await client.send_all(b"answer me")
                await stream.receive_some()
                assert len(stream._pending) <= MAX_PIECE_BYTES + MAX_ANSWERS_BYTES + 1000


# -- handshakes --------------------------------------------------------------------------------------------------------


async def test_nothing_can_be_sent_before_the_handshake(folder: Path) -> None:
    async with accepted(folder) as both:
        with pytest.raises(trio.BrokenResourceError):
            await both.stream.send_all(b"anybody there?")
        both.stream.close()
        assert await both.client.receive_some() == b""


@pytest.mark.parametrize("start", [b"", b"\x16", b"\x16\x03\x01", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"])
async def test_half_a_handshake(folder: Path, start: bytes) -> None:
    async with accepted(folder) as both:
        await both.client.send_all(start)
        with trio.move_on_after(0.05) as waiting:
            await both.stream.receive_some()
        assert waiting.cancelled_caught
        await both.client.send_eof()
        assert await both.stream.receive_some() == b""


@pytest.mark.parametrize(
    "garbage",
    [
        b"garbage that is no TLS\r\n\r\n",
        b"\x16\x03\x01\x00\x05abcde",
        b"\x16\x03\x01\xff\xff",
        bytes(100),
        b"\xff" * 100,
    ],
)
async def test_garbage_instead_of_a_handshake(folder: Path, garbage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="relay")
    async with accepted(folder) as both:
        await both.client.send_all(garbage)
        for _ in range(2):
            with pytest.raises(trio.BrokenResourceError):
                await both.stream.receive_some()
        assert [(record.levelname, record.getMessage()) for record in caplog.records] == [("INFO", "no TLS handshake")]


@pytest.mark.parametrize(
    "request_", [b"GET / HTTP/1.1\r\n\r\n", b"POST /", b"HEAD /", b"PUT /x", b"CONNECT x:1 HTTP/1.1"]
)
async def test_plain_http(folder: Path, request_: bytes) -> None:
    async with accepted(folder) as both:
        await both.client.send_all(request_[:2])
        await trio.sleep(0.01)
        await both.client.send_all(request_[2:])
        with pytest.raises(PlainHttpError):
            await both.stream.receive_some()
        both.stream.close()
        assert await both.client.receive_some() == b"", (
            "no alert, which would be nonsense in front of an answer in HTTP"
        )


async def test_what_is_no_client_is_forgotten_without_the_garbage_collector(folder: Path) -> None:
    """Whoever knocks with garbage all day long must not leave 15 KB each time until the next full collection."""

    async def knock() -> weakref.ref[ssl.SSLObject]:
        async with accepted(folder) as both:
            await both.client.send_all(b"garbage that is no TLS\r\n\r\n")
            try:
                await both.stream.receive_some()
            except trio.BrokenResourceError:
                return weakref.ref(both.stream._tls)
        raise AssertionError("garbage was taken for TLS")

    gc.disable()
    try:
        tls = await knock()
        assert tls() is None
    finally:
        gc.enable()


async def test_a_client_that_does_not_trust_the_certificate(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="relay")
    async with accepted(folder) as both, trio.open_nursery() as nursery:

        def connect() -> None:
            with (
                socket.socket(fileno=socket.dup(both.client.socket.fileno())) as plain,
                pytest.raises(ssl.SSLCertVerificationError),
            ):
                plain.setblocking(True)
                ssl.create_default_context().wrap_socket(plain, server_hostname="localhost")

        nursery.start_soon(trio.to_thread.run_sync, connect)
        with pytest.raises(trio.BrokenResourceError):
            await both.stream.receive_some()
        [record] = caplog.records
        assert vars(record)["fields"]["cause"] == "TLSV1_ALERT_UNKNOWN_CA"


async def test_old_versions_are_refused_and_http_1_1_is_all_there_is(folder: Path) -> None:
    context = trusting(folder)
    context.set_alpn_protocols(["h2", "http/1.1"])
    async with accepted(folder) as both, trio.open_nursery() as nursery:
        client = trio.SSLStream(both.client, context, server_hostname="localhost")
        nursery.start_soon(client.send_all, b"x")
        assert await both.stream.receive_some() == b"x"
        assert client.selected_alpn_protocol() == "http/1.1"
    command = ["openssl", "s_client", "-tls1_1", "-cipher", "ALL:@SECLEVEL=0", "-connect"]
    async with accepted(folder) as both:
        hello = await trio.to_thread.run_sync(_old_hello, command)
        await both.client.send_all(hello)
        with pytest.raises(trio.BrokenResourceError):
            await both.stream.receive_some()


def _old_hello(command: list[str]) -> bytes:
    """What a client says first that knows nothing newer than TLS 1.1."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        with subprocess.Popen(
            [*command, address], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as client:
            connection, _ = listening.accept()
            with connection:
                hello = connection.recv(4096)
            client.wait()
    return hello


async def test_a_session_is_resumed(folder: Path) -> None:
    context = load_certificate(folder / "relay.crt", folder / "relay.key").context
    trusted = trusting(folder)

    def connect(port: int, session: ssl.SSLSession | None) -> tuple[bool, ssl.SSLSession | None]:
        with (
            socket.create_connection(("127.0.0.1", port)) as plain,
            trusted.wrap_socket(plain, server_hostname="localhost", session=session) as client,
        ):
            client.sendall(b"hello")
            assert client.recv(2) == b"ok"
            return bool(client.session_reused), client.session

    session, reused = None, []
    with socket.create_server(("127.0.0.1", 0)) as listening, trio.fail_after(LIMIT):
        for _ in range(2):

            async def serve() -> None:
                sock, peer = await trio.to_thread.run_sync(listening.accept)
                stream = TlsStream(sock, peer, context, BUFFERS)
                assert await stream.receive_some() == b"hello"
                await stream.send_all(b"ok")
                await stream.receive_some()
                stream.close()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve)
                port = listening.getsockname()[1]
                again, session = await trio.to_thread.run_sync(connect, port, session)
                reused.append(again)
    assert reused == [False, True]
