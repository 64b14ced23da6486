"""The JavaScript client and the demo over HTTP: headers, caching, and the requests that get the demo."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from relay.api import files
from relay.dialects.registry import DIALECTS
from relay.server.demo import open_demo
from tests.http_client import http_client
from tests.running import bearer, config_for, running

FILES = ("/relay.js", "/relay.d.ts")
PAGE = ("/demo", "/demo/demo.js", "/demo/demo.css", "/demo/icon.svg")


@asynccontextmanager
async def http(
    folder: Path, settings: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """Run a server, and return a client of it."""
    with trio.fail_after(30):
        async with (
            running(config_for(folder, settings), **options) as (_, address),
            http_client(address) as client,
        ):
            yield client


async def test_the_client_is_served_as_it_is(tmp_path: Path) -> None:
    """To pages of every origin, also if they may not connect."""
    async with http(tmp_path, {"server.allowed_origins": ["https://app.example.org"]}) as client:
        for path in FILES:
            answer = await client.get(path, headers={"Origin": "https://other.example.org"})
            assert answer.status_code == 200
            assert answer.content == files.read("relay.client", f"js{path}")
            assert answer.headers.get_list("Access-Control-Allow-Origin") == ["*"]
            assert answer.headers["Cache-Control"] == "public, max-age=3600"
            again = await client.get(path, headers={"If-None-Match": answer.headers["ETag"]})
            assert (again.status_code, again.content) == (304, b"")
            assert again.headers["ETag"] == answer.headers["ETag"]
            assert "Content-Type" not in again.headers
            head = await client.head(path)
            assert head.headers["Content-Length"] == str(len(answer.content))
        script = await client.get("/relay.js")
        assert script.headers["Content-Type"] == "text/javascript; charset=utf-8"
        assert script.headers["Link"] == '</relay.d.ts>; rel="types"'
        assert (await client.get("/relay.d.ts")).headers["Content-Type"] == "text/plain; charset=utf-8"
        assert (await client.post("/relay.js")).status_code == 405


async def test_the_demo_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    """And has neither scripts nor styles inside of the page."""
    async with http(tmp_path) as client:
        answers = {path: await client.get(path) for path in PAGE}
    for path, answer in answers.items():
        assert answer.status_code == 200, path
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
    html = answers["/demo"].text
    assert set(re.findall(r'(?:src|href)="([^"]*)"', html)) == {"/demo/demo.js", "/demo/demo.css", "/demo/icon.svg"}
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\bstyle=|\bon\w+=", html)
    assert "://" not in answers["/demo/demo.css"].text


@pytest.mark.parametrize(
    ("enabled", "headers", "status"),
    [
        ("loopback", {}, 200),
        ("loopback", {"Host": "localhost:8080"}, 200),
        ("loopback", {"Host": "[::1]:8080"}, 200),
        ("loopback", {"Host": "relay.example.org"}, 404),
        ("loopback", {"X-Forwarded-For": "203.0.113.7"}, 404),
        ("loopback", {"X-Forwarded-For": "127.0.0.1"}, 404),
        ("loopback", {"Via": "1.1 proxy"}, 404),
        ("always", {"X-Forwarded-For": "203.0.113.7", "Host": "relay.example.org"}, 200),
        ("never", {}, 404),
    ],
)
async def test_requests_that_get_the_demo(tmp_path: Path, enabled: str, headers: dict[str, str], status: int) -> None:
    async with http(tmp_path, {"demo.enabled": enabled}) as client:
        for path in PAGE:
            assert (await client.get(path, headers=headers)).status_code == status, path


async def test_only_the_server_of_the_command_makes_tokens(tmp_path: Path) -> None:
    """For local requests, and for names that fit."""
    async with http(tmp_path) as client:
        assert (await client.post("/demo/token", json={"name": "Ada"})).status_code == 404
    async with http(tmp_path, dialects=(*DIALECTS, open_demo)) as client:
        token = (await client.post("/demo/token", json={"name": "Ada"})).json()["data"]["token"]
        rooms = await client.get("/v1/chatrooms", headers={"Authorization": f"Bearer {token}"})
        assert [room["name"] for room in rooms.json()["data"]] == ["Support", "Gold", "Lobby"]
        assert (await client.post("/demo/token", json={"name": "Ada"}, headers={"Via": "1.1 x"})).status_code == 404
        for name in ("", " ", "x" * 41, 5, None):
            assert (await client.post("/demo/token", json={"name": name})).status_code == 400, name


async def test_the_demo_needs_a_secret(tmp_path: Path) -> None:
    """It says so to a programmer; the command always has one."""
    config = config_for(tmp_path, {"auth.jwt_secret": ""})
    with pytest.raises(BaseExceptionGroup) as caught:
        async with running(config, dialects=(*DIALECTS, open_demo)):
            pass
    assert caught.group_contains(ValueError, match=r"auth\.jwt_secret", depth=None)


async def test_messages_of_the_demo_are_real(tmp_path: Path) -> None:
    """They are in the history of the room, as a message of any user is."""
    async with http(tmp_path, dialects=(*DIALECTS, open_demo)) as client:
        answer = await client.get("/v1/chatrooms/lobby/messages", headers=bearer("ada"))
        assert [message["userId"] for message in answer.json()["data"]] == ["Relay"]
