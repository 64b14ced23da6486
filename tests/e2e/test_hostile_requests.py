"""Requests that no client should make: each is answered as documented, none is the server's own failure, and nothing is lost."""

from __future__ import annotations

import base64
import itertools
import json
import socket
import struct
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
import trio

from tests.clients import connect, live
from tests.e2e.hostile import MALFORMED, WRONG, Unharmed, admin_client, raw, unharmed, variants, without
from tests.http_client import http_client
from tests.running import SECRET, bearer, token

GET = b"GET /v1/chatrooms HTTP/1.1\r\nHost: x\r\n"
POST = b"POST /v1/chatrooms HTTP/1.1\r\nHost: x\r\n"
ALLOWED = {200, 201, 400, 403, 404, 409, 413}
MAX_BODY_BYTES = 65_536
MAX_ITEM_BYTES = 65_536
MAX_PUBLISH_BYTES = 8 * 1024 * 1024

PUBLICATIONS: dict[str, dict[str, Any]] = {
    "chatroom": {"channel": "chatroom:bodies", "data": {"userId": "u", "message": "m", "messageId": "given"}},
    "user": {"channel": "user:mallory", "data": {"message": "m", "title": "t", "priority": "low", "id": "given"}},
    "market": {"channel": "market:BTC", "data": {"price": 1.5, "symbol": "BTC", "volume": 1, "timestamp": 1}},
    "trades": {"channel": "trades", "data": {"amount": 1}},
    "event": {"channel": "event:7", "data": {"ratios": [0.5, 0.5], "event_id": 7}},
    "community": {"channel": "community:c1", "data": {"communityId": "c1"}},
    "task": {"channel": "task:1", "data": {"status": "done", "entity_type": "task", "entity_id": "1"}},
    "broadcast": {"channel": "broadcast", "type": "notice", "data": {"x": 1}},
}
ITEM_CODES = ("invalid_request", "unknown_channel", "not_found", "conflict", "too_large")
TYPES = (
    "chat:message", "notification:new", "market:price", "trade:created", "chart:updated", "post:created", "status:updated",
    "error", "subscribed", "unsubscribed", "user:online", "chat:typing", "chatroom:deleted", "auth:error", "init", "x",
)  # fmt: skip


def bodies() -> dict[tuple[str, str], dict[str, Any]]:
    """Return a valid body for every route that takes one."""
    publication = {**PUBLICATIONS["market"], "type": "market:price", "idempotencyKey": "k"}
    return {
        ("PUT", "/v1/chatrooms/bodies"): {"name": "n", "description": "d", "type": "public"},
        ("POST", "/v1/chatrooms"): {"name": "n", "description": "d", "type": "public", "id": "given"},
        ("POST", "/v1/chatrooms/bodies/members"): {"userId": "eve"},
        ("POST", "/v1/chatrooms/bodies/messages"): {"message": "m", "clientMessageId": "c"},
        ("POST", "/v1/notifications/send"): {"userId": "eve", "title": "t", "message": "m", "priority": "high"},
        ("POST", "/v1/publish"): publication,
    }


def assert_error(answer: httpx.Response, status: int, what: object = "") -> None:
    """Fail unless this is the documented shape of an error."""
    assert answer.status_code == status, (what, answer.status_code, answer.text[:300])
    body = answer.json()
    assert (body["success"], body["status"]) == (False, status), what
    assert body["message"] == body["error"], what
    assert body["message"], what
    assert body["meta"]["errorId"] == body["errorId"], what
    assert body["meta"]["version"] == "v1", what


async def make_room(subject: Unharmed, http: httpx.AsyncClient) -> None:
    """Create the room that bodies name."""
    answer = await http.post("/v1/chatrooms", json={"name": "Bodies", "id": "bodies"})
    assert answer.status_code == 201, answer.text


@pytest.mark.slow
async def test_bodies_with_wrong_fields(tmp_path: Path) -> None:
    """Every field of every body, replaced by everything that it cannot be: never a 500, and malformed JSON is 400."""
    sent = refused = 0
    async with unharmed(tmp_path) as subject, admin_client(subject.address) as http:
        await make_room(subject, http)
        for (method, path), example in bodies().items():
            what = f"{method} {path}"
            answer = await http.request(method, path, json=example)
            assert answer.status_code in (200, 201), (what, answer.text)
            for name, document in (*variants(example, WRONG), *without(example)):
                answer = await http.request(
                    method, path, content=document, headers={"Content-Type": "application/json"}
                )
                sent += 1
                assert answer.status_code in ALLOWED, (what, name, answer.status_code, answer.text)
                if answer.status_code >= 400:
                    refused += 1
                    assert_error(answer, answer.status_code, (what, name))
                else:
                    assert answer.json()["success"] is True
            for name, document in variants(example, MALFORMED):
                answer = await http.request(
                    method, path, content=document, headers={"Content-Type": "application/json"}
                )
                sent += 1
                assert_error(answer, 400, (what, name))
    assert sent > 350
    assert refused > 250


@pytest.mark.slow
async def test_bodies_that_are_none(tmp_path: Path) -> None:
    """Not JSON is 415, broken JSON 400, too much of it 413 whatever it is; and routes without a body take no harm of one."""
    broken = {
        "nothing": b"",
        "cut": b'{"name": "n"',
        "two": b'{"name": "n"} {"name": "n"}',
        "comma": b'{"name": "n",}',
        "single quotes": b"{'name': 'n'}",
        "invalid UTF-8": b'{"name": "\xff"}',
        "UTF-16": '{"name": "n"}'.encode("utf-16"),
        "byte order mark": b'\xef\xbb\xbf{"name": "n"}',
        "NUL": b'{"name": "n"}\0',
    }
    async with unharmed(tmp_path) as subject, admin_client(subject.address) as http:
        await make_room(subject, http)
        for method, path in bodies():
            example = json.dumps(bodies()[method, path]).encode()
            for type_ in (
                None,
                "",
                "text/plain",
                "application/x-www-form-urlencoded",
                "multipart/form-data",
                "*/*",
                "\xe9",
                "a" * 500,
            ):
                headers = {} if type_ is None else {b"Content-Type": type_.encode("latin-1")}
                answer = await http.request(method, path, content=example, headers=headers)
                assert_error(answer, 415, (path, type_))
            for name, document in broken.items():
                headers = {b"Content-Type": b"application/json; charset=utf-8"}
                answer = await http.request(method, path, content=document, headers=headers)
                assert_error(answer, 400, (path, name))
            if path != "/v1/publish":
                padded = example[:-1] + b" " * (MAX_BODY_BYTES - len(example)) + b"}"
                assert len(padded) == MAX_BODY_BYTES
                headers = {b"Content-Type": b"application/json"}
                answer = await http.request(method, path, content=padded, headers=headers)
                assert answer.status_code in (200, 201, 409), (path, answer.text)
                for content in (padded + b" ", b"\xff" * (MAX_BODY_BYTES + 1), _chunks(b" " * 10_000, 8)):
                    answer = await http.request(method, path, content=content, headers=headers)
                    assert_error(answer, 413, path)
        for method, path in (("POST", "/v1/chatrooms/bodies/join"), ("POST", "/v1/chatrooms/bodies/leave")):
            for content in (b"\xff{", b" " * (MAX_BODY_BYTES + 1), _chunks(b"x" * 10_000, 8)):
                answer = await http.request(method, path, content=content)
                assert answer.status_code == 200, (path, answer.text)


async def _chunks(data: bytes, count: int) -> Any:
    for _ in range(count):
        yield data


@pytest.mark.slow
async def test_paths_queries_and_methods(tmp_path: Path) -> None:
    """Odd ids, queries, methods and targets are answered 4xx in the shape of errors, or served."""
    ids = (
        "%00",
        "%ff",
        "%ED%A0%80",
        "..",
        "%2e%2e%2f",
        "x" * 3000,
        "%F0%9F%98%80",
        "'; DROP TABLE rooms; --",
        "null",
        "-1",
        "%0d%0aX: y",
    )
    routes = (
        ("GET", "/v1/chatrooms/{}"),
        ("DELETE", "/v1/chatrooms/{}"),
        ("POST", "/v1/chatrooms/{}/join"),
        ("GET", "/v1/chatrooms/{}/messages"),
        ("GET", "/v1/chatrooms/{}/members"),
        ("PUT", "/v1/notifications/{}/read"),
        ("GET", "/v1/chatrooms/bodies/messages?before={}"),
        ("GET", "/{}"),
        ("TRACE", "/v1/chatrooms/{}"),
    )
    async with unharmed(tmp_path) as subject, admin_client(subject.address) as http:
        await make_room(subject, http)
        for (method, path), id_ in itertools.product(routes, ids):
            if (path, id_) == ("/{}", ".."):
                continue  # the client makes it the front page
            answer = await http.request(method, path.format(id_))
            assert 400 <= answer.status_code < 500, (method, path, id_, answer.status_code, answer.text)
            assert_error(answer, answer.status_code, (method, path, id_))
        for id_ in (one for one in ids if one != ".."):  # which would be the room itself
            answer = await http.delete(f"/v1/chatrooms/bodies/members/{id_}")
            assert answer.status_code in (200, 400, 404, 405, 409), (id_, answer.status_code, answer.text)
        for name, value in itertools.product(
            ("page", "limit", "type"), ("0", "-1", "1.5", "x", "", "%00", "٣", "1e3", "0x10", " ")
        ):
            for path in (
                "/v1/chatrooms",
                "/v1/chatrooms/bodies/messages",
                "/v1/chatrooms/bodies/members",
                "/v1/notifications",
            ):
                answer = await http.get(path, params={name: value})
                if name == "type" and path != "/v1/chatrooms":
                    assert answer.status_code == 200
                else:
                    assert_error(answer, 400, (path, name, value))
        for path in (
            "/v1/chatrooms",
            "/v1/chatrooms/bodies/messages",
            "/v1/chatrooms/bodies/members",
            "/v1/notifications",
        ):
            answer = await http.get(path, params={"page": "9" * 4000, "limit": "9" * 4000})
            assert answer.status_code == 200, (path, answer.text)
            assert answer.json()["data"] == []
        for path in ("/v1/chatrooms", "/v1/chatrooms/bodies", "/v1/publish", "/v1/notifications/read-all"):
            assert_error(await http.request("PATCH", path, json={}), 405, path)


@pytest.mark.slow
async def test_request_heads(tmp_path: Path) -> None:
    """Heads at the edge of HTTP are refused or served, and never the server's own failure."""
    admin = bearer("root", admin=True)["Authorization"]
    heads = {
        "whole URL": b"GET http://x/v1/chatrooms HTTP/1.1\r\nHost: x\r\n",
        "URL that cannot be": b"GET http://[ HTTP/1.1\r\nHost: x\r\n",
        "URL with a bad port": b"GET http://x:99999999/ HTTP/1.1\r\nHost: x\r\n",
        "asterisk": b"OPTIONS * HTTP/1.1\r\nHost: x\r\n",
        "authority": b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n",
        "two slashes": b"GET //v1/chatrooms HTTP/1.1\r\nHost: x\r\n",
        "only a query": b"GET ?page=1 HTTP/1.1\r\nHost: x\r\n",
        "bad escape": b"GET /v1/chatrooms/%zz%f HTTP/1.1\r\nHost: x\r\n",
        "no host": b"GET /v1/chatrooms HTTP/1.1\r\n",
        "two hosts": GET + b"Host: y\r\n",
        "host that cannot be": b"GET /v1/chatrooms HTTP/1.1\r\nHost: [\xff\r\n",
        "empty host": b"GET /v1/chatrooms HTTP/1.1\r\nHost: \r\n",
        "forwarded by nonsense": GET + b"X-Forwarded-For: ,,\xff;, \r\n",
        "HTTP/1.0": b"GET /v1/chatrooms HTTP/1.0\r\n",
        "HTTP/0.9": b"GET /v1/chatrooms\r\n",
        "HTTP/3.0": b"GET /v1/chatrooms HTTP/3.0\r\nHost: x\r\n",
        "two lengths": POST + b"Content-Length: 2\r\nContent-Length: 3\r\n",
        "negative length": POST + b"Content-Length: -1\r\n",
        "length past everything": POST + b"Content-Type: application/json\r\nContent-Length: 9999999999999999999\r\n",
        "length past 64 bits": POST + b"Content-Type: application/json\r\nContent-Length: 99999999999999999999\r\n",
        "length and chunks": POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n",
        "unknown encoding": POST + b"Transfer-Encoding: gzip\r\n",
        "folded header": GET + b"X: a\r\n b\r\n",
        "space before colon": b"GET /v1/chatrooms HTTP/1.1\r\nHost : x\r\n",
        "NUL": GET + b"X: \0\r\n",
        "bare CR": b"GET /v1/chatrooms HTTP/1.1\rHost: x\r\n",
        "16 KiB": GET + b"X: " + b"x" * 20_000 + b"\r\n",
        "many headers": GET + b"X: y\r\n" * 2000,
        "upgrade to HTTP/2": GET + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n",
        "expects nonsense": GET + b"Expect: the Spanish Inquisition\r\n",
        "bad basic": GET + b"Authorization: Basic \xff\r\n",
        "cookies": GET + b"Cookie: \xff=;;=\"\r\n",
    }  # fmt: skip
    statuses: dict[str, int] = {}
    async with unharmed(tmp_path) as subject:
        for name, head in heads.items():
            for authorised in (False, True):
                async with raw(subject.address) as connection:
                    extra = f"Authorization: {admin}\r\n".encode() if authorised and b"Basic" not in head else b""
                    await connection.send(head + extra + b"Connection: close\r\n\r\n")
                    if head.startswith(b"POST "):
                        await connection.stream.send_eof()  # where the body would be
                    answer = await connection.rest()
                    assert answer.startswith(b"HTTP/1.1 "), (name, answer)
                    statuses[name] = int(answer.split()[1])
                    assert statuses[name] < 500 or statuses[name] in (501, 505), (name, answer)
    assert statuses["whole URL"] == statuses["forwarded by nonsense"] == statuses["HTTP/1.0"] == 200
    assert statuses["16 KiB"] == 431
    assert statuses["length past everything"] == 413
    assert statuses["length past 64 bits"] == 400


def _unsigned(header: dict[str, Any], payload: dict[str, Any], signature: bytes = b"") -> str:
    parts = [json.dumps(header).encode(), json.dumps(payload).encode(), signature]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


def bad_tokens() -> dict[str, str]:
    """Return tokens of every kind that must be refused, to be sent as they are."""
    now = int(time.time())
    claims = {"sub": "mallory", "iat": now, "exp": now + 3600, "permissions": ["admin"]}
    good = token("mallory", admin=True)
    head, body, signature = good.split(".")

    def signed(**changes: Any) -> str:
        return jwt.encode({name: value for name, value in {**claims, **changes}.items() if value is not ...}, SECRET)

    huge_number = base64.urlsafe_b64encode(b'{"sub":"m","exp":' + b"9" * 5000 + b"}").rstrip(b"=").decode()
    return {
        "none": _unsigned({"alg": "none", "typ": "JWT"}, claims),
        "None": _unsigned({"alg": "None"}, claims, b"x"),
        "no algorithm": _unsigned({"typ": "JWT"}, claims, b"x"),
        "algorithm of another type": _unsigned({"alg": ["HS256"]}, claims, b"x"),
        "HS512": jwt.encode(claims, SECRET + SECRET, algorithm="HS512"),
        "HS384": jwt.encode(claims, SECRET + SECRET, algorithm="HS384"),
        "RS256 unsigned": _unsigned({"alg": "RS256"}, claims, b"x" * 256),
        "a key of its own": jwt.encode(
            claims, "x" * 40, headers={"jwk": {"kty": "oct", "k": "eHh4"}, "kid": "../../dev/null"}
        ),
        "critical extension": jwt.encode(claims, SECRET, headers={"crit": ["b64"], "b64": False}),
        "other secret": jwt.encode(claims, "another secret of at least 32 bytes !"),
        "empty secret": _unsigned({"alg": "HS256"}, claims),
        "expired": signed(exp=now - 10),
        "not yet": signed(nbf=now + 3600),
        "from the future": signed(iat=now + 3600),
        "no expiry": signed(exp=...),
        "expiry true": signed(exp=True),
        "expiry NaN": signed(exp=float("nan")),
        "no user": signed(sub=...),
        "user null": jwt.encode({**claims, "sub": "", "userId": 5}, SECRET),
        "user too long": signed(sub="x" * 300),
        "user not printable": signed(sub="a\nb"),
        "half a surrogate": signed(sub="a\ud800"),
        "payload no object": jwt.api_jws.encode(b"[]", SECRET),
        "payload no JSON": jwt.api_jws.encode(b"\xff", SECRET),
        "payload nested": jwt.api_jws.encode(b"[" * 3000, SECRET),
        "huge number": f"{head}.{huge_number}.{signature}",
        "huge number, signed": jwt.api_jws.encode(b'{"sub":"m","exp":' + b"9" * 5000 + b"}", SECRET),
        "cut": good[:-3],
        "changed": f"{head}.{body[:-2]}AA.{signature}",
        "two parts": f"{head}.{body}",
        "four parts": f"{good}.{signature}",
        "empty parts": "..",
        "garbage": "garbage",
        "not base64": "*.*.*",
        "huge": good + "A" * 9000,
    }


@pytest.fixture(scope="module")
def tokens() -> dict[str, str]:
    """Bad tokens; some of them need a while to be made."""
    return bad_tokens()


@pytest.mark.slow
async def test_bad_tokens_over_rest(tmp_path: Path, tokens: dict[str, str]) -> None:
    """401, for whatever is asked."""
    async with unharmed(tmp_path) as subject, http_client(subject.address) as http:
        for name, bad in {**tokens, "not ASCII": "\xff.\xff.\xff"}.items():
            headers = {b"Authorization": b"Bearer " + bad.encode("latin-1"), b"X-API-Key": b"\xff"}
            for method, path in (("GET", "/v1/chatrooms"), ("POST", "/v1/publish"), ("POST", "/v1/notifications/send")):
                answer = await http.request(method, path, json=PUBLICATIONS["trades"], headers=headers)
                assert_error(answer, 401, (name, path))
                assert answer.headers["WWW-Authenticate"] == "Bearer"
        others: list[dict[bytes, bytes]] = [
            {}, {b"Authorization": b"Bearer"}, {b"Authorization": b"Basic YTpi"}, {b"X-API-Key": b""}, {b"X-API-Key": b"rk_live_\xff"},
        ]  # fmt: skip
        for headers in others:
            assert_error(await http.get("/v1/chatrooms", headers=headers), 401, headers)
        async with raw(subject.address) as connection:
            head = f"GET /v1/chatrooms HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {'A' * 20_000}\r\n\r\n"
            await connection.send(head.encode())
            assert (await connection.answer())[0] == 431


@pytest.mark.slow
async def test_bad_tokens_over_websocket(tmp_path: Path, tokens: dict[str, str]) -> None:
    """`auth:error` on `live`, `unauthorized` on `channels`, and 1008 on both: at the beginning, and in place of a fresh one."""
    async with unharmed(tmp_path) as subject:
        for name, bad in {**tokens, "far too long": "A" * 60_000, "not ASCII": "é.é.é"}.items():
            for user in (None, "mallory"):
                async with live(subject.address, user) as client:
                    await client.send(type="auth", token=bad, requestId="r")
                    await client.send(type="ping")
                    code, messages = await client.closed()
                    assert code == 1008, name
                    assert [message["type"] for message in messages] == ["auth:error"], (name, messages)
                    assert messages[0]["data"]["code"] == "unauthorized", name
                    assert messages[0]["data"]["requestId"] == "r", name
        odd = {
            "empty": "",
            "escaped": "%ff%00%ED%A0%80",
            "fields": "&&=&token=x;",
            "twice": f"x&token={token('mallory')}",
        }
        for name, bad in {**tokens, **odd}.items():
            async with connect(subject.address, f"/api/ws?token={bad}") as client:
                code, messages = await client.closed()
                assert code == 1008, name
                assert [message["type"] for message in messages] == ["error"], (name, messages)
                assert messages[0]["data"]["code"] == "unauthorized", name
        async with raw(subject.address) as connection:
            await connection.send(f"GET /api/ws?token={'A' * 20_000} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert (await connection.answer())[0] == 431


@pytest.mark.slow
async def test_items_of_every_wrong_kind(tmp_path: Path) -> None:
    """Bad items of an array get an error in their place, and the good ones between them are published."""
    bad: list[Any] = [None, True, 5, 1.5, "", [], {}, [[]], {"channel": "trades"}, {"data": {}}]
    for example in PUBLICATIONS.values():
        for _, document in (*variants(example, WRONG), *without(example)):
            bad.append(json.loads(document))
    bad.append({"channel": "trades", "data": {"filling": "x" * MAX_ITEM_BYTES}})
    bad.append({"channel": "chatroom:nowhere", "data": {"userId": "u", "message": "m"}})
    async with (
        unharmed(tmp_path) as subject,
        admin_client(subject.address) as http,
        live(subject.address, "bob") as bob,
    ):
        await make_room(subject, http)
        await bob.ask(type="subscribe", channel="trades")
        good = published = refused = 0
        for begin in range(0, len(bad), 400):
            items = []
            for item in bad[begin : begin + 400]:
                items += [item, {"channel": "trades", "type": "good", "data": {"number": good}}]
                good += 1
            answer = await http.post("/v1/publish", json=items)
            assert answer.status_code == 200, answer.text
            results = answer.json()["data"]
            assert len(results) == len(items)
            for item, result in zip(items, results, strict=True):
                if "error" in result:
                    refused += 1
                    assert result["error"]["code"] in ITEM_CODES, item
                    assert result["error"]["message"], item
                    assert not (isinstance(item, dict) and item.get("type") == "good")
                else:
                    published += 1
                    assert result["offset"] > 0
            for number in range(good - len(items) // 2, good):
                while (got := await bob.receive())["type"] != "good":
                    pass
                assert got["data"]["number"] == number
        assert good == len(bad)
        assert refused > 250
        assert published > good


@pytest.mark.slow
async def test_types_and_data_that_a_dialect_might_stumble_over(tmp_path: Path) -> None:
    """Every type on every channel, with fields of every kind, to clients of all dialects: each is delivered or passed over."""
    values: list[Any] = [None, True, 5, -1.5, "", "x", [], {}, [[]], {"a": [1]}, 2**64 - 1, 1e308]
    names = (
        "userId", "message", "messageId", "title", "priority", "level", "price", "volume", "timestamp", "change", "amount",
        "ratios", "status", "offset", "type", "data", "channel",
    )  # fmt: skip
    channels = [example["channel"] for example in PUBLICATIONS.values()]
    items = [
        {"channel": channel, "type": type_, "data": dict.fromkeys(names, value)}
        for channel, type_, value in itertools.product(channels, TYPES, values)
    ]
    async with (
        unharmed(tmp_path, **{"limits.max_outbox_bytes": 64 * 1024 * 1024}) as subject,
        admin_client(subject.address) as http,
        AsyncExitStack() as stack,
    ):
        await make_room(subject, http)
        bob = await stack.enter_async_context(live(subject.address, "mallory"))
        subscriptions: dict[str, dict[str, Any]] = {
            "chatroom": {"chatroomId": "bodies"},
            "notifications": {},
            "market": {"symbols": ["BTC"]},
            "trades": {},
            "community": {"communityId": "c1"},
        }
        for name, fields in subscriptions.items():
            assert (await bob.ask(type="subscribe", channel=name, **fields))["type"] == "subscribed"
        other = await stack.enter_async_context(connect(subject.address, f"/api/ws?token={token('mallory')}"))
        for name in ("conversation:bodies", "user:mallory", "task:1"):
            assert (await other.ask(type="subscribe", data={"channel": name}))["type"] == "subscribed"
        feeds = {
            "trades": await stack.enter_async_context(connect(subject.address, "/api/v1/ws/trades")),
            "event:7": await stack.enter_async_context(connect(subject.address, "/api/v1/ws/events/7/chart")),
            "market:BTC": await stack.enter_async_context(connect(subject.address, "/api/v1/ws/assets/BTC/price")),
        }
        published = 0
        for begin in range(0, len(items), 500):
            batch = items[begin : begin + 500]
            answer = await http.post("/v1/publish", json=batch)
            assert answer.status_code == 200, answer.text
            done = [
                item["channel"] for item, result in zip(batch, answer.json()["data"], strict=True) if "offset" in result
            ]
            published += len(done)
            expected_live = sum(not one.startswith(("event", "task")) for one in done)
            expected_other = sum(one.startswith(("chatroom", "user", "task")) for one in done)
            with trio.fail_after(10):
                for _ in range(expected_live):
                    assert "offset" in await bob.receive()
                for _ in range(expected_other):
                    assert "offset" in await other.receive()
        assert published > 1000
        end = [PUBLICATIONS["trades"], PUBLICATIONS["event"], PUBLICATIONS["market"], PUBLICATIONS["task"]]
        assert (await http.post("/v1/publish", json=end)).status_code == 200
        assert (await other.receive())["data"]["status"] == "done"
        for name, kind, field in (
            ("trades", "trade", {"trade": {"amount": 1}}),
            ("event:7", "chart_update", {"ratios": [0.5, 0.5]}),
            ("market:BTC", "price_update", {"price": 1.5}),
        ):
            while True:
                got = await feeds[name].receive()
                assert got["type"] in (kind, "init"), got
                if field.items() <= got.items():
                    break
        # What is kept of it can be read again.
        for name in ("trades", "events/7/chart", "assets/BTC/price"):
            async with connect(subject.address, f"/api/v1/ws/{name}") as client:
                assert (await client.receive())["type"] in ("init", "price_update")


@pytest.mark.slow
async def test_arrays_that_are_too_large(tmp_path: Path) -> None:
    """1,001 items and 8 MiB and a byte are refused as a whole with 413; 1,000 items and 8 MiB are not."""
    async with (
        unharmed(tmp_path) as subject,
        admin_client(subject.address) as http,
        live(subject.address, "bob") as bob,
    ):
        await bob.ask(type="subscribe", channel="trades")
        item = {"channel": "trades", "data": {}}
        assert_error(await http.post("/v1/publish", json=[item] * 1001), 413)
        headers = {"Content-Type": "application/json"}
        padded = json.dumps([item]).encode().ljust(MAX_PUBLISH_BYTES)
        answer = await http.post("/v1/publish", content=padded, headers=headers)
        assert answer.status_code == 200, answer.text
        assert (await bob.receive())["offset"] == 1
        assert_error(await http.post("/v1/publish", content=padded + b" ", headers=headers), 413)
        assert_error(await http.post("/v1/publish", content=_chunks(b" " * 1024 * 1024, 9), headers=headers), 413)
        answer = await http.post("/v1/publish", json=[item] * 1000)
        assert [one["offset"] for one in answer.json()["data"]] == list(range(2, 1002))
        for offset in range(2, 1002):
            assert (await bob.receive())["offset"] == offset
        assert (await http.post("/v1/publish", json=[])).status_code in (200, 400)
        large = {"channel": "trades", "data": {"x": "x" * MAX_ITEM_BYTES}}
        assert_error(await http.post("/v1/publish", json=large), 413)
        await bob.nothing()


def _trade(number: int) -> bytes:
    return json.dumps({"channel": "trades", "data": {"number": number}}).encode()


@pytest.mark.slow
async def test_lines_that_are_broken(tmp_path: Path) -> None:
    """Of broken lines each is named with its number; all others are published, in order."""
    fitting = b'{"channel":"trades","data":{"number":2,"x":"' + b"x" * MAX_ITEM_BYTES
    fitting = fitting[: MAX_ITEM_BYTES - 3] + b'"}}'
    assert len(fitting) == MAX_ITEM_BYTES
    lines = [
        _trade(0), b"", b"{", b"\xff\xfe", b"[]", b"null", _trade(1) + b"\r", _trade(9)[:-1], b"  ", _trade(9) * 2,
        b'{"channel":"trades","data":{"x":NaN}}', b'{"channel":"nowhere:1","data":{}}', fitting, fitting[:-3] + b'x"}}', b"x" * 300_000,
        _trade(3), b'{"channel":"trades","data":' + b"[" * 5000, b"\0", _trade(4),
    ]  # fmt: skip
    bad = [3, 4, 5, 6, 8, 10, 11, 12, 14, 15, 17, 18]
    async with (
        unharmed(tmp_path) as subject,
        admin_client(subject.address) as http,
        live(subject.address, "bob") as bob,
    ):
        await bob.ask(type="subscribe", channel="trades")
        document = b"\n".join(lines)
        headers = {"Content-Type": "application/x-ndjson"}
        for size in (len(document), 7_001, 997):
            pieces = [document[begin : begin + size] for begin in range(0, len(document), size)]
            answer = await http.post("/v1/publish", content=_pieces(pieces), headers=headers)
            assert answer.status_code == 200, answer.text
            report = answer.json()["data"]
            assert (report["published"], report["failed"]) == (5, len(bad)), report
            assert [error["line"] for error in report["errors"]] == bad
            codes = {error["line"]: error["code"] for error in report["errors"]}
            assert (codes[14], codes[15], codes[12]) == ("too_large", "too_large", "unknown_channel")
            assert [(await bob.receive())["data"]["number"] for _ in range(5)] == [0, 1, 2, 3, 4]
        answer = await http.post("/v1/publish", content=b"{\n" * 5000, headers=headers)
        report = answer.json()["data"]
        assert (report["published"], report["failed"], len(report["errors"])) == (0, 5000, 100)
        answer = await http.post("/v1/publish", content=b"", headers=headers)
        assert answer.json()["data"] == {"published": 0, "failed": 0, "errors": []}
        await bob.nothing()


async def _pieces(pieces: list[bytes]) -> Any:
    for piece in pieces:
        yield piece


@pytest.mark.slow(0.3)
@pytest.mark.parametrize(
    ("chunked", "end"), [(False, "eof"), (False, "reset"), (True, "eof"), (True, "reset"), (True, "garbage")]
)
async def test_lines_that_are_cut_off(tmp_path: Path, chunked: bool, end: str) -> None:
    """What came whole is published, and what did not is not."""
    lines = b"".join(_trade(number) + b"\n" for number in range(20))
    cut = _trade(99)[:-5]
    framing = "Transfer-Encoding: chunked" if chunked else "Content-Length: 100000"
    head = (
        f"POST /v1/publish HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token('b', admin=True)}\r\n"
        f"Content-Type: application/x-ndjson\r\n{framing}\r\n\r\n"
    )
    async with unharmed(tmp_path) as subject, live(subject.address, "bob") as bob:
        await bob.ask(type="subscribe", channel="trades")
        async with raw(subject.address) as connection:
            body = lines + cut
            await connection.send(head.encode() + (f"{len(body):x}\r\n".encode() + body + b"\r\n" if chunked else body))
            # Published as they arrive: while the request goes on.
            for number in range(20):
                assert (await bob.receive())["data"]["number"] == number
            if end == "garbage":
                await connection.send(b"this is no chunk\r\n\r\n")
                await connection.rest()
            elif end == "eof":
                await connection.stream.send_eof()
                await connection.rest()
            else:
                connection.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await bob.silent()


@pytest.mark.slow
async def test_arrays_that_are_cut_off(tmp_path: Path) -> None:
    """Half an array is none: nothing of it is published."""
    body = json.dumps([{"channel": "trades", "data": {}}] * 10).encode()
    head = (
        f"POST /v1/publish HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token('b', admin=True)}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    async with unharmed(tmp_path) as subject, live(subject.address, "bob") as bob:
        await bob.ask(type="subscribe", channel="trades")
        for reset in (False, True):
            async with raw(subject.address) as connection:
                await connection.send(head.encode() + body[:-1])
                if reset:
                    connection.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                else:
                    await connection.stream.send_eof()
                    await connection.rest()
        await bob.silent()
