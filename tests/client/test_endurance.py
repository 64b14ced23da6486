"""Many clients for a while: connections are cut, tokens expire, readers are slow, the server is killed; nothing is lost."""

from __future__ import annotations

import os
import random
from itertools import count
from pathlib import Path

import anyio
import pytest

from relay.client.python import Backend, Client, Draft, Subscription
from tests.client.loops import Cutter, backend, client, cutter, on_both, restart, until
from tests.running import RelayProcess, token

ENDURANCE_SECONDS = float(os.environ.get("RELAY_ENDURANCE", "5"))
"""How long it lasts on each loop. A minute, with RELAY_ENDURANCE=60, also shows that memory stays flat."""
LONG = 60.0
"""Seconds from which the growth of memory is judged."""
CLIENTS = 20
TOKEN_SECONDS = 3
CATCH_UP_TIMEOUT = 60.0
MAX_GROWTH = 8 * 1024 * 1024
"""Bytes that the process may grow by in the second half."""


class Reader:
    """One client that checks each channel: every number once and in order."""

    def __init__(self, number: int, slow: float, tally: Tally) -> None:
        self._user = f"user-{number}"
        self._slow = slow
        self._tally = tally
        self.reasons: list[str] = []
        self.errors: list[Exception] = []
        self.client: Client | None = None

    @property
    def is_connected(self) -> bool:
        return self.client is not None and self.client.state == "connected"

    async def get_token(self, reason: str) -> str:
        self.reasons.append(reason)
        if reason == "refresh" and random.random() < 0.5:
            raise OSError("the issuer is away")
        return token(self._user, expires_in=TOKEN_SECONDS)

    async def run(self, proxy: Cutter) -> None:
        one = self.client = client(proxy, token=self.get_token, on_error=self.errors.append, timeout=30.0)
        async with one, anyio.create_task_group() as tasks:
            for channel in self._tally.channels:
                tasks.start_soon(self._read, one, one.subscribe(channel, max_pending=random.choice([10, 1000])))
            tasks.start_soon(self._publish, one)

    async def _read(self, one: Client, subscription: Subscription) -> None:
        async with subscription:
            self._tally.ready += 1
            assert subscription.position is not None
            expected = subscription.position.offset + 1
            async for publication in subscription:
                assert publication.position is not None
                assert publication.position.offset == expected, f"{publication} came in the place of {expected}"
                expected += 1
                self._tally.delivered += 1
                if publication.data.get("last"):
                    self._tally.done += 1
                    return
                if subscription.channel != "broadcast" and random.random() < self._slow:  # of that few are kept
                    await anyio.sleep(0.05)

    async def _publish(self, one: Client) -> None:
        """Publish as a user, each once, however often the connection is cut."""
        while self._tally.running:
            await one.publish(self._tally.channels[0], {"user": self._user})
            self._tally.published += 1
            await anyio.sleep(0.3)


class Tally:
    """What happened."""

    ready = published = delivered = done = 0
    running = True

    def __init__(self, loop: str) -> None:
        self.room = f"endurance-{loop}"
        self.channels = (f"orders:{self.room}", f"chatroom:{self.room}", "broadcast")
        self.subscriptions = CLIENTS * len(self.channels)


async def _publish(publisher: Backend, tally: Tally) -> None:
    """Publish as a backend, single ones and arrays."""
    for number in count():
        await publisher.publish("broadcast", {"n": number}, type="news")
        message = {"userId": "backend", "message": str(number)}
        orders, room, _ = tally.channels
        results = await publisher.publish_many([Draft(room, message), Draft(orders, {"n": number})])
        assert not [one for one in results if isinstance(one, Exception)]
        if not tally.running:
            break
        await anyio.sleep(0.02)


async def _break(server: RelayProcess, proxy: Cutter, tally: Tally, readers: list[Reader]) -> None:
    """Cut all connections now and then, once all clients are back: else a busy machine would keep some away for ever."""
    end = anyio.current_time() + ENDURANCE_SECONDS
    kills = [end - ENDURANCE_SECONDS * 2 / 3]
    sizes: list[int] = []
    while anyio.current_time() < end:
        await anyio.sleep(random.uniform(0.2, 0.6))
        await until(lambda: all(reader.is_connected for reader in readers), CATCH_UP_TIMEOUT)
        proxy.cut()
        if kills and anyio.current_time() > kills[0]:
            kills.pop()
            await restart(server)
        if anyio.current_time() > end - ENDURANCE_SECONDS / 2:
            sizes.append(_resident())
    # A cut comes before most refreshes.
    await until(lambda: any("refresh" in reader.reasons for reader in readers), CATCH_UP_TIMEOUT)
    tally.running = False
    if ENDURANCE_SECONDS >= LONG:
        print(f"{tally.delivered} delivered, {tally.published} published, {sizes[0]} to {sizes[-1]} bytes")
        assert sizes[-1] - sizes[0] < MAX_GROWTH, sizes


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow(8)
@on_both
def test_nothing_is_lost_for_a_while(server: RelayProcess, loop: str) -> None:
    tally = Tally(loop)
    readers = [Reader(number, 0.1 if number % 5 == 0 else 0.0, tally) for number in range(CLIENTS)]

    async def test() -> None:
        async with cutter(server.port) as proxy, backend(proxy) as publisher, anyio.create_task_group() as tasks:
            await publisher.rest("POST", "/v1/chatrooms", {"name": "Endurance", "id": tally.room})
            for reader in readers:
                tasks.start_soon(reader.run, proxy)
            while tally.ready < tally.subscriptions:
                await anyio.sleep(0.02)
            async with anyio.create_task_group() as publishing:
                publishing.start_soon(_publish, publisher, tally)
                await _break(server, proxy, tally, readers)
            with anyio.fail_after(CATCH_UP_TIMEOUT):
                await _end(publisher, tally)

    async def _end(publisher: Backend, tally: Tally) -> None:
        await anyio.sleep(1)  # the last publications of the users
        await publisher.publish("broadcast", {"last": True}, type="news")
        await publisher.publish(tally.channels[1], {"last": True, "userId": "backend", "message": "last"})
        await publisher.publish(tally.channels[0], {"last": True})
        while tally.done < tally.subscriptions:
            await anyio.sleep(0.05)

    anyio.run(test, backend=loop)
    assert tally.published > CLIENTS
    assert {reason for reader in readers for reason in reader.reasons} >= {"connect", "refresh"}
