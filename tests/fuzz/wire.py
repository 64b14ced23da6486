"""The decoders of what comes before a dialect: heads, paths, queries, WebSocket frames, origins and addresses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from ipaddress import ip_address
from random import Random
from typing import Any
from urllib.parse import parse_qs, urlencode
from zlib import crc32

import attrs
from werkzeug.datastructures import MultiDict
from wsproto.connection import ConnectionState
from wsproto.events import BytesMessage, Message, TextMessage

from relay.admission.addresses import TrustedProxies, client_address, limit_key
from relay.admission.origins import OriginPolicy
from relay.api.bodies import structured
from relay.dialects.live import rest
from relay.dialects.registry import DIALECTS
from relay.ground import strictjson
from relay.ground.errors import ProtocolError, Reason, RequestError
from relay.transports.handshake import accept_handshake
from relay.transports.request_head import parse_head, upgrade_request
from relay.transports.stream import MAX_HEAD_BYTES
from relay.transports.websocket_events import Events
from tests.e2e.wire import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, frame, handshake
from tests.fuzz.decoder import Decoder
from tests.fuzz.messages import LIVE
from tests.fuzz.mutation import bytes_mutated, mutated
from tests.fuzz.subject import CORE
from tests.transports.framing import check_end

MAX_MESSAGE_BYTES = 65_536

HEADS = [
    handshake(path)
    for path in (
        "/v1/live", "/api/ws?token=eyJ.e30.x&a=b", "/api/v1/ws/trades", "/api/v1/ws/events/42/chart", "/api/v1/ws/assets/EUR%2FUSD/price",
        "/socket.io/?EIO=4&transport=websocket&sid=lv_VI97HAX",
    )
] + [
    handshake("/v1/live", changes={"Origin": "https://app.example.org", "X-Forwarded-For": "1.2.3.4, ::1", "Cookie": "a=b"}),
    b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST http://x/v1/publish HTTP/1.0\r\nHost: x\r\nContent-Length: 5\r\nX-API-Key: rk_live_1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nUpgrade: h2c, WebSocket\r\nConnection: keep-alive,\r\n\tUpgrade\r\n\r\n",
]  # fmt: skip
FORWARDED = [
    b"1.2.3.4",
    b"10.0.0.1, 127.0.0.1",
    b"[2001:db8::1]:443, ::1",
    b"unknown, 1.2.3.4:80",
    b"::ffff:1.2.3.4",
    b"fe80::1%eth0",
    b", ,",
]
ORIGINS = [
    b"https://app.example.org", b"http://[::1]:8080", b"null", b"*", b"https://*.example.com", b"https://EXAMPLE.com:443", b"app://x",
    b"http://xn--bcher-kva.example",
]  # fmt: skip
QUERIES = [
    b"token=eyJ.e30.x",
    b"EIO=4&transport=polling&sid=abc&t=1",
    b"page=2&limit=50&type=public",
    b"limit=0100",
    b"before=msg_1&page=%31",
    b"a;b=c",
]
PEERS = ("127.0.0.1", "::1", "203.0.113.9", "fe80::1%eth0", "::ffff:127.0.0.1", "2001:db8:1:2:3:4:5:6")
TRUSTED = TrustedProxies(["127.0.0.1", "::1", "10.0.0.0/8", "2001:db8::/32"])
POLICIES = [
    OriginPolicy(allowed) for allowed in (["*"], ["https://app.example.org"], ["https://*.example.com", "null"], [])
]
ENDPOINTS = [dialect for make in DIALECTS if (dialect := make(CORE)) is not None]


def take_head(data: bytes) -> None:
    """A head that asks for WebSocket is routed, and its headers are read, as a connection does it."""
    data = data[:MAX_HEAD_BYTES]
    asked = upgrade_request(data)
    request = parse_head(data)
    assert asked is None or asked == request
    check_end(data, request)
    client_address(PEERS[0], request.get(b"x-forwarded-for"), TRUSTED)
    for policy in POLICIES:
        policy.allows(request.get(b"origin"), request.get(b"host"))
        for name, value in policy.cors_headers(request.get(b"origin"), request.get(b"host")):
            assert "\n" not in value, name
    for dialect in ENDPOINTS:
        dialect.endpoint(request.path)
    parse_qs(request.query)
    answer = accept_handshake(request)
    assert answer.endswith(b"\r\n\r\n")
    assert answer.count(b"\r\n\r\n") == 1


def take_path(data: bytes) -> None:
    """A path leads to one endpoint at most."""
    path = data.decode("latin-1")
    assert sum(dialect.endpoint(path) is not None for dialect in ENDPOINTS) <= 1


def take_query(data: bytes) -> None:
    """A query is read as each dialect and each list of REST reads it."""
    text = data.decode("latin-1")
    query = parse_qs(text)
    token = query.get("token", [""])[0]
    assert isinstance(token, str)
    fields: Any = MultiDict((name, value) for name, values in query.items() for value in values)
    page, _ = rest.rooms_page_of(fields, 20)
    assert page == rest.page_of(fields, 20)
    assert 1 <= page.limit <= rest.MAX_LIMIT
    assert 0 <= page.offset < 2**63
    assert urlencode(page.pagination(7))


def take_forwarded(data: bytes) -> None:
    """Whatever the header says, there is an address, and something to count it under."""
    for peer in PEERS:
        for header in (data[:MAX_HEAD_BYTES], data[:MAX_HEAD_BYTES].split(b"\n")):
            address = client_address(peer, header, TRUSTED)
            if address != peer:
                assert str(ip_address(address)) == address
            assert limit_key(address)
            if peer == "203.0.113.9":
                assert address == peer


def take_origin(data: bytes) -> None:
    """An origin is allowed or not, whatever it is; one that could be configured allows itself."""
    data = data[:MAX_HEAD_BYTES]
    for policy in POLICIES:
        assert policy.allows(None, data)
        policy.allows(data, b"example.org")
        policy.allows(b"https://example.org", data)
        policy.cors_headers(data, data)
    assert not POLICIES[3].allows(data, b"relay.example")
    text = data.decode("latin-1")
    allowed = OriginPolicy([text])
    assert "*" in text or allowed.allows(data, None)


# -- webSocket ---------------------------------------------------------------------------------------------------------


class _Sealed:
    """What the events need of an outbox."""

    sealed = False

    def seal(self) -> None:
        self.sealed = True


def make_frames(chance: Random) -> bytes:
    """Draw frames, most of them valid, and often change their bytes."""
    many = chance.random() < 0.05
    frames = b"".join(
        _frame(chance, 200 if many else 70_000) for _ in range(100 if many else chance.choice((1, 1, 2, 3, 8)))
    )
    return bytes_mutated(chance, frames, [frames, handshake()]) if chance.random() < 0.6 else frames


def _frame(chance: Random, max_bytes: int) -> bytes:
    opcode = chance.choice(
        (TEXT, TEXT, TEXT, CONTINUATION, CONTINUATION, BINARY, PING, PONG, CLOSE, chance.randrange(16))
    )
    size = chance.choice((0, 0, 1, 2, 125, 126, 127, chance.randrange(300)))
    if chance.random() < 0.1:
        size = min(max_bytes, chance.choice((65535, 65536, 65537)))
    payload = json.dumps(chance.choice(LIVE)).encode() if opcode == TEXT and chance.random() < 0.5 else b"x" * size
    if opcode == CLOSE:
        payload = chance.choice(
            (b"", b"\x03", (1000 + chance.randrange(20)).to_bytes(2, "big") + b"bye", chance.randbytes(2))
        )
    if chance.random() < 0.1:
        payload = bytes_mutated(chance, payload, ["é\U0001f600".encode(), b"\xff"])
    reserved = chance.randrange(8) * (chance.random() < 0.05)
    data = bytearray(
        frame(opcode, payload, fin=chance.random() < 0.7, reserved=reserved, masked=chance.random() > 0.05)
    )  # fmt: skip
    if chance.random() < 0.05 and len(data) > 2:
        data[1] = data[1] & 0x80 | chance.choice((0, 125, 126, 127))
    return bytes(data)


def take_frames(data: bytes) -> None:
    """Frames that come in pieces of any size; a message is never larger than the bound, and nothing comes after what broke a rule."""
    violations: list[Reason] = []
    outbox: Any = _Sealed()
    events = Events(outbox, MAX_MESSAGE_BYTES, None, violations.append)
    seen: list[object] = []
    pieces = Random(crc32(data))
    rest = data
    message_bytes = 0
    while rest and events.state in (ConnectionState.OPEN, ConnectionState.LOCAL_CLOSING):
        size = pieces.choice((1, 2, 7, 100, 16384, 16384))
        events.receive_data(rest[:size])
        rest = rest[size:]
        for event in events.events():
            seen.append(event)
            assert not violations or not isinstance(event, Message), "a message after a violation"
            if isinstance(event, (TextMessage, BytesMessage)):
                content = event.data
                message_bytes += len(content.encode() if isinstance(content, str) else content)
                assert message_bytes <= MAX_MESSAGE_BYTES
                if event.message_finished:
                    message_bytes = 0
    assert len(violations) <= 1 or violations[1:] in ([Reason.PROTOCOL_ERROR], [Reason.NOT_UTF8]), violations


def _from_examples(corpus: Sequence[bytes]) -> Any:
    return partial(mutated, corpus=corpus)


PATHS = [head.split()[1].partition(b"?")[0] for head in HEADS]
_BODIES: list[tuple[type[Any], dict[str, object]]] = [
    (rest.NewRoom, {"name": "Room", "description": None, "type": "group", "id": "room-1"}),
    (rest.NewMessage, {"message": "Hi", "clientMessageId": "c"}),
    (rest.NewMember, {"userId": "u1"}),
    (rest.NewNotification, {"userId": "u", "title": "T", "message": "M", "priority": "low"}),
]


def take_body(data: bytes) -> None:
    """The bodies of REST requests, as every class that one may be."""
    value = strictjson.loads_object(data)
    refusals = []
    for cls, _ in _BODIES:
        try:
            strictjson.dumps(attrs.asdict(structured(value, cls)))
        except RequestError as refusal:
            assert refusal.fields
            refusals.append(refusal)
    if len(refusals) == len(_BODIES):
        raise refusals[0]


DECODERS = (
    Decoder("request head", (ProtocolError, RequestError), _from_examples(HEADS), take_head),
    Decoder("path", (RequestError,), _from_examples(PATHS), take_path),
    Decoder("query", (RequestError,), _from_examples(QUERIES), take_query),
    Decoder(
        "REST body",
        (ProtocolError, RequestError),
        _from_examples([json.dumps(e).encode() for _, e in _BODIES]),
        take_body,
    ),
    Decoder("X-Forwarded-For", (), partial(mutated, corpus=FORWARDED, separator=b","), take_forwarded),
    Decoder("origin", (ValueError,), _from_examples(ORIGINS), take_origin),
    Decoder("WebSocket frames", (), make_frames, take_frames),
)
