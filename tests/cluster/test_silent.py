"""A node that does not answer the others: operators see its name wherever its part is missing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from relay.cluster import questions
from tests.actions import join, make_room
from tests.cli.commands import configured, relay
from tests.clients import live
from tests.cluster.nodes import eventually, nodes
from tests.e2e.browser import Page, two_pages
from tests.running import SECRET, bearer

INCOMPLETE = "Incomplete: no answer from node1."

pytestmark = pytest.mark.slow(8)


@asynccontextmanager
async def one_of_two(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[str, Any]]:
    """Run two nodes; yields the address of the first one, and the handlers of the second one's bus."""
    monkeypatch.setattr(questions.Questions.ask, "__kwdefaults__", {"timeout": 0.5})
    async with nodes(folder, 2) as started:
        clusters: list[Any] = [node.server.cluster for node in started]
        await eventually(lambda: all(len(cluster.node.names) == 2 for cluster in clusters))
        yield started[0].address, clusters[1].bus._handlers


def be_silent(handlers: Any) -> None:
    """Let a node answer no question from now on."""
    handlers[questions.QUESTION] = lambda _: None


async def test_commands_name_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On stderr, so that what is printed for programs stays as it is."""
    async with one_of_two(tmp_path, monkeypatch) as (address, handlers), live(address, "bob"):
        configured(tmp_path, f'[server]\nport = {address.rpartition(":")[2]}\n[auth]\njwt_secret = "{SECRET}"\n')

        async def told(*arguments: str) -> str:
            config = ("--config", str(tmp_path / "relay.toml"))
            return (await trio.to_thread.run_sync(lambda: relay(*arguments, *config))).stderr

        assert await told("ps", "--json") == ""
        be_silent(handlers)
        assert await told("ps", "--json") == f"{INCOMPLETE}\n"
        assert INCOMPLETE in await told("disconnect", "bob")
        nobody = await told("disconnect", "bob")
        assert INCOMPLETE in nobody
        assert "no such connection" in nobody


async def sign_in(page: Page, address: str) -> None:
    """Sign in to the console of a node with a key that may act."""
    async with httpx.AsyncClient(base_url=f"http://{address}", headers=bearer("root", admin=True)) as http:
        answer = await http.post("/v1/admin/keys", json={"user": "ops", "scopes": ["console:write"]})
    await page.open(f"http://{address}/console")
    await page.do("fill", "#key", answer.json()["data"]["secret"])
    await page.do("press", "#key", "Enter")
    await page.sees("#who", "ops")


async def test_the_console_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the lists of connections and of channels while it is silent, and beside what a disconnect did."""
    async with (
        one_of_two(tmp_path, monkeypatch) as (address, handlers),
        two_pages() as (page, _),
        live(address, "bob") as bob,
    ):
        await join(bob, await make_room(address))
        await sign_in(page, address)
        await page.do("evaluate", "location.hash = '#/connections'")
        await page.sees("tbody strong", "bob")
        assert await page.texts(".list .problem") == [""]
        answering = handlers[questions.QUESTION]
        be_silent(handlers)
        for name, row in (("channels", "chatroom:"), ("connections", "bob")):
            await page.do("evaluate", f"location.hash = '#/{name}'")
            await page.sees(f"#page-{name} tbody", row)
            await page.sees(f"#page-{name} .list .problem", INCOMPLETE)
            assert await page.do("audit") == []
        await page.do("click", "button.danger")
        await page.do("click", "dialog[open] button[type=submit]")
        await page.sees(".notice", f"Disconnected. {INCOMPLETE}")
        assert (await bob.closed())[0] == 1008
        handlers[questions.QUESTION] = answering
        await page.do("click", ".filter button")
        await page.until("document.querySelector('.list .problem').textContent === ''")
