"""Refusals that have a shape of their own have the same log line and the same metric as the others."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import httpx
import pytest

from relay.ground.errors import Code
from tests.http_client import http_client
from tests.running import bearer, config_for, running

EVIL = "https://evil.example.org"
SETTINGS = {
    "dialects.socketio.max_connections": 1,
    "dialects.sse.max_connections": 1,
    "server.allowed_origins": ["https://app.example.org"],
}
POLLING = "/socket.io/?EIO=4&transport=polling"
FULL = "There are too many connections."


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """Return the fields of the new lines about refusals. Each has an id of its own."""
    found = [
        (one.levelname, one.message, dict(one.__dict__["fields"])) for one in caplog.records if one.name == "relay.http"
    ]
    caplog.clear()
    assert {(level, message) for level, message, _ in found} <= {("INFO", "refused")}
    ids = {fields.pop("errorId") for _, _, fields in found}
    assert len(ids) == len(found)
    return [fields for _, _, fields in found]


@pytest.fixture(autouse=True)
def _at_info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="relay")


async def test_an_event_stream_that_may_come_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An EventSource is answered 200 and an end. The line has the status that any other client receives."""
    async with running(config_for(tmp_path, SETTINGS)) as (server, address), http_client(address) as client:
        url, headers = "/v1/sse?channel=broadcast", {"Accept": "text/event-stream", **bearer("alice")}
        async with client.stream("GET", url, headers=headers) as stream:
            assert stream.status_code == 200
            assert lines(caplog) == []
            for _ in range(2):
                postponed = await client.get(url, headers=headers)
                assert postponed.status_code == 200
                assert "relay:end" in postponed.text
        line = {"path": "/v1/sse", "address": "127.0.0.1", "status": 503, "cause": FULL}
        assert lines(caplog) == [line, line]
        assert server.core.metrics.refused == {Code.UNAVAILABLE: 2}


async def test_polling_of_socketio(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each refused request has one line, and each refused handshake counts. No line names a session."""
    async with running(config_for(tmp_path, SETTINGS)) as (server, address), http_client(address) as client:
        refused = server.core.metrics.refused

        async def line_of(url: str, method: str = "GET", **headers: str) -> tuple[int, int, str]:
            answer = await client.request(method, url, headers=headers)
            [line] = lines(caplog)
            assert (line["path"], line["address"]) == ("/socket.io/", "127.0.0.1")
            return answer.status_code, line["status"], line["cause"]

        assert await line_of(POLLING, Origin=EVIL) == (403, 403, "Forbidden")
        assert refused == {Code.FORBIDDEN: 1}
        assert await line_of("/socket.io/?EIO=3&transport=polling") == (400, 400, "Unsupported protocol version")
        assert await line_of("/socket.io/?EIO=4&transport=x") == (400, 400, "Transport unknown")
        assert await line_of(POLLING, "POST") == (400, 400, "Bad handshake method")
        assert refused == {Code.FORBIDDEN: 1, Code.INVALID_REQUEST: 3}
        assert (await client.get(POLLING)).status_code == 200
        assert lines(caplog) == []
        assert await line_of(POLLING) == (503, 503, FULL)
        assert refused == {Code.FORBIDDEN: 1, Code.INVALID_REQUEST: 3, Code.UNAVAILABLE: 1}
        assert await line_of(f"{POLLING}&sid=a-secret") == (400, 400, "Session ID unknown")
        assert "a-secret" not in caplog.text
        server.refuse_new_work()
        assert await line_of(POLLING) == (503, 503, "The server is shutting down.")
        assert refused == {Code.FORBIDDEN: 1, Code.INVALID_REQUEST: 3, Code.UNAVAILABLE: 2}


async def test_methods_of_the_management_api(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A wrong key, a missing right and a wrong parameter have one line each. The line has the status of the error."""
    async with running(config_for(tmp_path, SETTINGS)) as (_, address), http_client(address) as client:

        async def line_of(method: str, headers: dict[str, str], **more: Any) -> tuple[int, dict[str, Any]]:
            answer: httpx.Response = await client.post(f"/api/{method}", headers=headers, **more)
            [line] = lines(caplog)
            assert (line.pop("method"), line.pop("path")) == ("POST", f"/api/{method}")
            return answer.status_code, line

        wrong, admin = {"X-API-Key": "rk_a-secret"}, bearer("ada", admin=True)
        invalid = {"status": 401, "cause": "The API key is not valid."}
        assert await line_of("info", wrong, json={}) == (401, invalid)
        assert "a-secret" not in caplog.text
        assert (await line_of("info", bearer("bob"), json={}))[1]["status"] == 403
        status, line = await line_of("presence", admin, json={"channel": "nothing:1"})
        assert (status, line["status"]) == (200, 404)
        told = await line_of(
            "presence", {**admin, "X-Centrifugo-Error-Mode": "transport"}, json={"channel": "nothing:1"}
        )
        assert told == (404, line)
        assert await line_of("nothing", admin, json={}) == (200, {"status": 404, "cause": "There is no such method."})
        answer = await client.post("/api/batch", headers=admin, json={"commands": [{"nothing": {}}] * 50})
        assert len(answer.json()["replies"]) == 50
        assert lines(caplog) == []  # as for the items of an array
