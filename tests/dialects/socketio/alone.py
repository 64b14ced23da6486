"""An Engine.IO session without a server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from relay.dialects.socketio.engine import Engine, Host, Settings
from relay.dialects.socketio.engineio import Packet, PacketType
from relay.ground.errors import ProtocolError, Reason
from relay.ground.timers import Timers


class Quiet:
    """An application that keeps what it is given."""

    def __init__(self) -> None:
        self.received: list[str | bytes] = []
        self.closed = 0

    async def receive(self, data: str | bytes) -> None:
        """See `engine.Application`."""
        await trio.lowlevel.checkpoint()
        if data == "bad":
            raise ProtocolError("bad")
        if data == "slow":
            await trio.sleep_forever()
        self.received.append(data)

    def close(self) -> None:
        """See `engine.Application`."""
        self.closed += 1


class Alone:
    """A session without a server."""

    def __init__(self, timers: Timers, *, max_queue_bytes: int = 1000) -> None:
        settings = Settings("/", 25.0, 20.0, 1000, max_queue_bytes)
        self.forgotten = 0
        host = Host(settings, timers, on_upgrade=lambda engine: None, on_end=self._forget)
        self.engine = Engine("sid", host)
        self.engine.application = self.application = Quiet()

    def _forget(self, engine: Engine) -> None:
        self.forgotten += 1

    async def post(self, *packets: Packet) -> None:
        """Post packets."""
        with self.engine.posting():
            await self.engine.post(list(packets))

    async def pong(self) -> None:
        """Answer a ping."""
        await self.post(Packet(PacketType.PONG))


@asynccontextmanager
async def alone(*, max_queue_bytes: int = 1000) -> AsyncIterator[Alone]:
    """Open a session whose timers run."""
    timers = Timers()
    async with trio.open_nursery() as nursery:
        await nursery.start(timers.run)
        session = Alone(timers, max_queue_bytes=max_queue_bytes)
        yield session
        nursery.cancel_scope.cancel()
    session.engine.close(Reason.NORMAL)
    assert session.application.closed == 1
    assert session.forgotten == 1
    assert len(timers) == 0
