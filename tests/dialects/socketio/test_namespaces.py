"""Socket.IO on top of Engine.IO sessions: namespaces, acknowledgements, attachments, and what ends a session."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from relay.dialects.socketio.engine import Engine, Host, SessionClosed, Settings
from relay.dialects.socketio.namespaces import Namespace, Namespaces, Refused, Socket, SocketIO
from relay.dialects.socketio.polling import Polling
from relay.ground.errors import Code, Reason, RequestError
from relay.ground.timers import Timers
from tests.dialects.socketio.engine_client import Frames, PollingClient, World, echoing

TWO_ATTACHMENTS = '452-["message",{"_placeholder":true,"num":1},{"_placeholder":true,"num":0}]'
GARBAGE = [
    "4abc", "4", "42{}", "42[]", "42[1]", '42["connect"]', "42", '42abc["message"]', "40[]", '40"x"', "41{}", "44", '44{"message":"x"}',
    "43[]",
    "45", '450-["message"]', '451-["message"]', '4511-["message",{"_placeholder":true,"num":0}]', "47", "4-1",
    '42["message",NaN]', '42["message"', "40/" + "x" * 300, "40/custom,{", "42" + "[" * 5000, '42["message"]x', "4٤",
]  # fmt: skip
FIRST = ['42["message"]', "41", '431["x"]', TWO_ATTACHMENTS, '42/custom,["message"]']


async def connected(world: World, frames: Frames) -> None:
    """Connect to the main namespace."""
    await frames.send("40")
    await frames.until("40{")
    await frames.until('42["auth"')


@asynccontextmanager
async def polling_connected(world: World) -> AsyncIterator[PollingClient]:
    """Open a session by GET and connect it to the main namespace."""
    polling = await world.open_polling()
    assert await polling.post("40") == (200, "ok")
    status, body = await polling.get()
    assert (status, body[:3], body.rpartition("\x1e")[2]) == (200, "40{", '42["auth",{}]')
    yield polling


@pytest.mark.slow
async def test_attachments_both_ways(tmp_path: Path) -> None:
    """An event with attachments comes back with them, and so does its acknowledgement, over each transport."""
    async with echoing(tmp_path) as world:
        async with world.opened() as frames:
            await connected(world, frames)
            for text, answer in (
                (TWO_ATTACHMENTS, '452-["message-back",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]'),
                (
                    TWO_ATTACHMENTS.replace('["message"', '789["message-with-ack"'),
                    '462-789[{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]',
                ),
            ):
                await frames.send(text, b"first", b"\x00\xff")
                assert await frames.until("46" if "789" in text else "45") == answer
                assert [await frames.receive(), await frames.receive()] == [b"\x00\xff", b"first"]
        async with polling_connected(world) as polling:
            assert await polling.post(TWO_ATTACHMENTS + "\x1ebAQID\x1ebBAUG") == (200, "ok")
            text, *attachments = (await polling.get())[1].split("\x1e")
            assert text == '452-["message-back",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]'
            assert attachments == ["bBAUG", "bAQID"]
            await polling.post("1")
        await world.check_healthy()


async def test_attachments_across_an_upgrade(tmp_path: Path) -> None:
    """An event whose attachments come over the other transport is whole all the same."""
    async with echoing(tmp_path) as world, polling_connected(world) as polling:
        assert await polling.post('451-["message",{"_placeholder":true,"num":0}]') == (200, "ok")
        async with world.websocket(f"&sid={polling.sid}") as frames:
            await frames.send("2probe", "5", b"abc")
            assert await frames.until("45") == '451-["message-back",{"_placeholder":true,"num":0}]'
            assert await frames.receive() == b"abc"
        await world.check_healthy()


async def test_namespaces(tmp_path: Path) -> None:
    """Each namespace is connected and left by itself; one that there is not is refused, and the session goes on."""
    async with echoing(tmp_path) as world, world.opened() as frames:
        await connected(world, frames)
        await frames.send("40/random,", "40/custom,")
        assert await frames.until("44") == '44/random,{"message":"Invalid namespace"}'
        await frames.until("42/custom,")
        await frames.send("40/custom,", '42/custom,["message",1]')  # a second CONNECT changes nothing
        assert await frames.until("4") == '42/custom,["message-back",1]'
        await frames.send("41/custom,", '42/custom,["message",2]', '42/none,["message",3]', '42["message",4]')
        assert await frames.until("4") == '42["message-back",4]'
        await frames.send("41", '42["message",5]', '40{"a":1}')
        await frames.until("40{")
        assert await frames.until("4") == '42["auth",{"a":1}]'


@pytest.mark.parametrize("garbage", [*GARBAGE, *FIRST], ids=lambda text: text[:24])
async def test_garbage_before_connect(tmp_path: Path, garbage: str) -> None:
    """A packet that cannot be read, or is no CONNECT, ends a session that has not connected: over each transport, and after an upgrade."""
    async with echoing(tmp_path) as world:
        polling = await world.open_polling()
        if garbage == TWO_ATTACHMENTS:
            garbage += "\x1ebAQID\x1ebAQID"
        assert (await polling.post(garbage.encode()))[0] == 400
        assert await polling.refused()
        messages = [b"\x01" if part == "bAQID" else part for part in garbage.split("\x1e")]
        async with world.opened() as frames:
            await frames.send(*messages)
            assert await frames.closed() == 1002
        polling = await world.open_polling()
        async with world.websocket(f"&sid={polling.sid}") as frames:
            await frames.send("2probe", "5", *messages)
            assert await frames.closed() == 1002
        await world.check_healthy()


@pytest.mark.slow(0.15)
@pytest.mark.parametrize("garbage", [*GARBAGE, "5", "abc", b"\x00"], ids=lambda text: repr(text[:24]))
async def test_garbage_when_connected(tmp_path: Path, garbage: str | bytes) -> None:
    """What cannot be read ends a session that is connected, over each transport; another is none the worse."""
    async with echoing(tmp_path) as world, world.opened() as other:
        await connected(world, other)
        async with world.opened() as frames:
            await connected(world, frames)
            await frames.send(garbage)
            assert await frames.closed() == 1002
        async with polling_connected(world) as polling:
            assert (await polling.post(garbage.encode() if isinstance(garbage, str) else b"bAA=="))[0] == 400
            assert await polling.refused()
        await other.send("3", '42["message",1]')
        assert await other.until("4") == '42["message-back",1]'
        await other.send("1")
        await other.closed()
        await world.check_healthy()


@pytest.mark.parametrize("text", ['42["message"]', "40", "41", "4abc", "abc"])
async def test_garbage_while_attachments_are_due(tmp_path: Path, text: str) -> None:
    """Where an attachment is due nothing else may come."""
    async with echoing(tmp_path) as world:
        async with world.opened() as frames:
            await connected(world, frames)
            await frames.send(TWO_ATTACHMENTS, b"one", text)
            assert await frames.closed() == 1002
        async with polling_connected(world) as polling:
            assert await polling.post(TWO_ATTACHMENTS + "\x1ebAQID") == (200, "ok")
            assert (await polling.post(text))[0] == 400
            assert await polling.refused()
        await world.check_healthy()


@pytest.mark.slow
async def test_heartbeat_while_attachments_are_due(tmp_path: Path) -> None:
    """A pong is no message: it may come between an event and its attachments."""
    async with echoing(tmp_path, heartbeat=(0.3, 20.0)) as world, world.opened() as frames:
        await connected(world, frames)
        await frames.send(TWO_ATTACHMENTS, b"one")
        await frames.until("2")
        await frames.send("3", b"two")
        assert (await frames.until("45")).startswith("452-")
        assert [await frames.receive(), await frames.receive()] == [b"two", b"one"]


async def test_attachments_that_are_too_large(tmp_path: Path) -> None:
    """The attachments of a packet together are bounded."""
    async with echoing(tmp_path) as world:
        async with world.opened() as frames:
            await connected(world, frames)
            await frames.send(TWO_ATTACHMENTS, b"x" * 600_000, b"x" * 600_000)
            assert await frames.closed() == 1002
        await world.check_healthy()


# -- in virtual time ---------------------------------------------------------------------------------------------------


class Recorder:
    """A namespace's connection that notes what happens to it."""

    def __init__(self, socket: Socket, failure: Exception | None = None) -> None:
        self.socket = socket
        self.events: list[Any] = []
        self.closed = 0
        self._failure = failure

    async def begin(self) -> None:
        """See `namespaces.Namespace`."""
        await self.socket.connected()
        if self._failure is not None:
            raise self._failure

    async def event(self, name: str, arguments: list[Any], ack_id: int | None) -> None:
        """See `namespaces.Namespace`."""
        self.events.append((name, arguments, ack_id))

    def close(self) -> None:
        """See `namespaces.Namespace`."""
        self.closed += 1


class Session:
    """A session without a server, whose namespaces are `/` (at once), `/slow` (after 5 s), `/broken` and `/refused`."""

    def __init__(self, timers: Timers) -> None:
        self.made: dict[str, Recorder] = {}
        self.over = False
        settings = Settings("/", 1000.0, 1000.0, 1000, 1000)
        self.engine = Engine("sid", Host(settings, timers, on_upgrade=lambda engine: None, on_end=self._close))
        connects = {"/": self._connect, "/slow": self._connect, "/broken": self._connect, "/refused": self._connect}
        namespaces = Namespaces(connects, timers, new_id=lambda: "id", connect_timeout=10.0, max_bytes=1000)
        self.socketio = SocketIO(self.engine, namespaces)
        self.engine.application = self.socketio

    def _close(self, engine: Engine) -> None:
        self.over = True

    async def _connect(self, socket: Socket, payload: dict[str, Any] | None) -> Namespace:
        if socket.namespace == "/slow":
            await trio.sleep(5)
        if socket.namespace == "/refused":
            raise Refused("No.")
        failure = RequestError(Code.UNAVAILABLE, "secret") if socket.namespace == "/broken" else None
        connection = self.made[socket.namespace] = Recorder(socket, failure)
        return connection


@asynccontextmanager
async def session() -> AsyncIterator[Session]:
    """Open a session whose timers run."""
    timers = Timers()
    async with trio.open_nursery() as nursery:
        await nursery.start(timers.run)
        made = Session(timers)
        yield made
        made.engine.close(Reason.NORMAL)
        assert len(timers) == 0
        assert all(connection.closed == 1 for connection in made.made.values())
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("first", [None, "0/none,", "0/refused,"])
async def test_a_session_that_never_connects(autojump_clock: trio.testing.MockClock, first: str | None) -> None:
    """A session without a connection to any namespace ends after 10 s, whatever else it tried."""
    async with session() as made:
        await trio.sleep(9)
        if first is not None:
            await made.socketio.receive(first)
            assert (await made.engine.poll()).startswith(b"44/")
        assert not made.over
        assert await made.engine.poll() == b"1"
        assert trio.current_time() == pytest.approx(10)
        assert made.over


async def test_a_session_that_is_connected_stays(autojump_clock: trio.testing.MockClock) -> None:
    """A connection keeps the session; 10 s after the last one was left, by either side, it ends."""
    async with session() as made:
        await made.socketio.receive("0")
        assert await made.engine.poll() == b'40{"sid":"id"}'
        await trio.sleep(100)
        await made.socketio.receive("1")
        await trio.sleep(9)
        await made.socketio.receive("0")
        await trio.sleep(100)
        made.made["/"].socket.disconnect()
        assert (await made.engine.poll()).split(b"\x1e")[-1] == b"41"
        begun = trio.current_time()
        assert await made.engine.poll() == b"1"
        assert trio.current_time() - begun == pytest.approx(10)
        assert made.made["/"].closed == 1


async def test_the_end_while_a_connection_is_made(autojump_clock: trio.testing.MockClock) -> None:
    """A connection that is made for a session that ended meanwhile is closed at once."""
    async with session() as made, trio.open_nursery() as nursery:
        nursery.start_soon(made.socketio.receive, "0/slow,")
        await trio.sleep(1)
        made.engine.close(Reason.NORMAL)
        await trio.sleep(5)
        assert made.made["/slow"].closed == 1
        with pytest.raises(SessionClosed):
            await made.engine.poll()


async def test_a_connection_that_cannot_begin(autojump_clock: trio.testing.MockClock) -> None:
    """Where what a client is told first cannot be had, the session ends, so that the client comes back; it hears no cause."""
    async with session() as made:
        await made.socketio.receive("0/broken,")
        assert made.over
        assert made.made["/broken"].closed == 1
        assert isinstance(made.engine._transport, Polling)
        assert b"secret" not in b"".join(packet.data for packet in made.engine._transport.take_all())


async def test_events(autojump_clock: trio.testing.MockClock) -> None:
    """An event comes with its arguments and the id of its acknowledgement; one for nobody is passed over."""
    async with session() as made:
        for text in ("0", '2["a",1,{"b":[]}]', '212["c"]', '2/slow,["d"]', '35["e"]'):
            await made.socketio.receive(text)
        assert made.made["/"].events == [("a", [1, {"b": []}], None), ("c", [], 12)]
