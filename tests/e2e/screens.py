"""Takes the pictures of the handbook, of the console and the demo: `python -m tests.e2e.screens`, in two minutes."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import trio

from relay.auth.console_sessions import link_grant, new_secret
from relay.ground.clock import Clock
from relay.model.principal import Principal
from relay.server.server import Server
from relay.store import api_keys
from relay.store import console_sessions as store
from relay.store.rooms import RoomType
from tests.actions import publish
from tests.clients import Client, connect, live
from tests.e2e.browser import Page, relay_demo, two_pages
from tests.running import config_for, running, token

FOLDER = Path(__file__).parents[2] / "relay/docs/screens"
SIZE = {"viewport": {"width": 1040, "height": 660}}
WINDOW = {"viewport": {"width": 720, "height": 540}}
USERS = ("ada", "grace", "linus", "margaret", "dennis")
ROOMS: tuple[tuple[str, RoomType], ...] = (("General", "public"), ("Design", "group"), ("Board", "private"))
WARM_UP = 45.0
"""Seconds of traffic before the first picture, so that the plots show something."""


async def main() -> None:
    """Take every picture, light and dark."""
    FOLDER.mkdir(exist_ok=True)
    await take_demo()
    with tempfile.TemporaryDirectory() as folder:
        settings = {"server.node_name": "relay-1", "store.path": str(Path(folder) / "relay.db")}
        async with running(config_for(Path(folder), settings)) as (server, address), busy(server, address) as room:
            await trio.sleep(WARM_UP)
            async with two_pages() as (light, dark):
                for page, scheme in ((light, "light"), (dark, "dark")):
                    await page.open(f"http://{address}/console", colorScheme=scheme, **SIZE)
                    await page.sees("#key")
                    await shoot(page, f"sign-in-{scheme}")
                    await page.do("goto", "about:blank")
                    await page.do("goto", f"http://{address}/console#link={await make_link(server)}")
                    await page.sees("#server-state")
                    await take_all(page, scheme, room)


async def take_demo() -> None:
    """Take the pictures of the demo: the first window alone, then two windows that chat."""
    async with relay_demo() as url, two_pages() as (ada, grace):
        await ada.open(url, colorScheme="light", **WINDOW)
        await ada.sees("#name")
        await shoot(ada, "demo-join")
        await ada.join("Ada")
        await ada.sees("#messages li", "Open this page in a second window")
        await grace.open(url, colorScheme="dark", **WINDOW)
        await grace.join("Grace")
        await ada.sees("#present li", "Grace")
        await grace.say("Hello Ada, I see you from the other window")
        await ada.sees("#messages li", "Hello Ada")
        await ada.say("Hello Grace! Type something, and I see that you do")
        await grace.sees("#messages li", "Hello Grace")
        await grace.do("press", "#message", "W")
        await ada.sees("#typing", "Grace")
        await trio.sleep(1)  # the last message fades in
        await shoot(ada, "demo-ada")
        await shoot(grace, "demo-grace")


async def take_all(page: Page, scheme: str, room: str) -> None:
    """Take the picture of each page."""
    for name, address, ready in (
        ("overview", "overview", ".uplot"),
        ("connections", "connections", "tbody tr:nth-child(5)"),
        ("channels", "channels", "tbody tr"),
        ("channel", "channels/market%3ABTC", "tbody tr"),
        ("rooms", "rooms", "tbody tr:nth-child(3)"),
        ("room", f"rooms/{room}", "tbody tr:nth-child(3)"),
        ("keys", "keys", "tbody tr"),
        ("webhooks", "webhooks", ".list table, .empty"),
        ("tail", "tail", "#entries li:nth-child(12)"),
        ("try", "try", "#minting"),
    ):
        await page.do("evaluate", f"location.hash = {json.dumps(f'#/{address}')}")
        await page.sees(f"#page-{address.partition('/')[0]} {ready}".replace(", ", f", #page-{name} "))
        if name == "try":
            await try_it(page)
        await trio.sleep(1.5)
        await shoot(page, f"{name}-{scheme}")


async def try_it(page: Page) -> None:
    """Speak `live`, so that the picture has frames."""
    await page.do("click", "#minting button")
    await page.until("document.querySelector('#token').value.length > 100")
    await page.do("click", "#trial button.primary")
    await page.sees(".frames .in", "auth:success")
    await page.do("click", "#samples button:has-text('subscribe')")
    await page.do("click", ".card button[type=submit]")
    await page.sees(".frames .in", "market:price")
    await page.do("evaluate", "document.querySelectorAll('.notice').forEach((shown) => shown.remove())")


async def shoot(page: Page, name: str) -> None:
    """Write one picture."""
    await page.do("shot", str(FOLDER / f"{name}.webp"))


async def make_link(server: Server) -> str:
    """Return a one-time link."""
    link, now_ms = new_secret(), Clock().now_ms()
    grant = link_grant(now_ms, writes=True)
    await server.database.write(lambda connection: store.add(connection, "link", link, grant, now_ms))
    return link


@asynccontextmanager
async def busy(server: Server, address: str) -> AsyncIterator[str]:
    """Have users, rooms, keys and traffic. Return the id of a room."""
    rooms = []
    for name, type_ in ROOMS:
        made = await server.core.rooms.create(Principal("ada"), name=name, description=None, type_=type_)
        for user in USERS:
            await server.core.rooms.add_member(Principal("ada"), made.id, user)
        rooms.append(made.id)
    for user, scope in (("web-shop", "publish"), ("ops", "console:write"), ("grace", "connect")):
        await server.database.write(partial(make_key, user=user, scope=scope))
    async with AsyncExitStack() as stack:
        clients = []
        for user in USERS:
            client = await stack.enter_async_context(live(address, user))
            clients.append(client)
            for room in rooms:
                await client.send(type="subscribe", channel="chatroom", chatroomId=room)
            await client.send(type="subscribe", channel="market", symbols=["BTC", "ETH", "EUR/USD"])
        for path in (f"/api/ws?token={token('barbara')}", "/api/v1/ws/trades", "/api/v1/ws/assets/BTC/price"):
            clients.append(await stack.enter_async_context(connect(address, path)))
        async with trio.open_nursery() as nursery:
            for client in clients:
                nursery.start_soon(read, client)
            nursery.start_soon(trade, address)
            yield rooms[1]
            nursery.cancel_scope.cancel()


def make_key(connection: Any, *, user: str, scope: str) -> None:
    """Make an API key."""
    api_keys.create(
        connection, prefix="rk", mode="live", user_id=user, tier="pro", scopes=[scope], now_ms=Clock().now_ms()
    )


async def read(client: Client) -> None:
    """Take what comes."""
    while True:
        await client.receive_late()


async def trade(address: str) -> None:
    """Publish prices and trades at a rate that changes."""
    prices = {"BTC": 87250.0, "ETH": 3120.0, "EUR/USD": 1.0876}
    while True:
        for symbol in prices:
            prices[symbol] *= 1 + random.uniform(-0.001, 0.001)
            await publish(address, {"channel": f"market:{symbol}", "data": {"price": round(prices[symbol], 4)}})
        await publish(
            address, {"channel": "trades", "data": {"amount": random.randint(1, 50) * 1000, "pair": "EUR/USD"}}
        )
        await trio.sleep(random.uniform(0.05, 0.6))


if __name__ == "__main__":
    trio.run(main)
