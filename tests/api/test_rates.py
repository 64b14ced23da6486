"""How much one address or user may ask of the server: what is counted together, and what those who asked too much are told."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from trio_websocket import ConnectionClosed

from relay.admission import limits
from relay.dialects.socketio.namespaces import MAX_REFUSALS
from tests.api.probe import create_key
from tests.api.raw import raw_connection
from tests.clients import connect
from tests.http_client import http_client
from tests.running import bearer, config_for, running, token

POLLING = "/socket.io/?EIO=4&transport=polling"
UPGRADE = (
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
)
WRONG = {"Authorization": "Bearer wrong"}


@asynccontextmanager
async def limited(folder: Path, limits: Mapping[str, int], **more: Any) -> AsyncIterator[tuple[str, httpx.AsyncClient]]:
    """Run a server with these limits; yields its address and a client."""
    overrides = {f"limits.{name}": value for name, value in limits.items()}
    with trio.fail_after(30):
        async with (
            running(config_for(folder, {**overrides, **more})) as (_, address),
            http_client(address) as http,
        ):
            yield address, http


async def rooms(http: httpx.AsyncClient, headers: Mapping[str, str], came_by: str | None = None) -> httpx.Response:
    """Ask for the rooms; `came_by` is X-Forwarded-For."""
    named = {} if came_by is None else {"X-Forwarded-For": came_by}
    return await http.get("/v1/chatrooms", headers={**headers, **named})


def is_told_to_wait(answer: httpx.Response) -> bool:
    """Tell whether an answer is a 429 that says for how long, in the shape of errors."""
    if answer.status_code != 429:
        return False
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert answer.json()["status"] == 429
    return True


# -- failed authentications --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [WRONG, {}, {"X-API-Key": "rk_live_wrong"}, bearer("alice", expires_in=-1.0)])
async def test_whoever_fails_too_often_has_to_wait_and_who_does_not_passes(
    tmp_path: Path, headers: dict[str, str]
) -> None:
    async with limited(tmp_path, {"auth_failures_per_minute": 2}) as (_, http):
        _, secret = await create_key(tmp_path, "admin")
        assert [(await rooms(http, headers)).status_code for _ in range(2)] == [401] * 2
        for _ in range(3):
            assert is_told_to_wait(await rooms(http, headers))
            assert (await rooms(http, bearer("alice"))).status_code == 200
            assert (await rooms(http, {"X-API-Key": secret})).status_code == 200
        assert (await rooms(http, headers, "203.0.113.9")).status_code == 401, "another address"
        publish = await http.post("/v1/publish", json={}, headers=WRONG)
        assert is_told_to_wait(publish), "all routes together"


async def test_failures_are_counted_over_all_dialects_together(tmp_path: Path) -> None:
    async with limited(tmp_path, {"auth_failures_per_minute": 3}) as (address, http):
        async with connect(address, "/v1/live") as client:
            await client.send(type="auth", token="wrong")
            assert [frame["data"]["code"] for frame in (await client.closed())[1]] == ["unauthorized"]
        async with connect(address, "/api/ws?token=wrong") as client:
            assert [frame["data"]["code"] for frame in (await client.closed())[1]] == ["unauthorized"]
        async with connect(address, "/socket.io/?EIO=4&transport=websocket") as client:
            await client.connection.get_message()
            await client.connection.send_message('40/api-ws,{"apiKey":"wrong"}')
            assert "Authentication failed" in str(await client.connection.get_message())
        assert is_told_to_wait(await rooms(http, WRONG))
        async with connect(address, "/v1/live") as client:
            await client.send(type="auth", token="wrong")
            code, [frame] = await client.closed()
            assert (code, frame["type"], frame["data"]["code"]) == (1008, "auth:error", "rate_limited")
            assert 1 <= frame["data"]["retryAfter"] <= 60
        async with connect(address, "/v1/live") as client:
            assert (await client.ask(type="auth", token=token("alice")))["type"] == "auth:success"
        async with connect(address, "/api/ws?token=wrong") as client:
            code, [frame] = await client.closed()
            assert (code, frame["data"]["code"]) == (1008, "invalid_request")


async def test_a_socket_io_session_cannot_try_one_key_after_the_other(tmp_path: Path) -> None:
    async with (
        limited(tmp_path, {}) as (address, _),
        connect(address, "/socket.io/?EIO=4&transport=websocket") as client,
    ):
        await client.connection.get_message()
        for number in range(MAX_REFUSALS + 5):
            await client.connection.send_message(f'40/api-ws,{{"apiKey":"rk_live_{number}"}}')
        answers = []
        with pytest.raises(ConnectionClosed):
            while True:
                answers.append(str(await client.connection.get_message()))
        assert answers == ['44/api-ws,{"message":"Authentication failed"}'] * MAX_REFUSALS


async def test_what_is_refused_for_another_reason_is_no_failure(tmp_path: Path) -> None:
    async with limited(tmp_path, {"auth_failures_per_minute": 1}) as (_, http):
        for _ in range(3):
            assert (await http.post("/v1/publish", json={}, headers=bearer("alice"))).status_code == 403
            assert (await http.get("/v1/chatrooms/none", headers=bearer("alice"))).status_code == 404
        assert (await rooms(http, WRONG)).status_code == 401


# -- whose address it is -----------------------------------------------------------------------------------------------

SAME = {
    "spoofed in front": ("203.0.113.9", "198.51.100.1, 203.0.113.9", "x, , 203.0.113.9", "127.0.0.1, 203.0.113.9"),
    "through two proxies": ("203.0.113.9", "203.0.113.9, 127.0.0.1", "8.8.8.8, 203.0.113.9 , ::1,127.0.0.1"),
    "with its port": ("203.0.113.9", "203.0.113.9:1234", "203.0.113.9:4321"),
    "one network of IPv6": ("2001:db8::1", "2001:db8::2", "[2001:db8:0:0:ffff::9]:443", "::1, 2001:DB8::3"),
    "IPv4 in IPv6": ("203.0.113.9", "::ffff:203.0.113.9"),
    "nothing that is an address": (
        "",
        "unknown",
        "_hidden",
        "203.0.113.999",
        "203.0.113.9/8",
        "a" * 5000,
        "::1%eth0",
        "-1",
    ),
    "garbage behind an address": ("127.0.0.1", "203.0.113.9, garbage", "198.51.100.7, ,"),
}
"""Values of X-Forwarded-For, from a trusted proxy on this machine, that are one client."""


@pytest.mark.parametrize("name", SAME)
async def test_clients_are_told_apart_by_the_last_address_that_no_trusted_proxy_has(tmp_path: Path, name: str) -> None:
    async with limited(tmp_path, {"auth_failures_per_minute": 1}) as (_, http):
        assert (await rooms(http, WRONG, SAME[name][0])).status_code == 401
        for came_by in SAME[name]:
            assert is_told_to_wait(await rooms(http, WRONG, came_by)), came_by
        for came_by in ("192.0.2.1", "2001:db8:0:1::1", f"{SAME[name][0]}, 192.0.2.2"):
            assert (await rooms(http, WRONG, came_by)).status_code == 401, came_by


async def test_several_headers_are_one(tmp_path: Path) -> None:
    async with limited(tmp_path, {"auth_failures_per_minute": 1}) as (address, _):
        for first, expected in (("198.51.100.1", 401), ("198.51.100.2", 429)):
            async with raw_connection(address) as raw:
                await raw.head("GET", "/v1/chatrooms", f"X-Forwarded-For: {first}", "X-Forwarded-For: 203.0.113.9")
                assert (await raw.answer()).status == expected


async def test_nobody_else_is_believed(tmp_path: Path) -> None:
    """Whoever comes past the proxies names addresses as it likes, and is one client all the same."""
    async with limited(
        tmp_path,
        {"auth_failures_per_minute": 2, "handshakes_per_minute": 2},
        **{"server.trusted_proxies": ["10.0.0.0/8"]},
    ) as (_, http):
        told = [(await rooms(http, WRONG, f"203.0.113.{number}")).status_code for number in range(4)]
        assert told == [401, 401, 429, 429]
        opened = [
            (await http.get(POLLING, headers={"X-Forwarded-For": f"203.0.113.{number}"})).status_code
            for number in range(3)
        ]
        assert opened == [200, 200, 429]


# -- requests of a user ------------------------------------------------------------------------------------------------


async def test_a_user_makes_so_many_requests_and_backends_as_many_as_they_like(tmp_path: Path) -> None:
    async with limited(tmp_path, {"requests_per_minute": 3}) as (_, http):
        _, secret = await create_key(tmp_path, "admin", user_id="alice")
        _, publishing = await create_key(tmp_path, "publish", user_id="alice")
        assert [(await rooms(http, bearer("alice"))).status_code for _ in range(3)] == [200] * 3
        assert is_told_to_wait(await rooms(http, bearer("alice")))
        assert is_told_to_wait(await http.get("/v1/notifications", headers=bearer("alice")))
        assert (await rooms(http, bearer("bob"))).status_code == 200
        for headers in ({"X-API-Key": secret}, bearer("alice", admin=True)):
            assert [(await rooms(http, headers)).status_code for _ in range(5)] == [200] * 5
        item = {"channel": "market:BTC", "data": {"price": 1}}
        for _ in range(5):
            assert (await http.post("/v1/publish", json=item, headers={"X-API-Key": publishing})).status_code == 200


async def test_an_address_makes_some_times_as_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ADDRESS_FACTOR", 2)
    async with limited(tmp_path, {"requests_per_minute": 1}) as (_, http):
        users = [bearer(f"user{number}") for number in range(4)]
        told = [(await rooms(http, headers)).status_code for headers in users]
        assert told == [200] * 2 + [429] * 2
        assert (await rooms(http, bearer("another"), "203.0.113.9")).status_code == 200


@pytest.mark.slow
async def test_who_waited_as_long_as_it_was_told_passes(tmp_path: Path) -> None:
    async with limited(tmp_path, {"requests_per_minute": 60}) as (_, http):
        while (answer := await rooms(http, bearer("alice"))).status_code == 200:
            pass
        assert is_told_to_wait(answer)
        await trio.sleep(int(answer.headers["retry-after"]))
        assert (await rooms(http, bearer("alice"))).status_code == 200


# -- handshakes --------------------------------------------------------------------------------------------------------


async def test_handshakes_of_both_transports_are_counted_together(tmp_path: Path) -> None:
    async with limited(tmp_path, {"handshakes_per_minute": 3}) as (address, http):
        first = await http.get(POLLING)
        sid = json.loads(first.text[1:])["sid"]
        assert (await http.get(POLLING)).status_code == 200
        async with connect(address, "/v1/live") as client:
            assert (await client.ask(type="ping"))["type"] == "pong"
        refused = await http.get(POLLING)
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert refused.headers["access-control-allow-origin"] == "*"
        async with raw_connection(address) as raw:
            await raw.head("GET", "/v1/live", *UPGRADE)
            answer = await raw.answer()
            assert answer.status == 429
            assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert (await http.post(f"{POLLING}&sid={sid}", content="40/api-ws,{}")).status_code == 200, (
            "it has begun already"
        )
        other = await http.get(POLLING, headers={"X-Forwarded-For": "203.0.113.9"})
        assert other.status_code == 200
