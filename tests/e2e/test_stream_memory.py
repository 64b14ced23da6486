"""The memory of a thousand event streams, beside that of a thousand WebSockets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.clients import live
from tests.running import bearer, relay_process
from tests.streams import stream
from tests.waiting import until

pytestmark = pytest.mark.slow(12)

COUNT = 1000
WARM = 100
MAX_FACTOR = 1.5
AT_A_TIME = 50
NAMES = ("market:BTC", "trades")
SETTINGS = "[limits]\nhandshakes_per_minute = 1000000\n"

Open = Callable[[str, int], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def socket(address: str, number: int) -> AsyncIterator[None]:
    """Connect to `live` as a user, and subscribe."""
    async with live(address, f"u{number}") as client:
        assert (await client.ask(type="subscribe", channel="market", symbols=["BTC"]))["type"] == "subscribed"
        yield


@asynccontextmanager
async def event_stream(names: Sequence[str], address: str, number: int) -> AsyncIterator[None]:
    """Open a stream as a user."""
    async with stream(address, names, headers=bearer(f"u{number}")) as taken:
        for _ in names:
            assert (await taken.event())["event"] == "relay:subscribed"
        yield


def resident(pid: int) -> int:
    """Return the memory of a process, in bytes."""
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) * 1024


async def memory_of(opens: Open, folder: Path) -> float:
    """Return the bytes that each connection costs a server."""
    folder.mkdir()
    async with relay_process(folder, SETTINGS) as server:

        async def crowd(count: int) -> int:
            turns, there = trio.CapacityLimiter(AT_A_TIME), 0

            async def one(number: int) -> None:
                nonlocal there
                async with AsyncExitStack() as stack:
                    async with turns:
                        await stack.enter_async_context(opens(server.address, number))
                    there += 1
                    await trio.sleep_forever()

            async with trio.open_nursery() as nursery:
                for number in range(count):
                    nursery.start_soon(one, number)
                await until(lambda: there == count, 60)
                used = resident(server.pid)
                nursery.cancel_scope.cancel()
            return used

        before = await crowd(WARM)
        return (await crowd(COUNT) - before) / (COUNT - WARM)


async def test_a_thousand_streams_take_the_memory_of_a_thousand_websockets(tmp_path: Path) -> None:
    with trio.fail_after(170):
        websocket = await memory_of(socket, tmp_path / "socket")
        alone = await memory_of(partial(event_stream, NAMES[:1]), tmp_path / "alone")
        several = await memory_of(partial(event_stream, NAMES), tmp_path / "several")
    print(f"WebSocket {websocket:.0f}, stream {alone:.0f}, stream of two channels {several:.0f} bytes")
    assert websocket > 1000, "nothing was measured"
    assert alone < websocket * MAX_FACTOR
    assert several < websocket * MAX_FACTOR
