"""EventSource in a real browser: streams that are cut, a server that is killed, and refusals. Chromium is from npm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
import trio

from tests.actions import publish
from tests.e2e.cutting import cutter
from tests.e2e.node import Script, node
from tests.running import RelayProcess, bearer, relay_process
from tests.waiting import until

pytestmark = pytest.mark.slow(15)

LIMIT = 150.0
STEP_TIMEOUT = 45.0
"""Seconds that a browser may take to come back on a busy machine: it waits up to 5 s by itself."""
SETTINGS = """
[namespaces.orders]
subscribe = "owner"
[namespaces.feed]
subscribe = "anyone"
"""
CHANNELS = ["orders:u1", "feed:1"]
CUTS = 3
PER_ROUND = 20


class Source:
    """The EventSource of the page."""

    def __init__(self, browser: Script) -> None:
        self._browser = browser

    async def open(self, page: str, stream: str) -> None:
        """Open a page, and an EventSource in it."""
        await self._browser.tell(json.dumps(["open", page, stream]))
        answer = await self._browser.next(STEP_TIMEOUT)
        assert answer == ["opened"], answer

    async def got(self) -> Any:
        """Return what it has so far."""
        await self._browser.tell(json.dumps(["got"]))
        answer = await self._browser.next(STEP_TIMEOUT)
        assert answer[0] == "got", answer
        return answer[1]

    async def has(self, **wanted: Any) -> Any:
        """Wait until it has what is wanted, and return all that it has."""
        found: Any = {}

        async def there() -> bool:
            found.update(await self.got())
            return all(found[name] == value for name, value in wanted.items())

        await until(there, STEP_TIMEOUT)
        return found


async def ticket(server: RelayProcess) -> str:
    """Return a ticket of u1 for CHANNELS."""
    async with httpx.AsyncClient(base_url=f"http://{server.address}") as http:
        answer = await http.post("/v1/tickets", json={"channels": CHANNELS}, headers=bearer("u1"))
    return str(answer.json()["data"]["ticket"])


async def test_a_page_drops_resumes_and_survives_a_kill(tmp_path: Path) -> None:
    """By one ticket: streams are cut in the middle, the server is killed, and the page has each publication once, in order."""
    with trio.fail_after(LIMIT):
        async with (
            relay_process(tmp_path, SETTINGS) as server,
            cutter(server.address) as proxy,
            node("source.mjs") as browser,
        ):
            source = Source(browser)
            query = urlencode([*(("channel", name) for name in CHANNELS), ("ticket", await ticket(server))])
            await source.open(f"http://{proxy.address}/healthz", f"/v1/sse?{query}")
            await source.has(recovered=[None, None])
            sent = 0

            async def send() -> None:
                nonlocal sent
                for _ in range(PER_ROUND // 2):
                    items = [{"channel": name, "data": {"pad": "x" * 700}} for name in CHANNELS]
                    await publish(server.address, items)
                    sent += 2

            for _ in range(CUTS):
                await send()
                proxy.cut()
                await send()
                await until(lambda: _has(source, sent), STEP_TIMEOUT)
            server.kill()
            await trio.to_thread.run_sync(server.start)
            await send()
            await until(lambda: _has(source, sent), STEP_TIMEOUT)
            found = await source.got()
            assert False not in found["recovered"], "each return was told that it missed nothing"
            assert found["opened"] >= CUTS + 2
            for name in CHANNELS:
                offsets = [offset for channel, offset in found["publications"] if channel == name]
                assert offsets == list(range(1, sent // 2 + 1)), name
            await refused(source, proxy.address, query)


async def _has(source: Source, count: int) -> bool:
    return len((await source.got())["publications"]) >= count


async def refused(source: Source, address: str, query: str) -> None:
    """A ticket that was used, and a channel that is not the page's, close the EventSource for good."""
    for refused_query in (query, "channel=orders:u2"):
        await source.open(f"http://{address}/healthz", f"/v1/sse?{refused_query}")
        found = await source.has(state=2)
        assert (found["opened"], found["publications"]) == (0, [])
