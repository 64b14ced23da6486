"""permessage-deflate: which offers are accepted, and what a client's messages inflate to, in whatever pieces they come."""

from __future__ import annotations

import random
import zlib
from typing import Any

import pytest
from wsproto.events import BytesMessage, Ping, TextMessage

from relay.ground.errors import Reason
from relay.sessions.flusher import Flusher
from relay.sessions.outbox import Outbox
from relay.transports.deflate import ANSWER, Inflater, offers_deflate
from relay.transports.handshake import accept_handshake
from relay.transports.request_head import parse_head
from relay.transports.websocket_events import MAX_EMPTY_FRAGMENTS, Events
from tests.e2e.wire import BINARY, CONTINUATION, PING, TEXT, frame, handshake
from tests.fakes import MemoryTransport

MAX = 10_000


@pytest.mark.parametrize(
    "offer",
    [
        "permessage-deflate",
        "permessage-deflate; client_max_window_bits",  # browsers, `ws`
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
        "Permessage-Deflate;client_max_window_bits=9",
        'permessage-deflate; server_max_window_bits=15; client_max_window_bits="15"',
        "x-webkit-deflate-frame, permessage-deflate",
        "permessage-deflate; server_max_window_bits=10, permessage-deflate",  # the second choice
    ],
)
def test_offers_that_are_accepted(offer: str) -> None:
    assert offers_deflate(offer.encode())


@pytest.mark.parametrize(
    "offer",
    [
        "",
        "permessage-bzip2",
        "deflate",
        "permessage-deflate; server_max_window_bits=10",
        "permessage-deflate; server_max_window_bits",
        "permessage-deflate; client_max_window_bits=7",
        "permessage-deflate; client_max_window_bits=16",
        "permessage-deflate; client_max_window_bits=09",
        "permessage-deflate; client_max_window_bits; client_max_window_bits",
        "permessage-deflate; server_no_context_takeover=1",
        "permessage-deflate; something",
        "permessage-deflate;",
        "\xff;\xff",
    ],
)
def test_offers_that_are_declined(offer: str) -> None:
    assert not offers_deflate(offer.encode("latin-1"))


def test_a_client_that_offers_nothing() -> None:
    assert not offers_deflate(None)
    answer = accept_handshake(parse_head(handshake()))
    assert b"Extensions" not in answer
    assert (
        accept_handshake(parse_head(handshake()), ANSWER)
        == answer[:-2] + b"Sec-WebSocket-Extensions: %b\r\n\r\n" % ANSWER
    )


def packed(data: bytes, level: int = 6) -> bytes:
    """Return a message as a client compresses it."""
    deflate = zlib.compressobj(level, zlib.DEFLATED, -15)
    return (deflate.compress(data) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4]


class Client:
    """What the server makes of a client's bytes."""

    def __init__(self, *, compresses: bool = True) -> None:
        self.violations: list[Reason] = []
        self.pongs = 0
        outbox = Outbox(MemoryTransport(), Flusher(), 10**6, on_blocked=lambda: None, on_overflow=lambda: None)
        self._events = Events(outbox, MAX, self._pong, self.violations.append, compresses=compresses)
        self._parts: list[Any] = []
        self.messages: list[str | bytes | bytearray] = []
        self.pings = 0

    def _pong(self) -> None:
        self.pongs += 1

    def send(self, data: bytes, piece: int = 16384) -> None:
        """Take bytes in pieces of this size."""
        for begin in range(0, len(data), piece):
            self._events.receive_data(data[begin : begin + piece])
            for event in self._events.events():
                if isinstance(event, Ping):
                    self.pings += 1
                elif isinstance(event, (TextMessage, BytesMessage)):
                    self._parts.append(event.data)
                    if event.message_finished:
                        self.messages.append(type(event.data)().join(self._parts))
                        self._parts.clear()


@pytest.mark.parametrize("piece", [1, 7, 100, 16384])
def test_messages_in_pieces(piece: int) -> None:
    """Compressed ones and plain ones, whole and in fragments, with pings within them."""
    client, source = Client(), random.Random(3)
    wanted: list[str | bytes] = []
    sent = b""
    for number in range(60):
        text = "".join(source.choice("abc é漢") for _ in range(source.choice((0, 1, 50, 3000))))
        data = text.encode()
        binary = number % 5 == 4
        wanted.append(data if binary else text)
        compressed = number % 3 > 0
        payload, reserved = (packed(data), 4) if compressed else (data, 0)
        cuts = sorted(source.randrange(len(payload) + 1) for _ in range(number % 4))
        parts = [payload[a:b] for a, b in zip([0, *cuts], [*cuts, len(payload)], strict=True)]
        for index, part in enumerate(parts):
            opcode = CONTINUATION if index else (BINARY if binary else TEXT)
            last = index == len(parts) - 1
            sent += frame(opcode, part, fin=last, reserved=0 if index else reserved)
            if not last:
                sent += frame(PING, b"x")
    client.send(sent, piece)
    assert client.violations == []
    assert client.messages == wanted
    assert client.pings > 0


def test_a_last_block_that_is_marked_as_the_last_one() -> None:
    """A client may end the stream of zlib in each message (RFC 7692, 7.2.3.4)."""
    deflate = zlib.compressobj(6, zlib.DEFLATED, -15)
    payload = deflate.compress(b"Hello") + deflate.flush(zlib.Z_FINISH) + b"\0"
    client = Client()
    client.send(frame(TEXT, payload, reserved=4) + frame(TEXT, packed(b"again"), reserved=4))
    assert (client.messages, client.violations) == (["Hello", "again"], [])


@pytest.mark.parametrize("size", [MAX + 1, 10 * MAX, 50_000_000])
@pytest.mark.parametrize("piece", [1, 16384])
def test_a_bomb_ends_the_connection_before_it_is_inflated(size: int, piece: int) -> None:
    client = Client()
    client.send(frame(TEXT, packed(b"a" * size), reserved=4) + frame(TEXT, b"later"), piece)
    assert client.violations == [Reason.TOO_LARGE]
    assert client.messages == []


def test_the_largest_message() -> None:
    client = Client()
    client.send(frame(TEXT, packed(b"a" * MAX), reserved=4))
    noise = random.Random(2).randbytes(MAX)
    client.send(frame(BINARY, packed(noise, 0), reserved=4))
    assert (client.messages, client.violations) == (["a" * MAX, noise], [])


def test_bytes_that_inflate_to_nothing_have_a_bound_too() -> None:
    nothing = b"\0\0\0\xff\xff"  # an empty stored block
    client = Client()
    client.send(frame(TEXT, nothing * MAX, reserved=4))
    assert client.violations == [Reason.TOO_LARGE]
    flood = Client()
    flood.send(
        frame(TEXT, b"", fin=False, reserved=4) + frame(CONTINUATION, b"", fin=False) * (MAX_EMPTY_FRAGMENTS + 2)
    )
    assert flood.violations == [Reason.FLOOD]


@pytest.mark.parametrize(
    "sent",
    [
        frame(TEXT, b"\xff\xff\xff\xff", reserved=4),
        frame(TEXT, b"a", reserved=2),
        frame(TEXT, b"a", reserved=1),
        frame(PING, b"a", reserved=4),
        frame(TEXT, packed(b"a"), fin=False, reserved=4) + frame(CONTINUATION, b"", reserved=4),
    ],
)
def test_bytes_that_are_not_valid(sent: bytes) -> None:
    client = Client()
    client.send(sent)
    assert client.violations == [Reason.PROTOCOL_ERROR]


def test_inflated_text_that_is_not_utf8() -> None:
    client = Client()
    client.send(frame(TEXT, packed(b"\xff\xfe"), reserved=4))
    assert client.violations == [Reason.NOT_UTF8]


def test_a_connection_that_negotiated_nothing_takes_nothing_compressed() -> None:
    client = Client(compresses=False)
    client.send(frame(TEXT, packed(b"Hello"), reserved=4))
    assert client.violations == [Reason.PROTOCOL_ERROR]


def test_between_messages_no_memory_of_zlib_is_held() -> None:
    client = Client()
    [inflater] = client._events._connection._proto.extensions
    assert isinstance(inflater, Inflater)
    message = frame(TEXT, packed(b"Hello"), reserved=4)
    client.send(message[:-1])
    assert inflater._inflate is not None
    client.send(message[-1:])
    assert client.messages == ["Hello"]
    assert inflater._inflate is None
