"""`relay webhooks` against a real server with a real receiver."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio

from relay.config.backends import secret_bytes
from tests.backend import Reply
from tests.cli.commands import done, failed
from tests.hooks.receiver import Event, receiver
from tests.running import SECRET, config_for, running
from tests.waiting import until


def test_a_secret_is_one() -> None:
    """Each call prints another one, which the configuration accepts."""
    one, other = done("webhooks", "secret").strip(), done("webhooks", "secret").strip()
    assert len(secret_bytes(one)) == 32
    assert one != other


@pytest.mark.slow
async def test_the_commands(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """List, test, deliveries, replay, discard and enable, each against the server of the folder."""
    monkeypatch.setattr("relay.hooks.sender.MAX_ATTEMPTS", 1)
    status = 500

    async def answer(_: Event) -> Reply:
        return Reply(status)

    async def run(*args: str) -> str:
        return await trio.to_thread.run_sync(lambda: done("webhooks", *args))

    async def fail(*args: str, code: int = 1) -> str:
        return await trio.to_thread.run_sync(lambda: failed("webhooks", *args, code=code))

    async with receiver(answer) as backend, running(config_for(folder, backend.settings())) as (server, address):
        port = address.rpartition(":")[2]
        (folder / "relay.toml").write_text(f'[server]\nport = {port}\n[auth]\njwt_secret = "{SECRET}"\n')
        sender = server.core.webhooks.senders["backend"]
        ids = [(await run("test", "backend")).strip() for _ in range(2)]
        await until(lambda: sender.attempts["refused"] == 2 and not sender.in_flight)
        head, row = (await run("list")).splitlines()
        assert head.split()[:2] == ["NAME", "STATE"]
        assert row.split()[:3] == ["backend", "ok", "0"]
        assert "answered 500" in row
        assert [one["dead"] for one in json.loads(await run("list", "--json"))] == [2]
        dead = json.loads(await run("deliveries", "backend", "--state", "dead", "--json"))
        assert [one["id"] for one in dead] == ids
        assert ids[0] in await run("deliveries", "backend", "--state", "recent")
        assert await run("deliveries", "backend") == ""
        status = 200
        await run("replay", "backend", ids[0])
        await until(lambda: backend.events)
        assert backend.events[0].id == ids[0]
        assert "no dead letter of this ID" in await fail("replay", "backend", ids[0])
        assert "must be a time" in await fail("replay", "backend", "--since", "soon")
        await fail("discard", "backend", code=2)
        await run("discard", "backend", "--all")
        assert json.loads(await run("deliveries", "backend", "--state", "dead", "--json")) == []
        await run("enable", "backend")
        assert "no webhook of this name" in await fail("test", "other")
