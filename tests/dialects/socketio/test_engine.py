"""One Engine.IO session: both transports, the upgrade from one to the other, its heartbeat, its overflow and its end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from relay.broker.channel import Channel
from relay.broker.subscription import Subscriber
from relay.dialects.socketio.engine import LINGER_TIMEOUT, SessionClosed
from relay.dialects.socketio.engineio import Packet, PacketType
from relay.ground.timers import Timers
from relay.model.namespaces import Namespaces
from relay.model.publication import Draft, Position
from relay.sessions.audience import Sink
from tests.dialects.socketio.alone import Alone, Quiet, alone
from tests.dialects.socketio.engine_client import ENGINE, echoing
from tests.fakes import RecordingSink

MESSAGE = PacketType.MESSAGE
Do = Callable[[], Awaitable[object]]


async def together(first: Do, second: Do) -> list[object]:
    """Do two things at once, the second when the first has had time to begin; return both results."""
    results: list[object] = [None, None]

    async def do(index: int, action: Do) -> None:
        results[index] = await action()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(do, 0, first)
        await trio.sleep(0.05)
        nursery.start_soon(do, 1, second)
    return results


# -- over HTTP ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("payload", ["4hello", "4a\x1e4b\x1e4c", "4hello\x1ebAQIDBA==", "4", "4ü☃\U0001f600"])
async def test_a_post_answers_ok(tmp_path: Path, payload: str) -> None:
    """A POST is answered `ok`; what is sent back comes with the next poll, text and binary, in order."""
    async with echoing(tmp_path) as world:
        polling = await world.open_polling(ENGINE)
        assert await polling.post(payload.encode()) == (200, "ok")
        assert await polling.get() == (200, payload)


@pytest.mark.slow
async def test_a_second_poll_ends_the_session(tmp_path: Path) -> None:
    """Of two polls at once the first gets `1` and the second 400; then the session is over."""
    async with echoing(tmp_path) as world:
        polling = await world.open_polling(ENGINE)
        assert (await together(polling.get, polling.get))[0] == (200, "1")
        assert await polling.refused()
        other = await world.open_polling(ENGINE)
        _, second = await together(other.get, other.get)
        assert isinstance(second, tuple)
        assert second[0] == 400
        await world.check_healthy()


async def test_closing_by_post(tmp_path: Path) -> None:
    """A POST of `1` gives the open poll `6`; a poll that it overtook gets that too, once."""
    async with echoing(tmp_path) as world:
        polling = await world.open_polling(ENGINE)
        assert await together(polling.get, lambda: polling.post("1")) == [(200, "6"), (200, "ok")]
        assert await polling.refused()
        other = await world.open_polling(ENGINE)
        assert await other.post("1") == (200, "ok")
        assert (await other.post("4hello"))[0] == 400
        assert await other.get() == (200, "6")
        assert await other.refused()
        await world.check_healthy()


async def test_what_follows_a_close_is_passed_over(tmp_path: Path) -> None:
    """In a payload nothing counts after `1`."""
    async with echoing(tmp_path) as world:
        polling = await world.open_polling(ENGINE)
        assert await polling.post("4a\x1e1\x1e4b") == (200, "ok")
        assert await polling.get() == (200, "6")
        await world.check_healthy()


@pytest.mark.slow
async def test_a_poll_that_is_given_up_ends_the_session(tmp_path: Path) -> None:
    """A client that goes away in the middle of a poll is gone: what it would have been answered is lost."""
    async with echoing(tmp_path) as world:
        polling = await world.open_polling(ENGINE)
        with trio.move_on_after(0.1):
            await polling.get()
        await world.until_empty()
        assert await polling.refused()


# -- the upgrade -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_upgrade(tmp_path: Path) -> None:
    """The probe is answered and ends the open poll with `6`; then the WebSocket has the session, and HTTP gets 400."""
    async with echoing(tmp_path) as world:
        polling = await world.open_polling(ENGINE)
        async with world.websocket(f"&sid={polling.sid}", ENGINE) as frames:

            async def probe() -> object:
                await frames.send("2probe")
                return await frames.receive()

            assert await together(polling.get, probe) == [(200, "6"), "3probe"]
            # Until the upgrade is complete the session polls on, and no poll is held for long.
            with trio.fail_after(0.25):
                assert await polling.get() == (200, "6")
            assert await polling.post("4queued") == (200, "ok")
            await frames.send("5", "4hello", b"\x00\xff")
            assert [await frames.receive() for _ in range(3)] == ["4queued", "4hello", b"\x00\xff"]
            assert await polling.refused()
            async with world.websocket(f"&sid={polling.sid}", ENGINE) as second:
                assert await second.closed() == 1002
            await frames.send("4still")
            assert await frames.until("4") == "4still"  # a ping may come before
        await world.check_healthy()


async def test_one_upgrade_at_a_time(tmp_path: Path) -> None:
    """While one WebSocket is on its way to take over, a second one is closed, whether or not the first has probed."""
    async with echoing(tmp_path) as world:
        polling = await world.open_polling(ENGINE)
        async with world.websocket(f"&sid={polling.sid}", ENGINE) as first:
            await trio.sleep(0.05)
            async with world.websocket(f"&sid={polling.sid}", ENGINE) as second:
                assert await second.closed() == 1002
            await first.send("2probe")
            assert await first.receive() == "3probe"
            async with world.websocket(f"&sid={polling.sid}", ENGINE) as third:
                assert await third.closed() == 1002
            await first.send("5", "4hello")
            assert await first.receive() == "4hello"
        await world.check_healthy()


@pytest.mark.parametrize(
    "frames", [["garbage"], ["2"], ["5"], [b"2probe"], ["2probe", "4hello"], ["2probe", "2probe"], []]
)
async def test_an_upgrade_that_fails(tmp_path: Path, frames: list[str | bytes]) -> None:
    """A WebSocket that does not upgrade is closed, or closes; the session polls on, and may upgrade later."""
    async with echoing(tmp_path) as world:
        polling = await world.open_polling(ENGINE)
        async with world.websocket(f"&sid={polling.sid}", ENGINE) as socket:
            await socket.send(*frames)
            if frames:
                await socket.closed()
        assert await polling.post("4hello") == (200, "ok")
        assert await polling.get() == (200, "4hello")
        async with world.websocket(f"&sid={polling.sid}", ENGINE) as socket:
            await socket.send("2probe", "5", "4again")
            assert [await socket.receive(), await socket.receive()] == ["3probe", "4again"]
        await world.check_healthy()


async def test_the_end_of_a_session_ends_its_upgrade(tmp_path: Path) -> None:
    """A WebSocket that probes for a session is closed when that ends."""
    async with echoing(tmp_path) as world:
        polling = await world.open_polling(ENGINE)
        async with world.websocket(f"&sid={polling.sid}", ENGINE) as frames:
            await frames.send("2probe")
            assert await frames.receive() == "3probe"
            assert (await polling.post("garbage"))[0] == 400
            with trio.fail_after(1):
                assert await frames.closed() == 1002
        await world.check_healthy()


# -- garbage -----------------------------------------------------------------------------------------------------------

GARBAGE: list[bytes] = [
    b"", b"abc", b"7", b"\xff\xfe", b"\x00", b"0", b'0{"sid":"x"}', b"2", b"2probe", b"5", b"6", b"3probe", b"\x1e", b"4a\x1e",
    b"b=", b"bAQI", b"4a\x1ebAQ*D", b"9" * 70_000, b"\x1e".join([b"4a"] * 1001), b"\xed\xa0\x80",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("body", GARBAGE, ids=lambda body: repr(body[:12]))
async def test_garbage_in_a_post(tmp_path: Path, body: bytes) -> None:
    """A payload that cannot be read is answered 400 and ends the session, with or without an open poll."""
    async with echoing(tmp_path) as world:
        polling = await world.open_polling(ENGINE)
        assert (await polling.post(body))[0] == 400
        assert await polling.refused()
        other = await world.open_polling(ENGINE)
        polled, posted = await together(other.get, lambda: other.post(body))
        assert isinstance(polled, tuple)
        assert isinstance(posted, tuple)
        assert (polled[0], polled[1].rpartition("\x1e")[2], posted[0]) == (200, "1", 400)
        assert await other.refused()
        await world.check_healthy()


@pytest.mark.parametrize("frame", ["", "abc", "7", "\x00", "0", "2", "2probe", "5", "6", "3probe", "bAQID"])
@pytest.mark.parametrize("state", ["opened", "upgraded"])
async def test_garbage_over_websocket(tmp_path: Path, frame: str, state: str) -> None:
    """A frame that is no packet, or one that a client does not send, ends the session with 1002."""
    async with echoing(tmp_path) as world:
        if state == "opened":
            async with world.opened(ENGINE) as frames:
                await frames.send(frame)
                assert await frames.closed() == 1002
        else:
            polling = await world.open_polling(ENGINE)
            async with world.websocket(f"&sid={polling.sid}", ENGINE) as frames:
                await frames.send("2probe", "5", frame)
                assert await frames.closed() == 1002
            assert await polling.refused()
        await world.check_healthy()


# -- deadlines, in virtual time ----------------------------------------------------------------------------------------


async def test_heartbeat(autojump_clock: trio.testing.MockClock) -> None:
    """A ping goes out each 25 s after the pong before it; a client that answers lives on."""
    async with alone() as session:
        for _ in range(4):
            begun = trio.current_time()
            assert await session.engine.poll() == b"2"
            assert trio.current_time() - begun == pytest.approx(25)
            await session.pong()


async def test_a_pong_that_does_not_come(autojump_clock: trio.testing.MockClock) -> None:
    """20 s after a ping without a pong the session is over: the open poll gets `1`."""
    async with alone() as session:
        assert await session.engine.poll() == b"2"
        begun = trio.current_time()
        assert await session.engine.poll() == b"1"
        assert trio.current_time() - begun == pytest.approx(20)


async def test_a_pong_that_nobody_asked_for(autojump_clock: trio.testing.MockClock) -> None:
    """A pong before a ping moves nothing."""
    async with alone() as session:
        await trio.sleep(20)
        await session.pong()
        begun = trio.current_time()
        assert await session.engine.poll() == b"2"
        assert trio.current_time() - begun == pytest.approx(5)


@pytest.mark.parametrize("late", [45.1, 1000.0])
async def test_deadlines_hold_without_the_timer(mock_clock: trio.testing.MockClock, late: float) -> None:
    """What comes after the deadline is refused though no timer ran: a poll, and a POST, even of the pong."""
    for method in ("poll", "pong"):
        session = Alone(Timers())  # nobody runs them
        mock_clock.jump(late)
        with pytest.raises(SessionClosed):
            await getattr(session.engine if method == "poll" else session, method)()
        assert (session.forgotten, session.application.closed) == (1, 1)
    session = Alone(Timers())
    mock_clock.jump(44.9)
    session.engine.push(b"4a")
    assert await session.engine.poll() == b"4a"


async def test_a_closed_session_is_forgotten(autojump_clock: trio.testing.MockClock) -> None:
    """One that its client closed and polls no more is forgotten in time; its application ends at once."""
    async with alone() as session:
        await session.post(Packet(PacketType.CLOSE))
        assert (session.application.closed, session.forgotten) == (1, 0)
        await trio.sleep(LINGER_TIMEOUT + 0.1)
        assert session.forgotten == 1


async def test_a_post_that_is_cancelled_ends_the_session(autojump_clock: trio.testing.MockClock) -> None:
    """Nobody knows how much of it was done."""
    async with alone() as session:
        with trio.move_on_after(1):
            await session.post(Packet(MESSAGE, "slow"))
        assert session.forgotten == 1


async def test_a_second_post_ends_the_session(autojump_clock: trio.testing.MockClock) -> None:
    """Two at a time could overtake each other."""
    async with alone() as session, trio.open_nursery() as nursery:
        nursery.start_soon(session.post, Packet(MESSAGE, "slow"))
        await trio.sleep(1)
        with pytest.raises(SessionClosed):
            await session.post(Packet(MESSAGE, "a"))
        assert (session.application.received, session.forgotten) == ([], 1)
        nursery.cancel_scope.cancel()


# -- overflow ----------------------------------------------------------------------------------------------------------


async def test_overflow_in_the_middle_of_a_broadcast(autojump_clock: trio.testing.MockClock) -> None:
    """A session that overflows while a publication is delivered leaves the audience afterwards: the others get it all."""
    name = Namespaces(entities=(), history_period=1.0, durable=())["market"].channel("BTC")
    channel = Channel(name, Position(0, "e"))

    def subscriber(sink: Sink) -> Subscriber:
        return Subscriber(sink, lambda publication: b"4" * 60, leave=channel.leave)

    other = RecordingSink()
    async with alone(max_queue_bytes=100) as session:
        session.engine.push(b"4" * 60)
        one, two = subscriber(session.engine), subscriber(other)
        session.engine.application = Leaving(session.application, lambda: channel.leave(one))
        channel.join(one)
        channel.join(two)
        channel.publish(Draft(name, "market:price", {"price": 1}, 0), Position(1, "e"), written=False)
        assert len(other.frames) == 1
        await trio.testing.wait_all_tasks_blocked()
        assert session.engine.closed
        assert channel.subscribers() == [two]


class Leaving:
    """An application that leaves what it listens to."""

    def __init__(self, inner: Quiet, leave: Callable[[], None]) -> None:
        self._inner = inner
        self._leave = leave

    async def receive(self, data: str | bytes) -> None:
        """See `engine.Application`."""
        await self._inner.receive(data)

    def close(self) -> None:
        """See `engine.Application`."""
        self._inner.close()
        self._leave()
