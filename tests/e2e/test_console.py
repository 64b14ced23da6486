"""The console in a real browser: a person signs in, sees, acts, and signs out."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio

from tests.actions import join
from tests.clients import Client, connect, live
from tests.e2e.browser import Page, two_pages
from tests.running import RelayProcess, relay_process

pytestmark = pytest.mark.slow(18)

HOSTILE = 'eve<img src=x onerror="alert(1)">'
EXPECTED_ERRORS = re.compile(r"Failed to load resource: the server responded with a status of 401")
"""What a browser logs for a wrong key, and for a page about a part that the server does not have."""
PAGES = ("overview", "connections", "channels", "rooms", "keys", "webhooks", "tail", "try", "channels/market%3ABTC")
NARROW = {"viewport": {"width": 400, "height": 800}, "colorScheme": "dark"}
WIDE = {"viewport": {"width": 1200, "height": 800}, "colorScheme": "light"}


@attrs.frozen
class Consoles:
    """A server, the console of an admin on a wide light screen, and that of a reader on a narrow dark one."""

    server: RelayProcess
    admin: Page
    reader: Page

    @property
    def url(self) -> str:
        """The address of the console."""
        return f"http://{self.server.address}/console"

    def link(self) -> str:
        """Return a new one-time link."""
        return self.server.command("console", "--url", f"http://{self.server.address}")


async def go(page: Page, name: str) -> None:
    """Go to a page of the console, and wait until it is there."""
    await page.do("evaluate", f"location.hash = {json.dumps(f'#/{name}')}")
    await page.sees(f"#page-{name.partition('/')[0]}")


async def confirm(page: Page, selector: str) -> None:
    """Click something that asks, and agree."""
    await page.do("click", selector)
    await page.do("click", "dialog[open] button[type=submit]")
    await page.do("waitForSelector", "dialog", {"state": "detached"})


async def test_the_console(tmp_path: Path) -> None:
    """One browser goes through all of it, because its start takes long."""
    async with relay_process(tmp_path) as server, two_pages(EXPECTED_ERRORS) as (admin, reader):
        consoles = Consoles(server, admin, reader)
        await sign_in_with_a_link(consoles)
        await sign_in_with_a_key(consoles)
        room = await make_a_room(consoles)
        async with chatting(consoles, room) as (ada, eve):
            await see_and_kick(consoles, ada, eve)
            await publish_and_see(consoles, ada)
        await create_and_revoke_a_key(consoles)
        await watch_plots_move(consoles)
        await try_each_dialect(consoles)
        await see_what_axe_finds(consoles)
        await sign_out(consoles)
        check_audit(consoles)


async def sign_in_with_a_link(consoles: Consoles) -> None:
    """A wrong key is refused; the link of `relay console` works once."""
    page = consoles.admin
    await page.open(f"http://{consoles.server.address}/", **WIDE)
    await page.do("click", "a[href='/console']")
    await page.sees("#key")
    assert await page.do("audit") == []
    assert await page.do("isVisible", "#pages") is False
    await page.do("fill", "#key", "rk_live_wrong")
    await page.do("press", "#key", "Enter")
    await page.sees(".problem", "not valid")
    link = await trio.to_thread.run_sync(consoles.link)
    await page.do("goto", "about:blank")
    await page.do("goto", link)
    await page.sees("#who", "console (admin)")
    assert await page.do("evaluate", "location.href") == consoles.url, "the link is not in the address any more"
    assert await page.do("evaluate", "document.cookie") == "", "no script reads the cookie"
    await page.do("reload")
    await page.sees("#server-state", "Ready")
    await consoles.reader.open(link, **NARROW)
    await consoles.reader.sees(".problem", "works once")


async def sign_in_with_a_key(consoles: Consoles) -> None:
    """A key with the scope `console` sees everything and has no button to act with."""
    arguments = ("keys", "create", "--user", HOSTILE, "--scope", "console")
    key = await trio.to_thread.run_sync(lambda: consoles.server.command(*arguments))
    page = consoles.reader
    await page.do("fill", "#key", key)
    await page.do("press", "#key", "Enter")
    await page.sees("#who", f"{HOSTILE} (may read)")
    for name in ("keys", "rooms", "channels/market%3ABTC", "try"):
        await go(page, name)
        assert await page.do("evaluate", "document.querySelectorAll('button.danger, #publish, #minting').length") == 0


async def make_a_room(consoles: Consoles) -> str:
    """The admin makes a room and adds two members, and removes one of them."""
    page = consoles.admin
    await go(page, "rooms")
    await page.sees("#page-rooms .empty", "There is no such room")
    await page.do("click", "text=New room")
    await page.do("fill", "#room-name", HOSTILE)
    await page.do("click", "dialog[open] button[type=submit]")
    await page.sees("#member")
    room = str(await page.do("evaluate", "location.hash.split('/')[2]"))
    for user in ("ada", HOSTILE, "late/comer"):
        await page.do("fill", "#member", user)
        await page.do("press", "#member", "Enter")
        await page.sees("tbody strong", user)
    await confirm(page, "tr:has-text('late/comer') button.danger")
    await page.until("document.querySelectorAll('tbody tr').length === 3")
    return room


@asynccontextmanager
async def chatting(consoles: Consoles, room: str) -> AsyncIterator[tuple[Client, Client]]:
    """Two clients chat in the room; the reader sees it in a tail, with markup as text."""
    address = consoles.server.address
    async with live(address, "ada") as ada, live(address, HOSTILE) as eve:
        for client in (ada, eve):
            await join(client, room)
        await go(consoles.reader, f"tail/chatroom:{room}")
        await consoles.reader.sees("#tail-state", "Following")
        await ada.send(type="chat:send", chatroomId=room, message="Hello Eve")
        await eve.until("chat:message")
        await eve.send(type="chat:send", chatroomId=room, message=HOSTILE)
        assert (await ada.until("chat:message"))["data"]["message"] == "Hello Eve"
        await consoles.reader.sees("#entries li:last-child pre", "Hello Eve")
        await consoles.reader.sees("#entries li:first-child pre", "<img src=x")
        await go(consoles.admin, f"channels/chatroom:{room}")
        await consoles.admin.sees("td pre", "<img src=x")
        yield ada, eve


async def see_and_kick(consoles: Consoles, ada: Client, eve: Client) -> None:
    """The admin sees both connections, looks at one and ends one. No name has become markup."""
    page = consoles.admin
    await go(page, "connections")
    for user in ("ada", HOSTILE):
        await page.sees("tbody strong", user)
    await page.do("click", "tr:has-text('ada') button")
    await page.sees("dialog[open] .names li", "chatroom:")
    await page.do("click", "dialog[open] button.primary")
    await page.do("fill", "#user", HOSTILE)
    await page.do("press", "#user", "Enter")
    await page.until("document.querySelectorAll('tbody tr').length === 1")
    await confirm(page, "tr:has-text('eve') button.danger")
    code, _ = await eve.closed()
    assert code == 1008
    await page.sees(".empty", "No connection matches")
    assert await page.do("evaluate", "document.querySelectorAll('main img').length") == 0
    assert (await ada.ask(type="ping"))["type"] in ("pong", "chat:message", "user:offline")


async def publish_and_see(consoles: Consoles, ada: Client) -> None:
    """A publication of the console arrives in a tail and in two dialects."""
    await ada.send(type="subscribe", channel="market", symbols=["BTC"])
    await ada.until("subscribed")
    await go(consoles.reader, "tail/market%3A*")
    await consoles.reader.sees("#tail-state", "Following")
    page = consoles.admin
    async with connect(consoles.server.address, "/api/v1/ws/assets/BTC/price") as feed:
        await go(page, "channels")
        await page.do("fill", "#name", "market:BTC")
        await page.do("press", "#name", "Enter")
        await page.do("fill", "#data", "{price: 1}")
        await page.do("click", "#publish button")
        await page.sees(".notice.failed", "not JSON")
        await page.do("fill", "#data", json.dumps({"price": 87250.5, "note": HOSTILE}))
        await page.do("click", "#publish button")
        await page.sees(".notice", "Published at offset 1")
        assert (await feed.receive())["price"] == 87250.5
    assert (await ada.until("market:price"))["data"]["note"] == HOSTILE
    await consoles.reader.sees("#entries li pre", "87250.5")
    await page.sees("td pre", "87250.5")
    await page.do("fill", "#why-user", "bob")
    await page.do("selectOption", "#action", "publish")
    await page.do("press", "#why-user", "Enter")
    await page.sees("section p", "Refused")


async def create_and_revoke_a_key(consoles: Consoles) -> None:
    """The secret is shown once, and works until the key is revoked."""
    page = consoles.admin
    await go(page, "keys")
    await page.do("click", "text=New key")
    await page.do("fill", "#key-user", "backend")
    await page.do("click", "dialog[open] button[type=submit]")
    await page.sees("#secret")
    [secret] = await page.texts("#secret")
    await page.do("press", "body", "Escape")
    item = {"channel": "trades", "data": {"amount": 1}}
    async with httpx.AsyncClient(base_url=f"http://{consoles.server.address}") as http:

        async def status() -> int:
            return (await http.post("/v1/publish", json=item, headers={"X-API-Key": secret})).status_code

        assert await status() == 200
        await page.do("click", "tr:has-text('backend') button:has-text('Move to pro')")
        await page.sees("tr:has-text('backend') td", "pro")
        await confirm(page, "tr:has-text('backend') button.danger")
        await page.sees("tr:has-text('backend') td", "revoked")
        with trio.fail_after(10):
            while await status() != 401:
                await trio.sleep(0.1)
    assert secret not in await page.do("content")


async def watch_plots_move(consoles: Consoles) -> None:
    """Samples arrive each second, and the figures follow the connections."""
    page = consoles.admin
    await go(page, "overview")
    await page.until("document.querySelectorAll('.uplot canvas').length === 4")
    samples = "Number(document.querySelector('.canvas').dataset.samples)"
    seen = await page.do("evaluate", samples)
    await page.until(f"{samples} > {seen} + 1")
    async with live(consoles.server.address, "zoe"):
        await page.sees("[data-figure=Connections]", "1")
    await page.sees("[data-figure=Connections]", "0")
    await page.sees("#page-overview tbody tr", "this one")


async def try_each_dialect(consoles: Consoles) -> None:
    """The page makes a token, and speaks each dialect; frames of both ways are shown, and no secret."""
    page = consoles.admin
    arguments = ("keys", "create", "--user", "bob", "--tier", "pro")
    key = await trio.to_thread.run_sync(lambda: consoles.server.command(*arguments))
    await go(page, "try")
    await page.do("click", "#minting button")
    await page.until("document.querySelector('#token').value.length > 100")
    for dialect, channel, expected in (
        ("live", "market:BTC", "market:price"),
        ("channels", "task:42", "subscribed"),
        ("feeds", "market:BTC", "price_update"),
        ("socketio", "market:BTC", "initial-prices"),
    ):
        await page.do("selectOption", "#dialect", dialect)
        await page.do("fill", "#channel", channel)
        if dialect == "socketio":
            await page.do("fill", "#api-key", key)
        await page.do("click", "#trial button.primary")
        await page.sees(".frames .state", "connected")
        if dialect in ("live", "channels"):
            await page.do("click", "#samples button:has-text('subscribe')")
            await page.do("click", ".card button[type=submit]")
            await page.sees(".frames .out", "subscribe")
        await page.sees(".frames .in", expected)
        await page.do("click", "#trial button.primary")
        await page.sees(".frames .state", "closed with 1000")
        assert not any(key in text or "eyJ" in text for text in await page.texts(".frames code"))
        await page.do("click", ".card button:has-text('Clear')")


async def see_what_axe_finds(consoles: Consoles) -> None:
    """Nothing on any page, light and dark, wide and narrow; and a narrow page needs no scrolling to the side."""
    for page in (consoles.admin, consoles.reader):
        for name in PAGES:
            await go(page, name)
            await page.until("document.querySelector('.list table, .list .empty, .tail, #trial') !== null")
            assert await page.do("audit") == [], name
            assert await page.do("evaluate", "document.documentElement.scrollWidth <= innerWidth"), name
        await page.do("press", "body", "Tab")
        assert await page.do("evaluate", "document.activeElement !== document.body")


async def sign_out(consoles: Consoles) -> None:
    """The session ends for the server too, and a revoked key ends the other one."""
    page = consoles.admin
    await go(page, "overview")
    await page.do("click", "#who button")
    await page.sees("#key")
    await page.do("goto", f"{consoles.url}#/keys")
    await page.do("reload")
    await page.sees("#key")
    assert await page.do("isVisible", "#pages") is False
    [key] = [one for one in json.loads(consoles.server.command("keys", "list", "--json")) if one["userId"] == HOSTILE]
    await trio.to_thread.run_sync(lambda: consoles.server.command("keys", "revoke", key["id"]))
    with trio.fail_after(10):
        while not await consoles.reader.do("isVisible", "#key"):
            await go_or_signed_out(consoles.reader)
    await consoles.reader.sees(".problem", "has ended")


async def go_or_signed_out(page: Page) -> None:
    """Make the page ask the server again."""
    await page.do("evaluate", "location.hash = location.hash === '#/rooms' ? '#/keys' : '#/rooms'")
    await trio.sleep(0.1)


def check_audit(consoles: Consoles) -> None:
    """Each change has a line in the log with its caller, and no secret is in any line."""
    lines = [json.loads(line) for line in consoles.server.log_text().splitlines() if line.startswith("{")]
    audited: list[dict[str, Any]] = [line for line in lines if line["logger"] == "relay.audit"]
    actions = {line["message"] for line in audited}
    assert actions >= {
        *("signed in to the console", "signed out of the console", "room created", "member added", "member removed"),
        *("disconnect", "publish", "key created", "key moved", "key revoked", "test token made"),
    }
    assert all(line["by"] and line["address"] == "127.0.0.1" for line in audited)
    assert "rk_live_" not in consoles.server.log_text()
    assert "#link=" not in consoles.server.log_text()
