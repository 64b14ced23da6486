"""The flusher: what it writes directly is in the order in which everything else is queued, and how long it gathers."""

from __future__ import annotations

import itertools
import math
from typing import Any

import attrs
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from relay.broker.channel import Channel
from relay.broker.subscription import Subscriber
from relay.model.namespaces import Namespaces
from relay.model.publication import Draft, Position, Publication
from relay.sessions.flusher import MAX_BATCH_BYTES, MAX_GATHER_PERIOD, QUIET_TURNS, SENDS_PER_TURN, Flusher
from relay.sessions.outbox import Outbox
from relay.sessions.session import Session
from tests.fakes import MemoryTransport

KINDS = Namespaces(entities=(), history_period=60.0, durable=())
CHANNELS = ("trades", "market:A", "community:1")


def encode(publication: Publication) -> bytes:
    """Encode as one dialect does."""
    return b"%s/%d " % (publication.channel.text.encode(), publication.offset)


def encode_otherwise(publication: Publication) -> bytes:
    """Encode as another dialect does."""
    return b"<%s/%d> " % (publication.channel.text.encode(), publication.offset)


class Member:
    """A connection, and what it is to be sent."""

    def __init__(self, world: World, number: int) -> None:
        self.wire = MemoryTransport()
        self.outbox = Outbox(
            self.wire, world.flusher, 1 << 20, on_blocked=self._start_drain, on_overflow=lambda: pytest.fail("overflow")
        )
        self.encode = encode if number % 2 else encode_otherwise
        self.subscriber = Subscriber(self.outbox, self.encode, leave=lambda subscriber: None)
        self.expected = b""
        self.sealed = False
        self.listens: set[str] = set()
        self._nursery = world.nursery

    def _start_drain(self) -> None:
        self._nursery.start_soon(self.outbox.drain)


class World:
    """Channels, connections, and every frame in the order in which it was given out."""

    def __init__(self, nursery: trio.Nursery, flusher: Flusher, members: int) -> None:
        self.nursery = nursery
        self.flusher = flusher
        self.channels: dict[str, Channel] = {name: Channel(KINDS.parse(name), Position(0, "e")) for name in CHANNELS}
        self.members = [Member(self, number) for number in range(members)]
        self._count = 0

    def publish(self, name: str) -> None:
        """Publish to a channel."""
        channel = self.channels[name]
        # No price: of a slow reader of prices some are replaced.
        type_ = "market:halt" if name.startswith("market") else channel.name.namespace.default_type or "x"
        position = Position(channel.offset + 1, "e")
        publication = channel.publish(Draft(channel.name, type_, {}, 0), position, written=False)
        for member in self.members:
            if name in member.listens and not member.sealed:
                member.expected += member.encode(publication)

    def answer(self, number: int, *, broadcast: bool) -> None:
        """Tell one connection something else."""
        member = self.members[number % len(self.members)]
        self._count += 1
        frame = b"answer %d " % self._count
        if broadcast:
            member.outbox.push(frame)
        else:
            member.outbox.send_nowait(frame)
        if not (broadcast and member.sealed):
            member.expected += frame

    def toggle(self, number: int, name: str) -> None:
        """Join, or leave."""
        member = self.members[number % len(self.members)]
        channel = self.channels[name]
        if name in member.listens:
            channel.leave(member.subscriber)
            member.listens.discard(name)
        else:
            channel.join(member.subscriber)
            member.listens.add(name)

    def seal(self, number: int) -> None:
        """Begin to close one connection."""
        member = self.members[number % len(self.members)]
        member.sealed = True
        member.outbox.seal()

    def block(self, number: int, room: int) -> None:
        """Have one peer read no further than this, for now."""
        self.members[number % len(self.members)].wire.room = room


NUMBERS = st.integers(0, 400)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.sampled_from(CHANNELS)),
        st.tuples(st.just("publish"), st.sampled_from(CHANNELS)),
        st.tuples(st.just("answer"), NUMBERS, st.booleans()),
        st.tuples(st.just("toggle"), NUMBERS, st.sampled_from(CHANNELS)),
        st.tuples(st.just("toggle"), st.integers(0, 2), st.sampled_from(CHANNELS)),
        st.tuples(st.just("seal"), NUMBERS),
        st.tuples(st.just("block"), NUMBERS, st.integers(0, 30)),
        st.tuples(st.just("turn")),
        st.tuples(st.just("rest")),
    ),
    max_size=40,
)


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(STEPS, st.sampled_from([3, SENDS_PER_TURN * 2 + 1]))
def test_every_connection_gets_everything_once_and_in_order(steps: list[tuple[Any, ...]], members: int) -> None:
    """Whatever is published, answered, joined and left, also between two turns of one fan-out."""

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            flusher = Flusher()
            await nursery.start(flusher.run)
            world = World(nursery, flusher, members)
            for number in range(members):
                world.toggle(number, "trades")
            for step in steps:
                match step:
                    case ("answer", number, broadcast):
                        world.answer(number, broadcast=broadcast)
                    case ("turn",):
                        await trio.lowlevel.checkpoint()
                    case ("rest",):
                        await wait_all_tasks_blocked()
                    case (name, *arguments):
                        getattr(world, name)(*arguments)
            for member in world.members:
                member.wire.room = math.inf
            await trio.sleep(1)
            for member in world.members:
                assert member.wire.taken == member.expected
                assert member.outbox.size == 0
            assert not flusher.unsettled
            nursery.cancel_scope.cancel()

    trio.run(main, clock=MockClock(autojump_threshold=0))


@attrs.define
class Listeners:
    """The subscribers of one channel."""

    channel: Channel
    wires: list[MemoryTransport]
    outboxes: list[Outbox]

    def publish(self, size: int = 8) -> None:
        """Publish something of a size."""
        draft = Draft(self.channel.name, "trade:created", {"size": size}, 0)
        self.channel.publish(draft, Position(self.channel.offset + 1, "e"), written=False)


def listeners(flusher: Flusher, count: int, max_bytes: int = 1 << 20) -> Listeners:
    """Return so many subscribers of one channel."""
    wires = [MemoryTransport() for _ in range(count)]
    outboxes = [Outbox(wire, flusher, max_bytes, on_blocked=lambda: None, on_overflow=lambda: None) for wire in wires]
    channel = Channel(KINDS.parse("trades"), Position(0, "e"))

    def sized(publication: Publication) -> bytes:
        data = publication.data
        assert isinstance(data, dict)
        return (b"%d " % publication.offset).ljust(int(data["size"]), b".")

    for outbox in outboxes:
        channel.join(Subscriber(outbox, sized, leave=lambda subscriber: None))
    return Listeners(channel, wires, outboxes)


async def test_many_publications_are_one_write(nursery: trio.Nursery) -> None:
    flusher = Flusher()
    some = listeners(flusher, 10)
    for _ in range(5):
        some.publish()
    await nursery.start(flusher.run)
    await wait_all_tasks_blocked()
    for wire in some.wires:
        assert wire.taken == b"1 ......2 ......3 ......4 ......5 ......"
        assert len(wire.writes) == 1


async def test_a_fan_out_lets_others_run(nursery: trio.Nursery) -> None:
    flusher = Flusher()
    some = listeners(flusher, SENDS_PER_TURN * 5)
    await nursery.start(flusher.run)
    some.publish()
    written = [0]
    while written[-1] < len(some.wires):
        await trio.lowlevel.checkpoint()
        written.append(sum(bool(wire.taken) for wire in some.wires))
    assert max(after - before for before, after in itertools.pairwise(written)) <= 2 * SENDS_PER_TURN


async def test_what_waits_to_be_written_directly_is_bounded() -> None:
    flusher = Flusher()
    some = listeners(flusher, 2)
    for _ in range(3):
        some.publish(MAX_BATCH_BYTES // 2)
    assert not flusher.unsettled
    assert all(outbox.frame_count == 3 for outbox in some.outboxes)


async def test_of_a_write_that_is_refused_the_bound_holds() -> None:
    """However much was joined for one write, an outbox holds no more than it may."""
    flusher = Flusher()
    some = listeners(flusher, 1, max_bytes=100)
    some.wires[0].room = 10
    async with trio.open_nursery() as nursery:
        await nursery.start(flusher.run)
        for _ in range(20):
            some.publish(30)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert some.outboxes[0].size <= 100
    assert flusher.overflowed_frames > 0


async def test_who_is_gone_holds_up_nobody(nursery: trio.Nursery) -> None:
    flusher = Flusher()
    some = listeners(flusher, 3)
    some.wires[1].cut(BrokenPipeError)
    await nursery.start(flusher.run)
    some.publish()
    await wait_all_tasks_blocked()
    assert [len(wire.writes) for wire in some.wires] == [1, 0, 1]
    await some.outboxes[1].wait_until_written()


@pytest.mark.parametrize(("cost", "gathered"), [(0.001, 0.0005), (0.006, 0.003), (0.1, MAX_GATHER_PERIOD)])
async def test_it_gathers_as_long_as_more_comes(
    nursery: trio.Nursery, mock_clock: MockClock, cost: float, gathered: float
) -> None:
    """When more came during a flush, the next waits for half as long as that took, and never longer than the bound."""
    flusher = Flusher()
    some = listeners(flusher, 1)
    wire = some.wires[0]
    send = wire.send_nowait

    def costly(data: bytes) -> int:
        sent = send(data)
        mock_clock.jump(cost)
        if len(wire.writes) == 1:
            some.publish()  # while the first is written
        return sent

    some.outboxes[0].write = costly
    await nursery.start(flusher.run)
    some.publish()
    while not wire.writes:
        await trio.lowlevel.checkpoint()
    ended = wire.times[0] + cost
    while len(wire.writes) == 1:
        some.publish()
        mock_clock.jump(0.0001)
        await trio.lowlevel.checkpoint()
    assert gathered - 0.0002 <= wire.times[1] - ended <= gathered + 0.0005


async def test_it_gathers_no_longer_than_anything_comes(nursery: trio.Nursery, mock_clock: MockClock) -> None:
    flusher = Flusher()
    some = listeners(flusher, 1)
    wire = some.wires[0]
    await nursery.start(flusher.run)
    some.publish()
    some.publish()
    await wait_all_tasks_blocked()
    assert len(wire.writes) == 1
    mock_clock.jump(1)
    some.publish()
    for _ in range(3 * QUIET_TURNS):
        await trio.lowlevel.checkpoint()
    assert wire.times[1:] == [trio.current_time()]  # no time has passed


@pytest.mark.parametrize("comes", [True, False])
async def test_it_sleeps_until_what_is_being_committed_is_there(
    nursery: trio.Nursery, autojump_clock: MockClock, comes: bool
) -> None:
    """The thread that commits needs the interpreter; and what does not come in time is not waited for."""
    committing = False
    flusher = Flusher(lambda: committing)
    some = listeners(flusher, 1)
    wire = some.wires[0]
    send = wire.send_nowait

    def costly(data: bytes) -> int:
        autojump_clock.jump(0.006)
        return send(data)

    some.outboxes[0].write = costly
    await nursery.start(flusher.run)
    some.publish()
    some.publish()
    await wait_all_tasks_blocked()
    ended = trio.current_time()
    committing = True
    some.publish()
    await wait_all_tasks_blocked()
    assert len(wire.writes) == 1
    if comes:
        committing = False
        some.publish()
        await wait_all_tasks_blocked()
        assert wire.taken.endswith(b"3 ......4 ......")
    else:
        await trio.sleep(1)
        assert wire.times[1] - ended == pytest.approx(0.006 * 0.5 + 0.006)
    assert len(wire.writes) == 2


async def test_a_ping_takes_no_room_from_what_waits() -> None:
    """A slow reader who has just room for what was published is not ended by a ping."""
    flusher, wire = Flusher(), MemoryTransport(room=0)
    ends: list[str] = []
    outbox = Outbox(wire, flusher, 100, on_blocked=lambda: None, on_overflow=lambda: ends.append("overflow"))
    session = Session(outbox, dialect="live", address="", query="", idle_timeout=60)
    audience = outbox.audience("channel")
    audience.add(outbox)
    audience.deliver(b"x" * 99, None, except_for=None)
    session.ping()
    assert (ends, outbox.size) == ([], 99)
