"""The parts of the server of `relay demo`: sample rooms, prices that move, and the route that makes tokens."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import trio

from relay.api.demo import token_blueprint
from relay.core import Core
from relay.dialects.base import Dialect
from relay.ground import logs
from relay.ground.errors import RequestError
from relay.model.principal import Principal

log = logs.get("relay.demo")

PRICE_INTERVAL = 0.9
"""Seconds between two steps of the prices."""
STEP = 0.0006
"""The standard deviation of a step, relative to the price."""
HOST = Principal("Relay", is_admin=True)
"""The creator of the sample rooms."""
ROOMS: Mapping[str, tuple[str, str]] = {
    "lobby": ("Lobby", "Welcome! Open this page in a second window, and write to yourself."),
    "gold": ("Gold", "The prices above are made up. They move once a second."),
    "support": ("Support", "Stop the server with Ctrl-C while you write, and start it again: the page comes back."),
}
"""The name and the first message of each room, by its id."""
SMALL_PRICE = 10.0
"""Prices below have four decimals, the others two."""
PRICES = {"BTC": 87_250.0, "ETH": 3_120.0, "EUR/USD": 1.0875, "GOLD": 2_655.0}
"""The first price of each symbol."""


def open_demo(core: Core) -> Dialect:
    """Return a dialect without an endpoint: its route and its service run beside those of the others."""

    async def run(*, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        await _make_rooms(core)
        await _publish(core, {f"market:{symbol}": {"price": price} for symbol, price in PRICES.items()})
        task_status.started()
        await _move_prices(core)

    return Dialect("demo", blueprints=(token_blueprint(core),), services=(run,))


async def _make_rooms(core: Core) -> None:
    for room_id, (name, message) in ROOMS.items():
        await core.rooms.create(HOST, name=name, description=None, type_="public", id_=room_id)
        await _publish(core, {f"chatroom:{room_id}": {"userId": HOST.user_id, "message": message}})


async def _move_prices(core: Core) -> None:
    prices = dict(PRICES)
    while True:
        await trio.sleep(PRICE_INTERVAL)
        for symbol in random.sample(sorted(prices), 2):
            prices[symbol] *= 1 + random.gauss(0, STEP)
        try:
            await _publish(core, {f"market:{symbol}": {"price": _rounded(price)} for symbol, price in prices.items()})
        except RequestError as refusal:
            log.warning("prices were not published", cause=refusal.message)


def _rounded(price: float) -> float:
    return round(price, 4 if price < SMALL_PRICE else 2)


async def _publish(core: Core, data: Mapping[str, Mapping[str, Any]]) -> None:
    """Publish to each of these channels.

    Raises:
        RequestError: the store is not available.
    """
    drafts = [
        core.publishing.draft({"channel": name, "data": item}, scope="demo", size=0) for name, item in data.items()
    ]
    await core.publishing.publish_many(drafts)
