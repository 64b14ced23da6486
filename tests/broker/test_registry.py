"""The registry of channels in memory: loading, pins, and the channels that it drops."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from relay.broker.channel import Channel
from relay.broker.registry import IDLE_PERIOD, ChannelRegistry
from relay.broker.subscription import Subscriber
from relay.ground.errors import Code, RequestError
from relay.model.namespaces import ChannelName, Namespaces
from relay.model.publication import Draft, Position, Publication
from tests.fakes import RecordingSink
from tests.parts import START_MS, SetClock

KINDS = Namespaces(entities=(), history_period=60.0, durable=())
TRADES = KINDS["trades"].channel()
PERIOD_MS = 60_000


class FakeSource:
    """A store with one head and one history, which answers when it is released."""

    def __init__(self, offset: int = 0) -> None:
        self.head = Position(offset, "e")
        self.queries = 0
        self.failing = False
        self.released = trio.Event()

    async def catch_up(self, channels: Sequence[ChannelName]) -> None:
        """Do nothing: there is one server."""

    def release(self) -> None:
        """Answer every query from now on."""
        self.released.set()

    async def load_head(self, channel: ChannelName, on_loaded: Callable[[Position], None]) -> Position:
        """Return the head."""
        self.queries += 1
        await self.released.wait()
        on_loaded(self.head)
        return self.head

    async def load_version(self, channel: ChannelName, on_loaded: Callable[[int | None], None]) -> int | None:
        """No publication has a version here."""
        raise NotImplementedError

    async def load_history(
        self, channel: ChannelName, on_loaded: Callable[[list[Publication]], None]
    ) -> list[Publication]:
        """Return a publication for each offset."""
        self.queries += 1
        failing = self.failing
        await self.released.wait()
        if failing:
            raise RequestError(Code.UNAVAILABLE, "The disk is full.")
        kept = [
            Publication(channel, "trade:created", offset, "e", START_MS, data={})
            for offset in range(1, self.head.offset + 1)
        ]
        on_loaded(kept)
        return kept


def registry(source: FakeSource) -> ChannelRegistry:
    """Return a registry of channels of this source."""
    return ChannelRegistry(source, SetClock(), defaultdict(int))


async def loaded(source: FakeSource) -> tuple[ChannelRegistry, Channel]:
    """Return a registry with one channel in memory; from now on the source waits to be released."""
    channels = registry(source)
    source.release()
    channel = await channels.load(TRADES)
    source.released, source.queries = trio.Event(), 0
    return channels, channel


def publish(channel: Channel) -> None:
    """Publish to a channel; the store does not have it yet."""
    channel.publish(
        Draft(channel.name, "trade:created", {}, START_MS), Position(channel.offset + 1, "e"), written=False
    )


async def test_tasks_that_load_a_channel_get_the_same_object(nursery: trio.Nursery) -> None:
    source = FakeSource(offset=3)
    channels = registry(source)
    found: list[Channel] = []

    async def load() -> None:
        found.append(await channels.load(TRADES))

    for _ in range(3):
        nursery.start_soon(load)
    await wait_all_tasks_blocked()
    source.release()
    await wait_all_tasks_blocked()
    assert found == [found[0]] * 3
    assert found[0].position == Position(3, "e")
    assert channels.get(TRADES) is found[0]
    assert len(channels) == 1


async def test_tasks_that_load_a_history_share_one_query(nursery: trio.Nursery) -> None:
    """However many clients resume at once, its rows are read and kept once."""
    source = FakeSource(offset=5)
    channels, channel = await loaded(source)
    done: list[int] = []

    async def load() -> None:
        await channels.load_missed(channel, Position(1, "e"))
        done.append(len(channel.history))

    for _ in range(100):
        nursery.start_soon(load)
    await wait_all_tasks_blocked()
    source.release()
    await wait_all_tasks_blocked()
    assert done == [5] * 100
    assert source.queries == 1


@pytest.mark.parametrize("cancelled", [True, False])
async def test_a_task_does_not_share_the_failure_of_another(nursery: trio.Nursery, cancelled: bool) -> None:
    """If the query is cancelled or fails, each task that shared it asks for itself."""
    source = FakeSource(offset=5)
    channels, channel = await loaded(source)
    source.failing = not cancelled
    scope = trio.CancelScope()
    outcomes: list[object] = []

    async def load() -> None:
        try:
            await channels.load_history(channel)
            outcomes.append(len(channel.history))
        except RequestError as refusal:
            outcomes.append(refusal.code)

    async def first() -> None:
        with scope:
            await load()

    nursery.start_soon(first)
    await wait_all_tasks_blocked()
    for _ in range(2):
        nursery.start_soon(load)
    await wait_all_tasks_blocked()
    assert source.queries == 1
    source.failing = False
    if cancelled:
        scope.cancel()
        await wait_all_tasks_blocked()
    source.release()
    await wait_all_tasks_blocked()
    assert outcomes == ([5, 5] if cancelled else [Code.UNAVAILABLE, 5, 5])


async def test_a_pinned_channel_stays() -> None:
    """An unpinned channel that nothing was published to is dropped at once: any name makes one."""
    source = FakeSource()
    channels = registry(source)
    source.release()
    channel = await channels.pin(TRADES)
    channels.unload_if_empty(channel)
    assert channels.get(TRADES) is channel
    channels.unpin(channel)
    assert channels.get(TRADES) is None


async def test_an_idle_channel_is_dropped_after_its_period() -> None:
    channels, channel = await loaded(FakeSource(offset=1))
    assert channels.unload_idle(10.0) == 1
    assert channels.unload_idle(9.9 + IDLE_PERIOD) == 1
    channel.pin()
    assert channels.unload_idle(10.0 + IDLE_PERIOD) == 1
    channel.unpin()
    assert channels.unload_idle(11.0 + IDLE_PERIOD) == 1
    assert channels.unload_idle(11.0 + 2 * IDLE_PERIOD) == 0


async def test_a_position_can_be_resumed_while_the_history_reaches_it() -> None:
    source = FakeSource(offset=5)
    channels, channel = await loaded(source)
    assert not channels.can_resume(channel, Position(4, "e"))  # not loaded
    source.release()
    await channels.load_history(channel)
    assert channels.can_resume(channel, Position(0, "e"))
    assert channels.can_resume(channel, Position(5, "e"))
    assert not channels.can_resume(channel, Position(6, "e"))
    assert not channels.can_resume(channel, Position(4, "other"))


async def test_an_expired_publication_cannot_be_resumed() -> None:
    source = FakeSource(offset=5)
    clock = SetClock()
    channels = ChannelRegistry(source, clock, defaultdict(int))
    source.release()
    channel = await channels.load(TRADES)
    await channels.load_history(channel)
    clock.ms += PERIOD_MS
    assert channels.can_resume(channel, Position(0, "e"))
    clock.ms += 1
    assert not channels.can_resume(channel, Position(0, "e"))
    assert channels.can_resume(channel, Position(5, "e"))


async def test_unwritten_channels_are_taken_and_put_back_in_order() -> None:
    source = FakeSource()
    channels = registry(source)
    source.release()
    one, two = [await channels.load(KINDS["market"].channel(symbol)) for symbol in ("A", "B")]
    channels.note_unwritten(one)
    assert channels.take_dirty() == [one]
    channels.note_unwritten(two)
    channels.put_back_dirty([one])
    assert channels.dirty_count == 2
    assert channels.take_dirty() == [one, two]
    assert channels.dirty_count == 0


async def test_the_oldest_unwritten_channels_without_subscribers_are_dropped() -> None:
    """A channel with a subscriber or a pin stays."""
    source = FakeSource()
    channels = registry(source)
    source.release()
    names = [KINDS["market"].channel(symbol) for symbol in "ABCDE"]
    heard, pinned, *others = [await channels.load(name) for name in names]
    heard.join(Subscriber(RecordingSink(), lambda publication: None, leave=heard.leave))
    pinned.pin()
    for channel in (heard, pinned, *others):
        publish(channel)
        channels.note_unwritten(channel)
    assert channels.drop_unwritten(1) == 2
    assert [channels.get(name) is not None for name in names] == [True, True, False, False, True]
    assert channels.dirty_count == 3


async def test_a_forgotten_channel_keeps_its_offset() -> None:
    source = FakeSource(offset=5)
    channels, channel = await loaded(source)
    publish(channel)
    channels.forget(TRADES)
    assert (channel.offset, channel.history.complete, len(channel.history)) == (6, True, 0)
    channels.forget(KINDS["market"].channel("A"))  # it is not in memory
