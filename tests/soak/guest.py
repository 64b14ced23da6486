"""One guest of a soak: a TCP connection that speaks HTTP and WebSocket by hand, and leaves as it likes."""

from __future__ import annotations

import json
import random
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio

from tests.e2e.hostile import RawConnection
from tests.e2e.wire import CLOSE, frame, handshake, text
from tests.running import token

USERS = 100
"""Users who have names and come again and again; as many more guests are somebody new each."""
POLLING = "/socket.io/?EIO=4&transport=polling"


@attrs.frozen
class World:
    """What guests know of the server."""

    address: str
    rooms: tuple[str, ...]
    key: str
    """An API key that may connect over Socket.IO and publish."""


def token_of(user: int, **options: Any) -> str:
    """Return a token of one of the users who come often."""
    return token(f"user-{user}", first_name="First", last_name=f"Last {user}", **options)


class Guest:
    """One guest. `number` is nobody else's; what it does by chance is its own too."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.number = number
        self.random = random.Random(number)
        self.room = self.random.choice(world.rooms)

    def token(self, **options: Any) -> str:
        """Return a token: of a user who comes often and has names, or of one who never comes again."""
        if self.number % 2:
            return token(f"once-{self.number}", **options)
        return token_of(self.random.randrange(USERS), **options)

    @property
    def forwarded(self) -> str:
        """A header that says it comes from an address of its own."""
        number = self.number % 2**24
        return f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"

    @asynccontextmanager
    async def connection(self, *, receive_bytes: int | None = None) -> AsyncIterator[Line]:
        """Connect; however the block ends, the socket is closed behind it."""
        host, _, port = self.world.address.rpartition(":")
        sock = trio.socket.socket()
        with sock:
            if receive_bytes is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
            await sock.connect((host, int(port)))
            yield Line(trio.SocketStream(sock), self)

    @asynccontextmanager
    async def websocket(self, path: str, *, receive_bytes: int | None = None) -> AsyncIterator[Line]:
        """Connect and shake hands."""
        async with self.connection(receive_bytes=receive_bytes) as line:
            await line.send(handshake(path, changes={"X-Forwarded-For": self.forwarded}))
            head = await line.head()
            assert head.startswith(b"HTTP/1.1 101 "), head
            yield line

    async def pause(self, seconds: float = 0.3) -> None:
        """Stay for a while."""
        await trio.sleep(self.random.random() * seconds)


class Line(RawConnection):
    """A guest's connection."""

    def __init__(self, stream: trio.SocketStream, guest: Guest) -> None:
        super().__init__(stream)
        self._guest = guest

    async def say(self, **message: Any) -> None:
        """Send a JSON message."""
        await self.send(text(message))

    async def until(self, *types: str) -> dict[str, Any]:
        """Return the next message of one of these types."""
        while (message := await self.message()).get("type") not in types:
            pass
        return message

    async def text(self) -> str:
        """Return the next message as it came, passing over pings and pongs."""
        while (got := await self.next_frame()) is not None:
            if got[0] == 1:
                return got[1].decode()
            assert got[0] in (9, 10), got
        raise AssertionError("the connection ended")

    async def request(
        self, method: str, path: str, body: bytes = b"", *, length: int | None = None, **headers: str
    ) -> None:
        """Send a request; `length` is what it says of its body, where that is not so."""
        lines = [
            f"{method} {path} HTTP/1.1",
            "Host: test",
            f"X-Forwarded-For: {self._guest.forwarded}",
            *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()),
        ]
        if method != "GET":
            lines.append(f"Content-Length: {len(body) if length is None else length}")
        await self.send("\r\n".join([*lines, "", ""]).encode() + body)

    async def response(self) -> tuple[int, bytes]:
        """Return status and body of the next response."""
        head = (await self.head()).lower()
        [size] = [int(line.split(b":")[1]) for line in head.splitlines() if line.startswith(b"content-length:")]
        body = await self._take(size)
        assert body is not None
        return int(head.split()[1]), body

    async def ask(self, method: str, path: str, body: bytes = b"", /, **headers: str) -> tuple[int, bytes]:
        """Make a request and return status and body of its answer."""
        await self.request(method, path, body, length=None, **headers)
        return await self.response()

    async def goodbye(self) -> None:
        """Close as the protocol has it, and wait for the server to do so."""
        await self.send(frame(CLOSE, struct.pack("!H", 1000)))
        await self.rest()

    def reset(self) -> None:
        """Be gone, with a reset."""
        self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.stream.socket.close()

    async def leave(self) -> None:
        """Go in one of the ways that there are: properly, without a word, with a reset."""
        match self._guest.random.randrange(3):
            case 0:
                await self.goodbye()
            case 1:
                self.stream.socket.close()
            case _:
                self.reset()


def dumps(value: Any) -> bytes:
    """Return JSON."""
    return json.dumps(value).encode()
