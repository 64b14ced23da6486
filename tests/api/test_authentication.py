"""Who makes a request is who its token names, else who its API key stands for; and what that one may do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from quart import Blueprint, Request, Response, request

from relay.api.app import success
from relay.api.authentication import admin_of, caller_of, principal_of, publisher_of, user_of, while_valid
from relay.auth import api_keys as keys
from relay.core import Core
from relay.model.principal import Principal
from tests.api.probe import create_key, revoke_key, serving
from tests.http_client import HttpConnection, http_connection
from tests.running import bearer, token


async def publisher(core: Core, request: Request) -> Principal:
    """Return who may publish."""
    return await publisher_of(core, caller_of(core, request))


CHECKS: dict[str, Callable[[Core, Request], Awaitable[Principal]]] = {
    "anyone": principal_of,
    "user": user_of,
    "admin": admin_of,
    "publisher": publisher,
}


def add(routes: Blueprint, core: Core) -> None:
    """Add a route for each check, and one that lasts as long as its credentials."""

    @routes.get("/who/<check>")
    async def who(check: str) -> Response:
        principal = await CHECKS[check](core, request)
        return success({"user": principal.user_id, "admin": principal.is_admin, "key": principal.key_id})

    @routes.get("/last")
    async def last() -> Response:
        with while_valid(core, await principal_of(core, request)):
            await trio.sleep_forever()
        raise AssertionError("it must not end otherwise")

    @routes.get("/brief")
    async def brief() -> Response:
        with while_valid(core, await principal_of(core, request)):
            await trio.lowlevel.checkpoint()
        return success(None)


async def ask(address: str, headers: dict[str, str], check: str = "anyone") -> tuple[int, Any]:
    """Ask who one is, as far as that check cares."""
    async with http_connection(address, headers) as connection:
        return await connection.request("GET", f"/who/{check}")


async def test_a_token_says_who_asks_and_its_names_are_kept(tmp_path: Path) -> None:
    with trio.fail_after(20):
        async with serving(tmp_path, add) as (server, address):
            headers = bearer("alice", first_name="Alice", last_name="A")
            status, body = await ask(address, headers)
            profiles = await server.core.auth.users.profiles(["alice"])
    assert (status, body["data"]) == (200, {"user": "alice", "admin": False, "key": None})
    assert (profiles["alice"].first_name, profiles["alice"].last_name) == ("Alice", "A")


async def test_an_api_key_says_who_asks(tmp_path: Path) -> None:
    with trio.fail_after(20):
        async with serving(tmp_path, add) as (_, address):
            key, secret = await create_key(tmp_path, "connect", user_id="bob")
            status, body = await ask(address, {"X-API-Key": secret})
    assert (status, body["data"]) == (200, {"user": "bob", "admin": False, "key": key.id})


async def test_beside_a_token_a_key_counts_for_nothing(tmp_path: Path) -> None:
    with trio.fail_after(20):
        async with serving(tmp_path, add) as (_, address):
            _, secret = await create_key(tmp_path, "admin", user_id="bob")
            _, body = await ask(address, {**bearer("alice"), "X-API-Key": secret})
            assert body["data"] == {"user": "alice", "admin": False, "key": None}
            _, body = await ask(address, {**bearer("alice"), "X-API-Key": "wrong"})
            assert body["data"]["user"] == "alice"
            status, _ = await ask(address, {"Authorization": "Bearer wrong", "X-API-Key": secret})
            assert status == 401


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Basic YTpi"},
        {"Authorization": "bearer x y"},
        {"X-API-Key": ""},
        {"X-API-Key": "rk_live_none"},
        {"X-API-Key": "x" * 10_000},
    ],
)
async def test_without_valid_credentials_nobody_asks(tmp_path: Path, headers: dict[str, str]) -> None:
    with trio.fail_after(20):
        async with serving(tmp_path, add) as (_, address):
            status, body = await ask(address, headers)
    assert status == 401
    assert body["status"] == 401


async def test_an_expired_token_is_refused(tmp_path: Path) -> None:
    with trio.fail_after(20):
        async with serving(tmp_path, add) as (_, address):
            status, body = await ask(address, bearer("alice", expires_in=-1.0))
    assert (status, body["message"]) == (401, "The token has expired.")


async def test_the_scheme_is_read_in_any_case_and_another_one_leaves_the_key(tmp_path: Path) -> None:
    with trio.fail_after(20):
        async with serving(tmp_path, add) as (_, address):
            _, secret = await create_key(tmp_path, "connect", user_id="bob")
            status, _ = await ask(address, {"Authorization": f"BEARER {token('alice')}"})
            assert status == 200
            _, body = await ask(address, {"Authorization": "Basic YTpi", "X-API-Key": secret})
            assert body["data"]["user"] == "bob"


async def test_what_each_may_do(tmp_path: Path) -> None:
    with trio.fail_after(20):
        async with serving(tmp_path, add) as (_, address):
            who = {
                "user": bearer("alice"),
                "admin": bearer("root", admin=True),
                **{
                    f"key {scope}": {"X-API-Key": (await create_key(tmp_path, scope))[1]}
                    for scope in ("connect", "publish", "admin")
                },
            }
            allowed = {
                check: {name for name, headers in who.items() if (await ask(address, headers, check))[0] == 200}
                for check in CHECKS
            }
            status, _ = await ask(address, who["key connect"], "user")
    assert allowed == {
        "anyone": set(who),
        "user": {"user", "admin", "key admin"},
        "admin": {"admin", "key admin"},
        "publisher": {"admin", "key publish", "key admin"},
    }
    assert status == 403, "who is known, but may not, is told so"


async def last(connection: HttpConnection) -> int:
    """Make the request that lasts, and return the status that it ends with."""
    status, _ = await connection.request("GET", "/last")
    return status


@pytest.mark.slow
async def test_a_request_that_lasts_ends_with_its_token(tmp_path: Path) -> None:
    with trio.fail_after(20):
        async with serving(tmp_path, add) as (_, address):
            headers = bearer("alice", expires_in=2.0)
            async with http_connection(address, headers) as connection:
                assert (await connection.request("GET", "/brief"))[0] == 200
                assert await last(connection) == 401


@pytest.mark.slow
async def test_a_request_that_lasts_ends_with_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "POLL_INTERVAL", 0.05)
    with trio.fail_after(20):
        async with serving(tmp_path, add) as (_, address):
            key, secret = await create_key(tmp_path, "publish")
            async with http_connection(address, {"X-API-Key": secret}) as connection, trio.open_nursery() as nursery:
                assert (await connection.request("GET", "/brief"))[0] == 200
                ended = []

                async def wait() -> None:
                    ended.append(await last(connection))

                nursery.start_soon(wait)
                await trio.sleep(0.3)
                assert not ended, "a key that is looked at and valid ends nothing"
                await revoke_key(tmp_path, [key.id])
            assert ended == [401]
