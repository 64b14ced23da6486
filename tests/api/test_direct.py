"""Requests that are answered before Quart are answered as Quart answers them, to the byte."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from relay.access.publishing import MAX_ITEM_BYTES
from relay.api.draining import STALL_TIMEOUT
from relay.dialects.live.dialect import open_live
from relay.ground.errors import Code, RequestError
from relay.server.server import Server
from relay.transports.http import no_routes
from tests.api.probe import create_key
from tests.api.raw import RawConnection, raw_connection
from tests.kept import recent
from tests.running import bearer, config_for, running

ITEM = json.dumps({"channel": "trades", "data": {"amount": 1}}).encode()
PAGE = "https://app.example.org"
LIMITS = {
    "server.allowed_origins": [PAGE],
    "server.trusted_proxies": ["127.0.0.1"],
    "limits.auth_failures_per_minute": 2,
    "limits.max_publish_items": 5,
    "limits.max_publish_bytes": 300_000,
}

VARYING = [
    (rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", b"ID"),
    (rb'"timestamp":"[^"]*"', b"TIMESTAMP"),
    (rb"date: [^\r]*", b"DATE"),
    (rb'"offset":[0-9]+', b"OFFSET"),
    (rb'"epoch":"[^"]*"', b"EPOCH"),
]
"""What differs from one answer to the next, however it was made."""


@asynccontextmanager
async def server_with_key(folder: Path, **overrides: Any) -> AsyncIterator[tuple[Server, str, str]]:
    """Run a server; yields it, its address and the secret of a key that may publish."""
    with trio.fail_after(60):
        async with running(config_for(folder, {**LIMITS, **overrides}), dialects=[open_live]) as (server, address):
            _, secret = await create_key(folder, "publish")
            yield server, address, secret


def post(body: bytes, *headers: str, version: str = "1.1", json_type: bool = True) -> bytes:
    """Return a request to publish."""
    lines = [f"POST /v1/publish HTTP/{version}", "Host: relay.example.org", *headers]
    if json_type:
        lines.append("Content-Type: application/json")
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode("latin-1") + body


def requests(secret: str) -> dict[str, bytes]:
    """Return requests of every kind that a direct route takes."""
    key = f"X-API-Key: {secret}"
    admin = f"Authorization: {bearer('root', admin=True)['Authorization']}"
    user = f"Authorization: {bearer('alice')['Authorization']}"
    return {
        "one": post(ITEM, key),
        "one, by an admin": post(ITEM, admin),
        "one of a page": post(ITEM, key, f"Origin: {PAGE}"),
        "one of another page": post(ITEM, key, "Origin: https://elsewhere.example.org"),
        "the last on its connection": post(ITEM, key, "Connection: close"),
        "one in HTTP/1.0": post(ITEM, key, version="1.0"),
        "one with a query": post(ITEM, key).replace(b"publish HTTP", b"publish?x=1 HTTP"),
        "one that asks before": post(ITEM, key, "Expect: 100-Continue"),
        "one that expects nonsense": post(ITEM, key, "Expect: a miracle"),
        "one in HTTP/1.0 that asks before": post(ITEM, key, "Expect: 100-continue", version="1.0"),
        "a type in other words": post(ITEM, key, 'content-type: Application/JSON; charset="utf-8"', json_type=False),
        "two keys": post(ITEM, key, "X-API-Key: wrong"),
        "two types": post(ITEM, key, "Content-Type: text/plain"),
        "durable": post(b'{"channel":"community:c","data":{}}', key),
        "an array": post(b"[%b,%b]" % (ITEM, ITEM), key),
        "an array with bad items": post(b'[%b,7,{"channel":"x:1","data":{}}]' % ITEM, key),
        "an empty array": post(b"[]", key),
        "a large array": post(b"[%b]" % b",".join([b'{"channel":"trades","data":{"x":"%b"}}' % (b"x" * 50_000)] * 5), key),
        "too many items": post(b"[%b]" % b",".join([ITEM] * 6), key),
        "an item that is too large": post(b'{"channel":"trades","data":{"x":"%b"}}' % (b"x" * MAX_ITEM_BYTES), key),
        "no JSON": post(b"{", key),
        "no object": post(b"7", key),
        "no body": post(b"", key),
        "wrong fields": post(b'{"channel":7,"type":8,"more":9}', key),
        "an unknown channel": post(b'{"channel":"nothing:1","data":{}}', key),
        "a room that there is not": post(b'{"channel":"chatroom:none","data":{"userId":"a","message":"b"}}', key),
        "no type": post(ITEM, key, json_type=False),
        "another type": post(ITEM, key, "Content-Type: text/plain", json_type=False),
        "no credentials": post(ITEM),
        "a wrong key": post(ITEM, "X-API-Key: wrong"),
        "a key that is not ASCII": post(ITEM, "X-API-Key: \xff"),
        "a wrong token": post(ITEM, "Authorization: Bearer x.y.z", f"Origin: {PAGE}"),
        "another scheme": post(ITEM, "Authorization: Basic eDp5"),
        "a user": post(ITEM, user),
        "a user from a proxy": post(ITEM, user, "X-Forwarded-For: 203.0.113.9, 203.0.113.10"),
    }  # fmt: skip


async def answers_to(address: str, data: bytes) -> bytes:
    """Send a request and one that ends the connection behind it; returns everything that is answered."""
    async with raw_connection(address) as connection:
        await connection.send(data)
        if b"Connection: close" not in data and b"HTTP/1.0" not in data:
            await connection.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return await connection.ended()


def plain(answer: bytes) -> bytes:
    """Return an answer without what always differs."""
    for pattern, word in VARYING:
        answer = re.sub(pattern, word, answer)
    return re.sub(rb"content-length: [0-9]+", b"LENGTH", answer) if b"OFFSET" in answer else answer


def log_of(caplog: pytest.LogCaptureFixture) -> list[Mapping[str, Any]]:
    """Return what was logged of HTTP since the last time."""
    records = [
        (record.getMessage(), record.levelname, {**vars(record)["fields"], "errorId": "ID"})
        for record in caplog.records
        if record.name == "relay.http"
    ]
    caplog.clear()
    return [{"message": message, "level": level, **fields} for message, level, fields in records]


@pytest.mark.slow
async def test_both_ways_answer_the_same(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The answer, what is counted and what is logged."""
    caplog.set_level(logging.DEBUG, logger="relay")
    async with server_with_key(tmp_path, **{"limits.auth_failures_per_minute": 1000}) as (server, address, secret):
        direct, responses = server.http.find_route, server.core.metrics.responses
        for name, data in requests(secret).items():
            seen = []
            for find_route in (direct, no_routes):
                server.http.find_route = find_route
                before, log = responses.copy(), log_of(caplog)
                answer = plain(await answers_to(address, data))
                log = log_of(caplog)
                seen.append((answer, responses - before, log))
            assert seen[0] == seen[1], name
            assert seen[0][0].startswith(b"HTTP/1.1 "), name


async def test_failures_are_limited_together(tmp_path: Path) -> None:
    """The third failure of an address within a minute has to wait, however the first two came."""
    async with server_with_key(tmp_path) as (server, address, secret):
        direct = server.http.find_route
        statuses = []
        for find_route in (direct, no_routes, direct, no_routes):
            server.http.find_route = find_route
            answer = await answers_to(address, post(ITEM, "X-API-Key: wrong"))
            statuses.append(answer[9:12])
        assert b"\r\nretry-after: " in answer
        server.http.find_route = direct
        assert (await answers_to(address, post(ITEM, f"X-API-Key: {secret}"))).startswith(b"HTTP/1.1 200 ")
    assert statuses == [b"401", b"401", b"429", b"429"]


@pytest.mark.parametrize("error", [RuntimeError("secret"), RequestError(Code.UNAVAILABLE, "Not now.", retry_after=7)])
async def test_a_defect_and_a_store_that_cannot_are_answered_the_same(
    tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="relay")

    def fail(*_: object, **__: object) -> None:
        raise error

    async with server_with_key(tmp_path) as (server, address, secret):
        monkeypatch.setattr(server.core.publishing, "draft", fail)
        seen = []
        for find_route in (server.http.find_route, no_routes):
            server.http.find_route = find_route
            log_of(caplog)
            answer = plain(await answers_to(address, post(ITEM, f"X-API-Key: {secret}")))
            seen.append((answer, log_of(caplog)))
    assert seen[0] == seen[1]
    assert seen[0][0][9:12] in (b"500", b"503")
    assert b"secret" not in seen[0][0]


async def test_a_request_that_a_route_takes_does_not_reach_quart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the comparison above would compare Quart with itself."""
    async with connected(tmp_path) as (server, connection, key):
        monkeypatch.setattr(server.http, "asgi", None)
        await connection.send(post(ITEM, key))
        assert (await connection.answer()).status == 200


# -- one connection ----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def connected(folder: Path, **overrides: Any) -> AsyncIterator[tuple[Server, RawConnection, str]]:
    """Run a server and connect; yields the header with the key, too."""
    async with server_with_key(folder, **overrides) as (server, address, secret), raw_connection(address) as connection:
        yield server, connection, f"X-API-Key: {secret}"


async def test_requests_of_both_ways_take_turns_on_a_connection(tmp_path: Path) -> None:
    chunked = (
        b"POST /v1/publish HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n%b\r\n\r\n"
        b"%x\r\n%b\r\n0\r\n\r\n"
    )
    async with connected(tmp_path) as (_, connection, key):
        for number in range(0, 30, 3):
            await connection.send(post(ITEM, key))
            assert (await connection.answer()).json["data"][0]["offset"] == number + 1
            await connection.send(chunked % (key.encode(), len(ITEM), ITEM))
            assert (await connection.answer()).json["data"][0]["offset"] == number + 2
            await connection.head("GET", "/healthz")
            assert (await connection.answer()).status == 200
            lines = [key, "Content-Type: application/x-ndjson", f"Content-Length: {len(ITEM)}"]
            await connection.head("POST", "/v1/publish", *lines)
            await connection.send(ITEM)
            assert (await connection.answer()).json["data"]["published"] == 1


@pytest.mark.slow
async def test_requests_may_be_sent_ahead(tmp_path: Path) -> None:
    """However many come at once, and whichever way each goes, the answers come in order."""
    get = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    chunked = b"POST /v1/publish HTTP/1.1\r\nHost: x\r\nX-API-Key: no\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"
    async with (
        connected(tmp_path, **{"limits.auth_failures_per_minute": 10_000}) as (_, connection, key),
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(connection.send, (post(ITEM, key) + get + post(ITEM, key) + chunked) * 300)
        for number in range(300):
            assert (await connection.answer()).json["data"][0]["offset"] == 2 * number + 1
            assert (await connection.answer()).json == {"status": "ok"}
            assert (await connection.answer()).json["data"][0]["offset"] == 2 * number + 2
            assert (await connection.answer()).status == 401


async def test_a_request_may_come_in_any_pieces(tmp_path: Path) -> None:
    async with connected(tmp_path) as (_, connection, key):
        request = post(ITEM, key) + post(b"[%b]" % ITEM, key)
        for byte in request:
            await connection.send(bytes([byte]))
            await trio.lowlevel.checkpoint()
        assert [(await connection.answer()).json["data"][0]["offset"] for _ in range(2)] == [1, 2]


async def test_a_body_is_asked_for(tmp_path: Path) -> None:
    async with connected(tmp_path) as (_, connection, key):
        lines = [key, "Content-Type: application/json", f"Content-Length: {len(ITEM)}", "Expect: 100-continue"]
        await connection.head("POST", "/v1/publish", *lines)
        assert (await connection.answer()).status == 100
        await connection.send(ITEM)
        assert (await connection.answer()).status == 200


async def test_a_refusal_leaves_the_connection_where_its_body_comes(tmp_path: Path) -> None:
    async with connected(tmp_path) as (_, connection, key):
        await connection.head("POST", "/v1/publish", f"Content-Length: {len(ITEM)}")
        assert (await connection.answer()).status == 401
        await connection.send(ITEM + post(ITEM, key))
        assert (await connection.answer()).status == 200


@pytest.mark.slow
async def test_a_refusal_ends_the_connection_where_its_body_does_not_come(tmp_path: Path) -> None:
    async with connected(tmp_path) as (_, connection, _):
        await connection.head("POST", "/v1/publish", f"Content-Length: {len(ITEM)}")
        assert (await connection.answer()).status == 401
        assert await connection.ended() == b""


async def test_a_body_that_is_too_large_is_refused_before_it_comes(tmp_path: Path) -> None:
    async with connected(tmp_path) as (_, connection, key):
        await connection.head("POST", "/v1/publish", key, "Content-Type: application/json", "Content-Length: 300001")
        answer = await connection.answer()
    assert (answer.status, answer.json["message"]) == (413, "The body may have at most 300000 bytes.")


async def test_a_body_that_does_not_end_publishes_nothing(tmp_path: Path) -> None:
    async with server_with_key(tmp_path) as (server, address, secret):
        async with raw_connection(address) as connection:
            await connection.send(post(ITEM, f"X-API-Key: {secret}")[:-1])
            await connection.stream.send_eof()
            answer = await connection.answer()
        position, _ = await recent(server.broker, server.core.namespaces.parse("trades"))
    assert (answer.status, answer.json["message"]) == (400, "The connection ended before the body did.")
    assert position.offset == 0


@pytest.mark.slow
async def test_a_body_that_stalls_is_let_go(tmp_path: Path) -> None:
    async with connected(tmp_path) as (server, connection, key):
        server.http.body_timeout = 0.2
        await connection.send(post(ITEM, key)[:-1])
        answer = await connection.answer()
        assert (answer.status, answer.json["message"]) == (400, "The body did not come in time.")
        assert await connection.ended() == b""


@pytest.mark.slow
async def test_a_later_head_that_stalls_is_let_go(tmp_path: Path) -> None:
    async with connected(tmp_path) as (server, connection, key):
        server.http.head_timeout = 0.2
        await connection.send(post(ITEM, key) + b"POST /v1/pub")
        assert (await connection.answer()).status == 200
        assert (await connection.answer()).status == 408
        assert await connection.ended() == b""


@pytest.mark.slow
async def test_a_connection_without_requests_is_let_go(tmp_path: Path) -> None:
    async with connected(tmp_path) as (server, connection, key):
        server.http.keep_alive_timeout = 0.2
        await connection.send(post(ITEM, key))
        assert (await connection.answer()).status == 200
        assert await connection.ended() == b""


# -- the end of the server ---------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_drain_closes_kept_connections_and_lets_a_request_finish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connected(tmp_path) as (server, busy, key), raw_connection(_address(server)) as idle:
        await idle.send(post(ITEM, key))
        await idle.answer()
        publish = server.core.publishing.publish_many

        async def slowly(drafts: Any) -> Any:
            await trio.sleep(0.5)
            return await publish(drafts)

        monkeypatch.setattr(server.core.publishing, "publish_many", slowly)
        await busy.send(post(ITEM, key))
        await trio.sleep(0.1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.drain)
            begun = trio.current_time()
            assert await idle.ended() == b""
            assert trio.current_time() - begun < 0.3
            assert (await busy.answer()).json["data"][0]["offset"] == 2
            assert await busy.ended() == b""


@pytest.mark.slow
async def test_a_drain_waits_for_a_body_no_longer_than_it_comes(tmp_path: Path) -> None:
    async with connected(tmp_path) as (server, connection, key):
        request = post(ITEM, key)
        await connection.send(request[:-5])
        await trio.sleep(0.1)
        server.refuse_new_work()
        begun = trio.current_time()
        await trio.sleep(STALL_TIMEOUT * 0.6)
        await connection.send(request[-5:-4])
        answer = await connection.answer()
        assert STALL_TIMEOUT * 1.5 < trio.current_time() - begun < STALL_TIMEOUT * 3
    assert (answer.status, answer.json["message"]) == (503, "The server is shutting down.")


def _address(server: Server) -> str:
    host, port = server.addresses[0]
    return f"{host}:{port}"
