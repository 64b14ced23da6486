"""The broker on a real database: cases of a resume that need an exact moment. `test_resume` tries the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import pytest
import trio
import trio.testing

from relay.broker.broker import Broker
from relay.broker.presence import Presence
from relay.broker.registry import IDLE_PERIOD
from relay.broker.store_follower import StoreFollower
from relay.ground.errors import Code, Disconnect, Reason, RequestError
from relay.ground.timers import Timers
from relay.model.namespaces import ChannelName, Namespaces
from relay.model.principal import Principal
from relay.model.publication import Draft, Encoder, Outcome, Position, Publication, Published, Unwritten
from relay.sessions.flusher import Flusher
from relay.sessions.outbox import Outbox, flush
from tests.fakes import MemoryTransport
from tests.kept import recent
from tests.parts import Ear, Parts, SetClock, admin, encode, listening, open_parts, user
from tests.waiting import until

SIZE = 100
"""Of the history of a `task` channel."""


async def publish(parts: Parts, channel: str, count: int) -> Position:
    """Publish so many; returns the last one's position."""
    name = parts.namespaces.parse(channel)
    drafts = [Draft(name, "t", {"x": n}, parts.clock.ms) for n in range(count)]
    last = (await parts.broker.publish_many(drafts))[-1]
    assert not isinstance(last, Exception)
    return last.position


async def test_a_resume_that_waits_is_judged_when_it_is_answered(tmp_path: Path) -> None:
    """While it waited for room the history went past its position: it is told so, and not promised what is gone."""
    answers: list[tuple[Position, bool | None]] = []

    def answer(position: Position, recovered: bool | None) -> bytes:
        answers.append((position, recovered))
        return b"{}\n"

    with trio.fail_after(10):
        async with open_parts(tmp_path) as parts, trio.open_nursery() as nursery:
            gate = MemoryTransport(room=0)
            outbox = Outbox(
                gate, Flusher(), 1000, on_blocked=lambda: nursery.start_soon(outbox.drain), on_overflow=lambda: None
            )
            start = await publish(parts, "task:1", 1)
            outbox.send_nowait(b"x" * 1000)
            flush((outbox,))
            name = parts.namespaces.parse("task:1")

            async def resume() -> None:
                with (
                    parts.broker.attach(outbox, encode) as subscriber,
                    parts.broker.reserved(subscriber, [name], maximum=1) as [subscription],
                ):
                    await parts.broker.subscribe(subscriber, subscription, outbox=outbox, since=start, answer=answer)

            nursery.start_soon(resume)
            await trio.testing.wait_all_tasks_blocked()
            assert answers == []
            head = await publish(parts, "task:1", SIZE + 1)
            gate.grant()
            await trio.testing.wait_all_tasks_blocked()
    assert answers == [(head, False)]
    flush((outbox,))
    assert gate.taken.endswith(b"x{}\n"), "a part of what was missed was sent"


@pytest.mark.parametrize("answered", [False, True])
async def test_an_epoch_that_ends_while_a_resume_waits(tmp_path: Path, answered: bool) -> None:
    """Its client is answered for the new epoch. Once it was answered for the old one, it must come again."""
    told: list[bool | Reason | None] = []
    async with open_parts(tmp_path) as parts, trio.open_nursery() as nursery:
        gate = MemoryTransport(room=0)
        outbox = Outbox(
            gate, Flusher(), 1000, on_blocked=lambda: nursery.start_soon(outbox.drain), on_overflow=lambda: None
        )
        name = parts.namespaces.parse("task:1")
        start = await publish(parts, name.text, 1)
        await publish(parts, name.text, 50)
        await parts.broker.channels.load_history(
            await parts.broker.channels.pin(name)
        )  # so the store is not asked later
        outbox.send_nowait(b"x" if answered else b"x" * 1000)
        flush((outbox,))

        async def resume() -> None:
            with (
                parts.broker.attach(outbox, encode) as subscriber,
                parts.broker.reserved(subscriber, [name], maximum=1) as [subscription],
            ):
                try:
                    await parts.broker.subscribe(
                        subscriber, subscription, outbox=outbox, since=start, answer=lambda _, found: told.append(found)
                    )
                except Disconnect as disconnect:
                    told.append(disconnect.reason)

        nursery.start_soon(resume)
        await trio.testing.wait_all_tasks_blocked()
        StoreFollower(parts.broker).renew(name, Position(start.offset, "new"))
        gate.grant()
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert told == ([True, Reason.TOO_SLOW] if answered else [False])


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_room_that_was_made_anew_is_not_resumed_into(tmp_path: Path, restarted: bool) -> None:
    """Its id, and so its channel, is the old one's; positions of the old room are told that what they missed is gone."""
    parts_of_run = AsyncExitStack()
    async with parts_of_run:
        parts = await parts_of_run.enter_async_context(open_parts(tmp_path))
        await parts.rooms.create(admin(), name="R", description=None, type_="public", id_="lobby")
        old = await publish(parts, "chatroom:lobby", 3)
        await parts.rooms.delete(admin(), "lobby")
        await parts.rooms.create(admin(), name="R", description=None, type_="public", id_="lobby")
        new = await publish(parts, "chatroom:lobby", 2)
        assert new == Position(5, old.epoch)
        if restarted:
            await parts_of_run.aclose()
            parts = await parts_of_run.enter_async_context(open_parts(tmp_path))
        answers = {offset: await resumed(parts, "chatroom:lobby", Position(offset, old.epoch)) for offset in range(7)}
    assert answers == {0: None, 1: None, 2: None, 3: [4, 5], 4: [5], 5: [], 6: None}


def encode_offset(publication: Publication) -> bytes:
    """Encode a publication as its offset."""
    return b"%d " % publication.offset


async def resumed(parts: Parts, channel: str, since: Position, encode: Encoder = encode_offset) -> list[int] | None:
    """Return the offsets that a resume is given, None if it is not recovered."""
    ear = Ear()
    told: list[bool | None] = []
    gate = MemoryTransport(room=0)
    gate.grant()
    outbox = Outbox(gate, Flusher(), 10_000, on_blocked=lambda: None, on_overflow=lambda: None)
    name = parts.namespaces.parse(channel)
    with (
        parts.broker.attach(ear, encode) as subscriber,
        parts.broker.reserved(subscriber, [name], maximum=1) as [subscription],
    ):
        await parts.broker.subscribe(
            subscriber,
            subscription,
            outbox=outbox,
            since=since,
            answer=lambda position, recovered: told.append(recovered),
        )
    flush((outbox,))
    return [int(word) for word in gate.taken.split()] if told == [True] else None


async def test_clients_that_resume_a_channel_share_its_frames(tmp_path: Path) -> None:
    """A publication is encoded once, however many clients resume it, and each gets all of them in order."""
    encoded: list[int] = []

    def counting(publication: Publication) -> bytes:
        encoded.append(publication.offset)
        return b"%d " % publication.offset

    async with open_parts(tmp_path) as parts:
        last = await publish(parts, "task:1", 5)
        since = Position(0, last.epoch)
        answers = [await resumed(parts, "task:1", since, counting) for _ in range(3)]
    assert answers == [[1, 2, 3, 4, 5]] * 3
    assert encoded == [1, 2, 3, 4, 5]


class ForgetfulStore:
    """A store between whose answer and the task that asked for it much happens."""

    writes_behind = True

    async def catch_up(self, channels: Sequence[ChannelName]) -> None:
        """Do nothing: there is one server."""

    def __init__(self) -> None:
        self.broker = Broker(self, Presence(Timers(), offline_grace=5.0), SetClock())
        self.head = 5
        self.loads = 0

    async def load_head(self, channel: ChannelName, on_loaded: Callable[[Position], None]) -> Position:
        """The first time the channel is let go of and published to before this returns."""
        await trio.lowlevel.checkpoint()
        head = Position(self.head, "e")
        on_loaded(head)
        self.loads += 1
        if self.loads == 1:
            now = trio.current_time()
            self.broker.channels.unload_idle(now)
            self.broker.channels.unload_idle(now + IDLE_PERIOD)
            await self.broker.publish(Draft(channel, "t", {}, 0))
        return head

    async def load_history(
        self, channel: ChannelName, on_loaded: Callable[[list[Publication]], None]
    ) -> list[Publication]:
        """Nothing is kept."""
        on_loaded([])
        return []

    def renew_behind(self) -> None:
        """Nothing is dropped here."""
        raise NotImplementedError

    async def load_version(self, channel: ChannelName, on_loaded: Callable[[int | None], None]) -> int | None:
        """No publication has a version here."""
        raise NotImplementedError

    async def append(self, drafts: Sequence[Draft], on_commit: Callable[[list[Outcome]], None]) -> list[Outcome]:
        """Give out the next offsets."""
        outcomes: list[Outcome] = []
        for _ in drafts:
            self.head += 1
            outcomes.append(Published(Position(self.head, "e")))
        on_commit(outcomes)
        return outcomes

    async def write_behind(self, channels: Sequence[Unwritten]) -> None:
        """Nothing is written behind here."""
        raise NotImplementedError


async def test_a_channel_that_was_let_go_of_meanwhile_is_loaded_again() -> None:
    """What was published between the store's answer and the task that waited for it is not forgotten."""
    store = ForgetfulStore()
    position, _ = await recent(
        store.broker, Namespaces(entities=["task"], history_period=60.0, durable=())["task"].channel("1")
    )
    assert position == Position(6, "e")


async def test_of_a_batch_each_is_answered_for_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was published is said to be, though the store could not do its part for another; if it could for none, that is said."""
    async with open_parts(tmp_path) as parts:
        await publish(parts, "market:OLD", 1)
        durable, old, new = (
            Draft(parts.namespaces.parse(name), "t", {"x": 1}, parts.clock.ms)
            for name in ("community:a", "market:OLD", "market:NEW")
        )

        async def unavailable(*_: object) -> None:
            raise RequestError(Code.UNAVAILABLE, "The server has too much to write.", retry_after=1.0)

        monkeypatch.setattr(parts.broker._store, "load_head", unavailable)

        async def outcomes(*drafts: Draft) -> list[object]:
            found = await parts.broker.publish_many(drafts)
            return [one.position.offset if isinstance(one, Published) else one.code for one in found]

        assert await outcomes(durable, old, new) == [1, 2, Code.UNAVAILABLE]
        with pytest.raises(RequestError, match="too much to write"):
            await outcomes(new)
        monkeypatch.setattr(parts.broker._store, "append", unavailable)
        assert await outcomes(old, durable) == [3, Code.UNAVAILABLE]
        with pytest.raises(RequestError, match="too much to write"):
            await outcomes(new, durable)


@pytest.mark.parametrize("removed", [True, False])
async def test_a_right_that_is_lost_while_a_resume_is_repeated(tmp_path: Path, removed: bool) -> None:
    """Who asks once more for what it hears already, and reads slowly, is not live meanwhile: it is found all the same."""
    told: list[str] = []
    resumed: list[object] = []
    gate = MemoryTransport()
    async with open_parts(tmp_path) as parts, trio.open_nursery() as nursery:
        await parts.rooms.create(admin(), name="R", description=None, type_="private", id_="den")
        for member in ("u", "v"):
            await parts.rooms.add_member(admin(), "den", member)
        name = parts.namespaces.parse("chatroom:den")
        start = await publish(parts, name.text, 1)
        await publish(parts, name.text, 40)
        flusher = Flusher()
        outbox = Outbox(
            gate,
            flusher,
            1000,
            on_blocked=lambda: nursery.start_soon(outbox.drain),
            on_overflow=lambda: pytest.fail("it overflowed"),
        )
        await nursery.start(flusher.run)
        with parts.broker.attach(outbox, encode) as subscriber:
            parts.broker.identify(subscriber, Principal("u"))
            subscriber.call_when_revoked(lambda channel, _: told.append(channel.text))

            async def join(since: Position | None) -> None:
                with parts.broker.reserved(subscriber, [name], maximum=5) as [subscription]:
                    await parts.broker.subscribe(
                        subscriber, subscription, outbox=outbox, since=since, answer=lambda position, recovered: None
                    )

            async def again() -> None:
                try:
                    await join(start)
                    resumed.append(True)
                except RequestError as refusal:
                    resumed.append(refusal.code)

            await join(None)
            gate.room = 0
            nursery.start_soon(again)
            await trio.testing.wait_all_tasks_blocked()
            assert resumed == []
            if removed:
                await parts.rooms.remove_member(admin(), "den", "u")
            async with listening(parts, user("v"), name.text):
                gate.grant()
                await until(lambda: resumed, 5)
                await publish(parts, name.text, 1)
                await trio.testing.wait_all_tasks_blocked()
            heard = b'"offset":42' in gate.taken.replace(b" ", b"")
            if removed:
                assert (told, resumed, heard) == ([name.text], [Code.FORBIDDEN], False)
            else:
                assert (told, resumed, heard) == ([], [True], True)
                assert b"user:online" in gate.taken, "somebody came meanwhile"
        assert len(parts.broker.pending) == 0
        nursery.cancel_scope.cancel()


async def test_a_right_is_lost_after_a_subscription_took_the_place_of_another(tmp_path: Path) -> None:
    """A request that ends late takes nothing from a later one for the same channel, which waits still."""
    async with open_parts(tmp_path) as parts:
        name = parts.namespaces.parse("task:1")
        with parts.broker.attach(Ear(), encode) as subscriber, ExitStack() as later:
            with parts.broker.reserved(subscriber, [name], maximum=5):
                parts.broker.unsubscribe(subscriber, name)
                [new] = later.enter_context(parts.broker.reserved(subscriber, [name], maximum=5))
            parts.broker.revoke(name, "lost", where=lambda _: True)
            with pytest.raises(RequestError):
                new.check()
