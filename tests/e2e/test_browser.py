"""The demo and the JavaScript client in a real browser, which is Chromium from npm."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio

from tests.actions import make_room
from tests.e2e.browser import relay_demo, two_pages
from tests.running import RelayProcess, relay_process, token


@pytest.mark.slow(5)
async def test_two_windows_chat_in_the_demo() -> None:
    """With presence, typing and prices; the policy of the page refuses nothing that the page does."""
    async with relay_demo() as url, two_pages() as (ada, grace):
        await ada.open(url)
        await ada.join("Ada")
        await ada.sees("#messages li", "Open this page in a second window")
        await grace.open(url, colorScheme="dark")
        await grace.join("Grace")
        await ada.sees("#present li", "Grace")
        assert sorted(text.split()[-1] for text in await grace.texts("#present li")) == ["Ada", "Grace"]
        await grace.do("press", "#message", "H")
        await ada.sees("#typing", "Grace")
        await grace.say("Hello Ada")
        await ada.sees("#messages li", "Hello Ada")
        await ada.until("document.querySelector('#typing').textContent === ''")
        await ada.say("Hello Grace")
        await grace.sees("#messages li", "Hello Grace")
        await grace.sees("#messages .own", "Hello Ada")
        prices = await ada.texts("#prices li")
        assert [price.split()[0] for price in prices] == ["BTC", "ETH", "EUR/USD", "GOLD"]
        await ada.until(f"document.querySelector('#BTC').innerText !== {json.dumps(prices[0])}")
        # Another room has its own messages and its own users.
        await ada.do("click", "#rooms li:nth-child(2) button")
        await ada.sees("#messages li", "The prices above are made up")
        await grace.until("document.querySelectorAll('#present li').length === 1")


@pytest.mark.slow(5)
async def test_the_demo_of_any_server_outlives_a_crash(tmp_path: Path) -> None:
    """Its visitors paste tokens; after `kill -9` their pages come back by themselves, and nothing is shown twice."""
    async with relay_process(tmp_path) as server:
        room = await make_room(server.address)
        url = f"http://{server.address}/demo"
        async with two_pages() as (ada, grace):
            await ada.open(url)
            await ada.do("fill", "#name", "Ada")
            await ada.do("click", "#join button")
            await ada.sees("#problem", "relay token ada")
            for page, user in ((ada, "ada"), (grace, "grace")):
                await page.open(url)
                await page.join(token(user))
            await ada.say("before")
            await grace.sees("#messages li", "before")
            await trio.to_thread.run_sync(server.kill)
            await ada.sees("#state[data-state=connecting]")
            await trio.to_thread.run_sync(server.start)
            for page in (ada, grace):
                await page.sees("#state[data-state=connected]")
            await grace.say("after")
            for page in (ada, grace):
                await page.sees("#messages li", "after")
                texts = [text.splitlines()[-1] for text in await page.texts("#messages li")]
                assert texts == ["before", "after"]
    assert room


@pytest.mark.slow(5)
async def test_pages_of_another_origin_and_workers(tmp_path: Path) -> None:
    """Both import the module from the server; a page that is online again reconnects at once."""
    async with relay_process(tmp_path) as server, two_pages() as (page, _):
        room = await make_room(server.address)
        port = server.address.rpartition(":")[2]
        await page.open(f"http://localhost:{port}/relay.d.ts")
        options = f"{{ getToken: () => {json.dumps(token('ada'))}, minDelay: 60000, maxDelay: 60000 }}"
        program = f"""
            const {{ Relay }} = await import('http://{server.address}/relay.js')
            const relay = new Relay('http://{server.address}', {options})
            const room = relay.room({json.dumps(room)})
            const {{ offset }} = await room.send('Hello')"""
        assert await page.do("evaluate", f"(async () => {{ {program}; window.relay = relay; return offset }})()") == 1
        worker = f"(async () => {{ {program}; relay.disconnect(); postMessage(offset) }})()"
        start = f"""new Promise((resolve, reject) => {{
            const source = URL.createObjectURL(new Blob([{json.dumps(worker)}], {{ type: 'text/javascript' }}))
            const worker = new Worker(source, {{ type: 'module' }})
            worker.onmessage = (event) => resolve(event.data)
            worker.onerror = reject
        }})"""
        assert await page.do("evaluate", start) == 2
        await _restart(server)
        assert await page.do("evaluate", "relay.state") == "connecting"
        await page.do("evaluate", "window.dispatchEvent(new Event('online'))")
        await page.until("relay.state === 'connected'")


async def _restart(server: RelayProcess) -> None:
    await trio.to_thread.run_sync(server.kill)
    await trio.to_thread.run_sync(server.start)
