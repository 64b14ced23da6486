"""Reads a request body ahead while earlier parts are processed, so that many small chunks become one batch.

A publisher that streams sends each line as it has it. If Relay read the next line only after the commit of the last
one, two lines would never share a commit, or a write to a subscriber.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable
from contextlib import AbstractContextManager

import trio

from relay.ground.errors import RequestError

MAX_AHEAD_BYTES = 64 * 1024
"""Bytes of a body that are read ahead. At this limit reading pauses."""


async def work_through(
    body: AsyncIterable[bytes],
    work: Callable[[bytes], Awaitable[None]],
    *,
    while_reading: AbstractContextManager[None],
) -> None:
    """Pass the body to `work`, at each call all bytes since the last call. `work` must not raise.

    `while_reading` may end the reading by cancelling it. It does not cancel `work`.

    Raises:
        RequestError: from the body or `while_reading`, after all earlier bytes were processed.
    """
    ahead = _Ahead(body, while_reading)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ahead.read)
        while data := await ahead.take():
            await work(data)
    if ahead.error is not None:
        raise ahead.error


class _Ahead:
    """The bytes that are read ahead."""

    def __init__(self, body: AsyncIterable[bytes], while_reading: AbstractContextManager[None]) -> None:
        self.error: RequestError | None = None
        self._body = body
        self._while_reading = while_reading
        self._pieces: list[bytes] = []
        self._size = 0
        self._ended = False
        self._changed = trio.Event()

    async def read(self) -> None:
        """Read the body to its end or its error."""
        try:
            with self._while_reading:
                async for data in self._body:
                    self._pieces.append(data)
                    self._size += len(data)
                    self._change()
                    while self._size >= MAX_AHEAD_BYTES:
                        await self._changed.wait()
        except RequestError as error:
            self.error = error
        self._ended = True
        self._change()

    async def take(self) -> bytes:
        """Wait for bytes, and return all of them. Empty at the end."""
        while not self._pieces and not self._ended:
            await self._changed.wait()
        data = b"".join(self._pieces)
        self._pieces.clear()
        self._size = 0
        self._change()
        return data

    def _change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
