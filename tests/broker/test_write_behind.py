"""What is written behind is in the store when the last write says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import trio
import trio.testing

from relay.broker import write_behind
from relay.broker.broker import Broker
from relay.broker.presence import Presence
from relay.broker.write_behind import WriteBehind
from relay.ground.timers import Timers
from relay.model.namespaces import ChannelName, Namespaces
from relay.model.publication import Draft, Outcome, Position, Publication, Unwritten
from tests.parts import SetClock
from tests.waiting import TIMEOUT

KINDS = Namespaces(entities=(), history_period=60.0, durable=())


class SlowStore:
    """A store that takes its time for each write."""

    writes_behind = True

    async def catch_up(self, channels: Sequence[ChannelName]) -> None:
        """Do nothing: there is one server."""

    def __init__(self) -> None:
        self.written: dict[str, int] = {}
        self.gate = trio.Event()

    async def load_head(self, channel: ChannelName, on_loaded: Callable[[Position], None]) -> Position:
        """See `broker.Store`."""
        await trio.lowlevel.checkpoint()
        on_loaded(Position(0, "e"))
        return Position(0, "e")

    async def load_history(
        self, channel: ChannelName, on_loaded: Callable[[list[Publication]], None]
    ) -> list[Publication]:
        """Nobody asks for it here."""
        raise NotImplementedError

    async def load_version(self, channel: ChannelName, on_loaded: Callable[[int | None], None]) -> int | None:
        """No publication has a version here."""
        raise NotImplementedError

    async def append(self, drafts: Sequence[Draft], on_commit: Callable[[list[Outcome]], None]) -> list[Outcome]:
        """Nothing is durable here."""
        raise NotImplementedError

    async def write_behind(self, channels: Sequence[Unwritten]) -> None:
        """See `broker.Store`."""
        await self.gate.wait()
        await trio.lowlevel.checkpoint()
        self.written.update((row.channel.text, row.head.offset) for row in channels)

    def renew_behind(self) -> None:
        """Nothing is refused here."""
        raise NotImplementedError


async def test_the_last_write_waits_for_the_one_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the server's end a periodic write may be half done: what it still holds must be written before the end counts as clean."""
    monkeypatch.setattr(write_behind, "MAX_CHANNELS", 1)
    store = SlowStore()
    broker = Broker(store, Presence(Timers(), offline_grace=5.0), SetClock())
    names = [KINDS["event"].channel(str(number)) for number in range(3)]
    await broker.publish_many([Draft(name, "t", {}, 0) for name in names])
    writing = WriteBehind(broker, store)
    with trio.fail_after(TIMEOUT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(writing.write)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(writing.write)
            await trio.testing.wait_all_tasks_blocked()
            await broker.publish(Draft(names[0], "t", {}, 0))
            store.gate.set()
            await writing.write()
            nursery.cancel_scope.cancel()  # as the server ends its services
    assert store.written == {"event:0": 2, "event:1": 1, "event:2": 1}
