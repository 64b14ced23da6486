"""Every role against every option of a namespace, on the wire: `live`, anonymous clients too, and REST.

The tables are total: an option without a row fails the test.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, get_args, get_type_hints

import attrs
import pytest
import trio

from relay.auth.verifier import mint
from relay.config.namespaces import NamespaceConfig
from relay.ground.clock import Clock
from relay.store import api_keys as keys
from tests.clients import Client, connect
from tests.http_client import http_connection
from tests.rights.world import table
from tests.running import SECRET, config_for, running

# The channel is <option>:owner, which `owner` owns. `granted` has grants for all of them, `token` a subscription token,
# `elsewhere` grants for another channel of each, `channels` names the channel in its token.
SUBSCRIBE = table("""
          anonymous           user       owner      granted  token  elsewhere  channels  admin
anyone    ok                  ok         ok         ok       ok     ok         ok        ok
users     not_authenticated   ok         ok         ok       ok     ok         ok        ok
owner     not_authenticated   not_owner  ok         ok       ok     not_owner  ok        ok
granted   not_authenticated   no_grant   no_grant   ok       ok     no_grant   ok        ok
nobody    closed              closed     closed     closed   closed  closed    closed    ok
""")
# The same, for a client that is subscribed where it may; the namespace is p-<option>, which every user may read.
PUBLISH = table("""
             anonymous           user                 owner                granted              admin
users        not_authenticated   ok                   ok                   ok                   ok
subscribers  not_authenticated   not_subscribed       not_subscribed       ok                   ok
granted      not_authenticated   no_grant             no_grant             ok                   ok
nobody       not_authenticated   publish_not_allowed  publish_not_allowed  publish_not_allowed  ok
""")
REST = table("""
          *    connect  publish  operator
anyone    200  403      403      200
users     401  403      403      200
owner     401  403      403      200
granted   401  403      403      200
nobody    403  403      403      200
""")
"""By API key; `*` is a request without credentials."""


@attrs.frozen
class World:
    """A server with a namespace for each option."""

    address: str
    keys: dict[str, str]


def token(user: str, **claims: Any) -> str:
    """Return a token with these claims."""
    return mint(SECRET, user_id=user, now=Clock().now(), expires_in=600.0, more=claims, admin=user == "admin")


def tokens(channels: list[str]) -> dict[str, str]:
    """Return the connection token of each role that has one."""
    return {
        "user": token("user"),
        "owner": token("owner"),
        "granted": token("granted", grants={"subscribe": ["*"], "publish": ["*"]}),
        "token": token("token"),
        "elsewhere": token("elsewhere", grants={"subscribe": [f"{name}-not" for name in channels]}),
        "channels": token("channels", channels=channels),
        "admin": token("admin"),
    }


@asynccontextmanager
async def open_world(folder: Path) -> AsyncIterator[World]:
    """Start the server."""
    overrides: dict[str, Any] = {
        "limits.frames_per_minute": 1_000_000,
        "limits.handshakes_per_minute": 1_000_000,
        "limits.auth_failures_per_minute": 1_000_000,
    }
    namespaces: dict[str, Any] = {rule: {"subscribe": rule, "presence": True} for rule in SUBSCRIBE}
    namespaces |= {f"p-{rule}": {"subscribe": "users", "publish": rule} for rule in PUBLISH}
    for name, options in namespaces.items():
        overrides |= {f"namespaces.{name}.{option}": value for option, value in options.items()}
    async with running(config_for(folder, overrides)) as (server, address):

        def make(connection: Any) -> dict[str, str]:
            return {
                role: keys.create(
                    connection, prefix="rk", mode="test", user_id="owner", tier="pro", scopes=[scope], now_ms=1
                )[1]
                for role, scope in (("connect", "connect"), ("publish", "publish"), ("operator", "admin"))
            }

        yield World(address, await server.database.write(make))


@asynccontextmanager
async def client_of(world: World, credentials: str | None) -> AsyncIterator[Client]:
    """Connect to `live`; without credentials as an anonymous client."""
    async with connect(world.address, "/v1/live") as client:
        await client.send(type="auth", **({} if credentials is None else {"token": credentials}))
        assert (await client.until("auth:success"))["data"]["connectionId"]
        yield client


async def answered(client: Client, **frame: Any) -> str:
    """Return `ok`, or the reason of the refusal."""
    await client.send(**frame, requestId="asked")
    while True:
        answer = await client.receive()
        if isinstance(answer["data"], dict) and answer["data"].get("requestId") == "asked":
            break
    return str(answer["data"]["reason"]) if answer["type"] == "error" else "ok"


def test_the_tables_have_every_option() -> None:
    hints = get_type_hints(NamespaceConfig)
    assert tuple(SUBSCRIBE) == tuple(REST) == get_args(hints["subscribe"])
    assert tuple(PUBLISH) == get_args(hints["publish"])


@pytest.mark.slow
async def test_every_role_against_every_rule_for_reading(tmp_path: Path) -> None:
    """To subscribe, to read the history and to ask for presence are one right."""
    wrong = []
    with trio.fail_after(60):
        async with open_world(tmp_path) as world:
            held = tokens([f"{rule}:owner" for rule in SUBSCRIBE])
            for rule, row in SUBSCRIBE.items():
                channel = f"{rule}:owner"
                for role, expected in row.items():
                    if role in ("forged", "expired", "none", "revoked", "nobody"):
                        continue
                    more = {"token": token("token", channel=channel)} if role == "token" else {}
                    async with client_of(world, held.get(role)) as client:
                        if role != "token":
                            for type_ in ("history", "presence"):
                                if (got := await answered(client, type=type_, channel=channel)) != expected:
                                    wrong.append(f"{type_} {rule}: {role} was answered {got}, not {expected}")
                        got = await answered(client, type="subscribe", channel=channel, **more)
                        if got != expected:
                            wrong.append(f"subscribe {rule}: {role} was answered {got}, not {expected}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
async def test_every_role_against_every_rule_for_publishing(tmp_path: Path) -> None:
    wrong = []
    with trio.fail_after(60):
        async with open_world(tmp_path) as world:
            held = tokens(["users:1"])
            for rule, row in PUBLISH.items():
                channel = f"p-{rule}:1"
                for role, expected in row.items():
                    async with client_of(world, held.get(role)) as client:
                        got = await answered(client, type="publish", channel=channel, data=role)
                        if got != expected:
                            wrong.append(f"{rule}: {role} was answered {got}, not {expected}")
                        if role == "user" and rule == "subscribers":
                            assert await answered(client, type="subscribe", channel=channel) == "ok"
                            assert await answered(client, type="publish", channel=channel, data=role) == "ok"
                    headers = {} if role == "anonymous" else {"Authorization": f"Bearer {held[role]}"}
                    async with http_connection(world.address, headers) as connection:
                        path = f"/v1/channels/{channel}/publish"
                        status, answer = await connection.request("POST", path, {"data": role})
                        allowed = {"ok": 200, "not_authenticated": 401}.get(expected, 403)
                        if status != allowed:
                            wrong.append(f"{rule}: {role} was answered {status} by REST: {answer}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
async def test_every_role_against_every_rule_by_rest(tmp_path: Path) -> None:
    wrong = []
    with trio.fail_after(60):
        async with open_world(tmp_path) as world:
            held = tokens([f"{rule}:owner" for rule in SUBSCRIBE])
            for rule, row in SUBSCRIBE.items():
                for role, expected in row.items():
                    if role not in held or role == "token":
                        continue
                    async with http_connection(world.address, {"Authorization": f"Bearer {held[role]}"}) as connection:
                        for what in ("history", "presence"):
                            status, answer = await connection.request("GET", f"/v1/channels/{rule}:owner/{what}", None)
                            if status != (200 if expected == "ok" else 403) or answer.get("reason", "ok") != expected:
                                wrong.append(f"{what} {rule}: {role} was answered {status} {answer}")
            for rule, row in REST.items():
                for role, code in row.items():
                    if role in ("forged", "expired", "none", "revoked"):
                        continue
                    headers = {} if role == "nobody" else {"X-API-Key": world.keys[role]}
                    async with http_connection(world.address, headers) as connection:
                        status, answer = await connection.request("GET", f"/v1/channels/{rule}:owner/history", None)
                        if str(status) != code:
                            wrong.append(f"{rule}: {role} was answered {status} {answer}")
    assert not wrong, "\n".join(wrong)
