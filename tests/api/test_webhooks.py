"""The routes of webhooks, their audit lines and their metrics, on a real server with a real receiver."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from relay.server.server import Server
from tests.api.probe import create_key
from tests.backend import Reply
from tests.clients import live
from tests.hooks.receiver import Event, Receiver, receiver
from tests.http_client import http_client
from tests.running import config_for, running
from tests.waiting import until

PATH = "/v1/admin/webhooks"


class World:
    """A server with a webhook, its receiver, and an admin."""

    def __init__(self, server: Server, address: str, http: httpx.AsyncClient, backend: Receiver) -> None:
        self.server = server
        self.address = address
        self.http = http
        self.backend = backend
        self.status = 204

    async def answer(self, _: Event) -> Reply:
        """Answer as the test says."""
        return Reply(self.status)

    async def get(self, path: str = "", **query: Any) -> Any:
        """Return the data of a success."""
        answer = await self.http.get(f"{PATH}{path}", params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    async def post(self, path: str, status: int = 200, /, **body: Any) -> Any:
        """Return the data of a success, or the message of a refusal."""
        answer = await self.http.post(f"{PATH}{path}", json=body)
        assert answer.status_code == status, answer.text
        return answer.json()["data"] if status < 400 else answer.json()["message"]

    async def dead(self, number: int) -> list[str]:
        """Wait for so many dead letters; return their ids."""

        async def there() -> bool:
            return len((await self.get("/backend/deliveries", state="dead"))["deliveries"]) == number

        await until(there)
        return [one["id"] for one in (await self.get("/backend/deliveries", state="dead"))["deliveries"]]


@asynccontextmanager
async def world(folder: Path, **options: Any) -> AsyncIterator[World]:
    """Run a server with a webhook."""
    with trio.fail_after(60):
        async with receiver() as backend:
            hook = backend.settings(**options)
            async with running(config_for(folder, {"dialects.live.offline_grace": 0.05, **hook})) as (server, address):
                _, key = await create_key(folder, "admin")
                async with http_client(address, headers={"X-API-Key": key}) as http:
                    here = World(server, address, http, backend)
                    backend.answer = here.answer
                    yield here


async def test_a_webhook_says_how_it_does(tmp_path: Path) -> None:
    """Its state, its numbers and its attempts; and never a secret."""
    async with world(tmp_path, events=["user.connected"]) as here:
        [entry] = (await here.get())["webhooks"]
        assert {name: entry[name] for name in ("name", "state", "pending", "dead", "lastError", "oldestSeconds")} == {
            "name": "backend", "state": "ok", "pending": 0, "dead": 0, "lastError": None, "oldestSeconds": None,
        }  # fmt: skip
        here.status = 500
        async with live(here.address, "ann"):
            await until(lambda: here.backend.requests)
            [pending] = (await here.get("/backend/deliveries"))["deliveries"]
            assert (pending["type"], pending["key"], pending["seq"]) == ("user.connected", "user:ann", 1)
            assert '"userId":"ann"' in pending["body"]
            [entry] = (await here.get())["webhooks"]
            assert entry["pending"] == 1
            assert entry["oldestSeconds"] >= 0

            async def refused() -> bool:
                return bool((await here.get())["webhooks"][0]["lastError"] == "answered 500")

            await until(refused)
            here.status = 204
            await until(lambda: here.backend.events)
        recent = (await here.get("/backend/deliveries", state="recent"))["deliveries"]
        assert (recent[0]["status"], recent[0]["error"]) == (204, None)
        assert recent[-1]["error"] == "answered 500"
        assert "whsec_" not in (await here.http.get(PATH)).text


async def test_test_replay_discard_and_enable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Dead letters are replayed with their id, or deleted; each change has a line in the audit log."""
    monkeypatch.setattr("relay.hooks.sender.MAX_ATTEMPTS", 1)
    caplog.set_level(logging.INFO, "relay.audit")
    async with world(tmp_path) as here:
        id_ = (await here.post("/backend/test"))["id"]
        await until(lambda: here.backend.events)
        assert (here.backend.events[0].id, here.backend.events[0].type) == (id_, "webhook.test")
        here.status = 500
        sent = [(await here.post("/backend/test"))["id"] for _ in range(3)]
        assert await here.dead(3) == sent
        page = await here.get("/backend/deliveries", state="dead", limit=2)
        rest = await here.get("/backend/deliveries", state="dead", limit=2, cursor=page["cursor"])
        assert [one["id"] for one in (*page["deliveries"], *rest["deliveries"])] == sent
        assert await here.post("/backend/discard", id=sent[0]) == {"discarded": 1}
        here.status = 204
        assert await here.post("/backend/replay", id=sent[0]) == {"replayed": 0}
        assert await here.post("/backend/replay", since="2999-01-01T00:00:00Z") == {"replayed": 0}
        assert await here.post("/backend/replay", since="2020-01-01T00:00:00+01:00") == {"replayed": 2}
        await here.post("/backend/enable")
        await until(lambda: len(here.backend.events) == 3)
        assert [event.id for event in here.backend.events[1:]] == sent[1:]
    actions = [record.getMessage() for record in caplog.records if record.name == "relay.audit"]
    for action in ("webhook tested", "dead letters replayed", "dead letters discarded", "webhook enabled"):
        assert any(action in one for one in actions), action


async def test_every_parameter_of_replay_and_discard_is_optional(tmp_path: Path) -> None:
    """So is the body. One that is not a JSON object is refused, and so is one of another content type."""
    bodies = ((b"", None), (b"", "text/plain"), (b"{}", "application/json"))
    bad = ((b"{}", "text/plain", 415), (b"{}", None, 415), (b"[]", "application/json", 400))
    async with world(tmp_path) as here:
        described = (await here.http.get("/openapi.json")).json()["paths"]
        for path in ("replay", "discard"):
            for content, type_, expected in (*((*body, 200) for body in bodies), *bad):
                headers = {} if type_ is None else {"Content-Type": type_}
                answer = await here.http.post(f"{PATH}/backend/{path}", content=content, headers=headers)
                assert answer.status_code == expected, answer.text
            assert described[f"{PATH}/{{webhook}}/{path}"]["post"]["requestBody"]["required"] is False


async def test_pages_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page ends where its bodies are too many, and the next one goes on."""
    monkeypatch.setattr("relay.hooks.webhooks.MAX_PAGE_BYTES", 250)
    monkeypatch.setattr("relay.hooks.sender.MAX_ATTEMPTS", 1)
    async with world(tmp_path) as here:
        here.status = 500
        sent = [(await here.post("/backend/test"))["id"] for _ in range(5)]

        async def pages() -> list[list[str]]:
            found: list[list[str]] = []
            cursor: str | None = ""
            while cursor is not None:
                page = await here.get("/backend/deliveries", state="dead", cursor=cursor)
                found.append([one["id"] for one in page["deliveries"]])
                cursor = page["cursor"]
            return found

        async def all_dead() -> bool:
            return sum(map(len, await pages())) == 5

        await until(all_dead)
        assert await pages() == [sent[:2], sent[2:4], sent[4:]]


async def test_bad_requests(tmp_path: Path) -> None:
    """A name that no webhook has is not found, and a parameter that cannot be is named."""
    async with world(tmp_path) as here:
        assert "no webhook of this name" in await here.post("/other/test", 404)
        assert (await here.http.get(f"{PATH}/other/deliveries")).status_code == 404
        for query in ({"state": "done"}, {"cursor": "x"}, {"limit": "201"}, {"cursor": "1" * 17}):
            assert (await here.http.get(f"{PATH}/backend/deliveries", params=query)).status_code == 400
        for since in ("soon", "2026-01-31T12:00:00", 5):
            await here.post("/backend/replay", 400, since=since)


async def test_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pending events, attempts by outcome and dead letters are counted."""
    monkeypatch.setattr("relay.hooks.webhooks.COUNT_INTERVAL", 0.05)
    async with world(tmp_path, events=["user.connected"]) as here:
        here.status = 410
        async with live(here.address, "ann"):

            async def counted() -> bool:
                text = (await here.http.get("/metrics")).text
                return (
                    'relay_webhook_stopped{webhook="backend"} 1.0' in text
                    and 'relay_webhook_attempts_total{outcome="gone",webhook="backend"} 1.0' in text
                    and 'relay_webhook_pending{webhook="backend"} 1.0' in text
                    and 'relay_webhook_dead{webhook="backend"} 0.0' in text
                    and "relay_webhook_seconds_count 1.0" in text
                )

            await until(counted, timeout=20)


async def test_without_webhooks(tmp_path: Path) -> None:
    """The list is empty, and there are no metrics of webhooks."""
    async with running(config_for(tmp_path)) as (_, address):
        _, key = await create_key(tmp_path, "admin")
        async with http_client(address, headers={"X-API-Key": key}) as http:
            assert (await http.get(PATH)).json()["data"] == {"webhooks": []}
            assert (await http.post(f"{PATH}/backend/test", json={})).status_code == 404
            assert "relay_webhook" not in (await http.get("/metrics")).text
