"""The broker on a real database: cases of a resume that need an exact moment. `test_resume` tries the others."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio
import trio.testing

from relay.models import Draft, Position
from relay.outbox import Flusher, Outbox
from tests.parts import Ear, Parts, admin, encode, open_parts

SIZE = 100
"""Of the history of a `task` channel."""


class Gate:
    """A transport that takes nothing until it is opened."""

    def __init__(self) -> None:
        self.opened = trio.Event()
        self.taken = b""

    def send_nowait(self, data: bytes) -> int:
        """See `outbox.Transport`."""
        if not self.opened.is_set():
            return 0
        self.taken += data
        return len(data)

    async def wait_writable(self) -> None:
        """See `outbox.Transport`."""
        await self.opened.wait()


async def publish(parts: Parts, channel: str, count: int) -> Position:
    """Publish so many; returns the last one's position."""
    name = parts.kinds.parse(channel)
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
            gate = Gate()
            outbox = Outbox(
                gate, Flusher(), 1000, on_blocked=lambda: nursery.start_soon(outbox.drain), on_overflow=lambda: None
            )
            start = await publish(parts, "task:1", 1)
            outbox.send_nowait(b"x" * 1000)
            outbox.flush()
            name = parts.kinds.parse("task:1")

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
            gate.opened.set()
            await trio.testing.wait_all_tasks_blocked()
    assert answers == [(head, False)]
    outbox.flush()
    assert gate.taken.endswith(b"x{}\n"), "a part of what was missed was sent"


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


async def resumed(parts: Parts, channel: str, since: Position) -> list[int] | None:
    """Return the offsets that a resume is given, None if it is not recovered."""
    ear = Ear()
    told: list[bool | None] = []
    gate = Gate()
    gate.opened.set()
    outbox = Outbox(gate, Flusher(), 10_000, on_blocked=lambda: None, on_overflow=lambda: None)
    name = parts.kinds.parse(channel)
    with (
        parts.broker.attach(ear, lambda publication: b"%d " % publication.offset) as subscriber,
        parts.broker.reserved(subscriber, [name], maximum=1) as [subscription],
    ):
        await parts.broker.subscribe(
            subscriber,
            subscription,
            outbox=outbox,
            since=since,
            answer=lambda position, recovered: told.append(recovered),
        )
    outbox.flush()
    return [int(word) for word in gate.taken.split()] if told == [True] else None
