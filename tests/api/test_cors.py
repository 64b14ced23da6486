"""Which pages may read answers over HTTP: allowed ones every answer, errors too; others none; and never with credentials."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import trio
from quart import Blueprint, Response

from relay.api.cors import MAX_AGE
from relay.core import Core
from tests.api.probe import serving
from tests.http_client import http_client
from tests.running import bearer, config_for, running

APP = "https://app.example.org"
ALLOWED = {"server.allowed_origins": [APP, "https://*.example.com", "null"]}
GOOD = (APP, "https://APP.example.org", "https://app.example.org:443", "https://a.b.example.com", "null")
BAD = (
    "https://evil.org",
    "http://app.example.org",
    "https://example.com",
    "https://app.example.org.evil.org",
    "nonsense",
    "",
)
ASK = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}


def breaking(routes: Blueprint, core: Core) -> None:
    """Add a route that fails, and one that takes a body."""

    @routes.get("/fail")
    async def fail() -> Response:
        raise ZeroDivisionError("secret words")


REQUESTS = {
    200: ("GET", "/healthz", b""),
    404: ("GET", "/nowhere", b""),
    405: ("DELETE", "/healthz", b""),
    401: ("POST", "/v1/publish", b"{}"),
    500: ("GET", "/fail", b""),
}


@asynccontextmanager
async def page(folder: Path, origin: str) -> AsyncIterator[httpx.AsyncClient]:
    """Yield what a page of an origin asks a server with, that allows some."""
    with trio.fail_after(20):
        async with (
            serving(folder, breaking, overrides=ALLOWED) as (_, address),
            http_client(address, headers={"Origin": origin}) as http,
        ):
            yield http


async def answers(http: httpx.AsyncClient) -> list[httpx.Response]:
    """Return an answer of every kind."""
    found = []
    for status, (method, path, body) in REQUESTS.items():
        found.append(await http.request(method, path, content=body))
        assert found[-1].status_code == status
    return found


@pytest.mark.parametrize("origin", GOOD)
async def test_an_allowed_page_may_read_every_answer(tmp_path: Path, origin: str) -> None:
    async with page(tmp_path, origin) as http:
        for answer in await answers(http):
            assert answer.headers.get_list("access-control-allow-origin") == [origin]
            assert answer.headers["vary"] == "Origin"
            assert answer.headers["access-control-expose-headers"] == "Retry-After"
            assert "access-control-allow-credentials" not in answer.headers
            assert "secret words" not in answer.text


@pytest.mark.parametrize("origin", BAD)
async def test_another_page_may_read_none(tmp_path: Path, origin: str) -> None:
    async with page(tmp_path, origin) as http:
        for answer in await answers(http):
            assert "access-control-allow-origin" not in answer.headers
            assert answer.headers["vary"] == "Origin"
        refused = await http.options("/v1/publish", headers=ASK)
        assert (refused.status_code, refused.json()["status"]) == (403, 403)
        assert not [name for name in refused.headers if name.startswith("access-control-allow")]


@pytest.mark.parametrize("path", ["/v1/publish", "/healthz", "/nowhere", "/socket.io/?EIO=4&transport=polling"])
async def test_a_preflight_is_answered_for_every_path(tmp_path: Path, path: str) -> None:
    with trio.fail_after(20):
        async with (
            running(config_for(tmp_path, ALLOWED)) as (_, address),
            http_client(address) as http,
        ):
            answer = await http.options(path, headers={"Origin": APP, **ASK})
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == APP
    assert {name.strip() for name in answer.headers["access-control-allow-methods"].split(",")} >= {
        "GET",
        "POST",
        "PUT",
        "DELETE",
    }
    headers = {name.strip().lower() for name in answer.headers["access-control-allow-headers"].split(",")}
    assert headers == {"authorization", "content-type", "last-event-id", "x-api-key"}
    assert answer.headers["access-control-max-age"] == str(MAX_AGE)
    assert answer.headers["vary"] == "Origin"


async def test_options_without_what_makes_a_preflight_is_a_request_as_any_other(tmp_path: Path) -> None:
    with trio.fail_after(20):
        async with (
            running(config_for(tmp_path, ALLOWED)) as (_, address),
            http_client(address) as http,
        ):
            for headers in ({}, {"Origin": APP}, ASK):
                answer = await http.options("/v1/publish", headers=headers)
                assert answer.status_code == 200
                assert set(answer.headers["allow"].split(", ")) == {"OPTIONS", "POST"}
            answer = await http.options("/nowhere", headers={"Origin": APP})
            assert answer.status_code == 404


async def test_where_all_pages_may_none_may_with_credentials(tmp_path: Path) -> None:
    with trio.fail_after(20):
        async with (
            running(config_for(tmp_path)) as (_, address),
            http_client(address) as http,
        ):
            for origin in (*GOOD, *BAD[:-1]):
                answer = await http.get("/v1/chatrooms", headers={"Origin": origin, **bearer("alice")})
                assert answer.status_code == 200
                assert answer.headers["access-control-allow-origin"] == "*"
                assert "access-control-allow-credentials" not in answer.headers
                preflight = await http.options("/v1/chatrooms", headers={"Origin": origin, **ASK})
                assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (204, "*")


async def test_relays_own_page_and_clients_without_origin_pass(tmp_path: Path) -> None:
    with trio.fail_after(20):
        async with (
            running(config_for(tmp_path, {"server.allowed_origins": [APP]})) as (_, address),
            http_client(address) as http,
        ):
            own = f"http://{address}"
            answer = await http.get("/healthz", headers={"Origin": own})
            assert answer.headers["access-control-allow-origin"] == own
            assert (await http.options("/v1/publish", headers={"Origin": own, **ASK})).status_code == 204
            answer = await http.get("/healthz")
            assert answer.status_code == 200
            assert "access-control-allow-origin" not in answer.headers
            assert answer.headers["vary"] == "Origin", "a cache must not give it to a page"
