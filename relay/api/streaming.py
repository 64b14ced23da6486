"""A response without an end for an operator: it lasts while the client is there and its right holds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio

from relay.api.authentication import Caller, authenticate_operator, while_valid
from relay.core import Core
from relay.ground.errors import Code, RequestError
from relay.model.principal import Principal
from relay.sessions.outbox import GONE
from relay.transports.exchange import Exchange

SESSION_INTERVAL = 5.0
"""Seconds between two looks whether the session of a stream has ended. Keys and tokens need none: they are watched."""

StartStream = Callable[[], Awaitable[None]]


async def stream_while_valid(
    core: Core,
    caller: Caller,
    principal: Principal,
    exchange: Exchange,
    start: StartStream,
    write: Callable[[], Awaitable[None]],
) -> None:
    """Write the head with `start`, then run `write` until it returns, the client is gone or its right ends."""
    with suppress(*GONE):
        await start()
        with suppress(RequestError), while_valid(core, principal):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_when_gone, exchange, nursery.cancel_scope)
                if caller.session is not None:
                    nursery.start_soon(_cancel_when_signed_out, core, caller, nursery.cancel_scope)
                with suppress(*GONE):
                    await write()
                nursery.cancel_scope.cancel()


async def _cancel_when_gone(exchange: Exchange, scope: trio.CancelScope) -> None:
    await exchange.wait_gone()
    scope.cancel()


async def _cancel_when_signed_out(core: Core, caller: Caller, scope: trio.CancelScope) -> None:
    while not scope.cancel_called:
        await trio.sleep(SESSION_INTERVAL)
        try:
            await authenticate_operator(core, caller)
        except RequestError as refusal:
            if refusal.code is Code.UNAUTHORIZED:  # otherwise the store cannot be asked now
                scope.cancel()
