"""Plays the examples of a WebSocket endpoint against a server, and keeps what was sent and received."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection

from relay.api.frames import Frame, WireApi
from tests.clients import connect
from tests.waiting import TIMEOUT

CHANGING = frozenset(
    {"offset", "epoch", "timestamp", "expiresAt", "connectionId", "connection", "messageId", "sid", "token", "apiKey"}
)
"""Fields whose values differ from run to run."""


def like(example: Any, real: Any, key: str = "") -> bool:
    """Return whether a frame is as an example shows it: the same fields, and the same values where they do not change."""
    if isinstance(example, dict):
        return (
            isinstance(real, dict)
            and example.keys() == real.keys()
            and all(like(example[name], real[name], name) for name in example)
        )
    if isinstance(example, list):
        return isinstance(real, list) and len(example) == len(real) and all(map(like, example, real))
    if key in CHANGING:
        return isinstance(real, type(example))
    return bool(example == real) and isinstance(example, bool) == isinstance(real, bool)


def sole(frames: list[Frame]) -> Frame:
    """Return the only frame of a list."""
    [frame] = frames
    return frame


@attrs.define
class Played:
    """One endpoint, and its frames so far, of all connections."""

    api: WireApi
    stand_ins: Mapping[str, str] = attrs.field(factory=dict)
    """What stands in an example for a value of this run."""
    sent: list[Any] = attrs.field(factory=list)
    """The examples that were sent."""
    received: list[tuple[Frame, Any]] = attrs.field(factory=list)
    """What came, and the description that it has."""

    def described(self, text: str) -> tuple[Frame, Any]:
        """Return the description of a frame of the server, and its JSON. Fails for one that has none."""
        prefixed = [frame for frame in self.api.server if frame.prefix and text.startswith(frame.prefix)]
        if prefixed:
            longest = max(len(frame.prefix) for frame in prefixed)
            value = json.loads(text[longest:])
            named = value[0] if isinstance(value, list) and isinstance(value[0], str) else None
            found = [frame for frame in prefixed if len(frame.prefix) == longest and named in (None, frame.type)]
            return sole(found), value
        value = json.loads(text)
        found = [frame for frame in self.api.server if frame.type == value["type"]]
        return sole(found or [frame for frame in self.api.server if frame.type == "publication"]), value

    @asynccontextmanager
    async def connected(self, address: str, path: str = "") -> AsyncIterator[Wire]:
        """Connect to the endpoint."""
        async with connect(address, path or self.api.path) as client:
            yield Wire(self, client.connection)


class Wire:
    """One connection."""

    def __init__(self, played: Played, connection: WebSocketConnection) -> None:
        self._played = played
        self._connection = connection

    async def play(self, type_: str, number: int = 0) -> None:
        """Send an example of a frame, with the values of this run in the place of stand-ins."""
        frame = sole([frame for frame in self._played.api.client if frame.type == type_])
        example = frame.examples[number]
        self._played.sent.append(example)
        text = json.dumps(example)
        for stand_in, value in self._played.stand_ins.items():
            text = text.replace(f'"{stand_in}"', json.dumps(value))
        await self._connection.send_message(frame.prefix + text)

    async def send(self, text: str) -> None:
        """Send a frame that is no example."""
        await self._connection.send_message(text)

    async def until(self, type_: str) -> Any:
        """Return the next frame of a type; others are kept too."""
        with trio.fail_after(TIMEOUT):
            while True:
                frame, value = self._played.described(str(await self._connection.get_message()))
                self._played.received.append((frame, value))
                assert frame.type != "error" or type_ == "error", value
                if frame.type == type_:
                    return value

    async def ask(self, type_: str, number: int = 0, *, answer: str) -> Any:
        """Send an example, and return the next frame of the type of the answer."""
        await self.play(type_, number)
        return await self.until(answer)

    async def closed(self) -> int:
        """Return the code of the server's close."""
        with trio.fail_after(TIMEOUT):
            try:
                while True:
                    self._played.received.append(self._played.described(str(await self._connection.get_message())))
            except ConnectionClosed as closed:
                assert closed.reason is not None
                return int(closed.reason.code)
