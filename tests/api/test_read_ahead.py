"""A body that is read ahead comes whole, in order and in large pieces, within its bound."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, nullcontext

import pytest
import trio
import trio.testing

from relay.api.read_ahead import MAX_AHEAD_BYTES, work_through
from relay.ground.errors import Code, RequestError


async def test_what_came_meanwhile_comes_at_once(autojump_clock: trio.testing.MockClock) -> None:
    async def body() -> AsyncIterator[bytes]:
        for number in range(10):
            yield b"%d" % number
            await trio.sleep(1)

    taken: list[bytes] = []

    async def work(data: bytes) -> None:
        taken.append(data)
        await trio.sleep(3.25)

    await work_through(body(), work, while_reading=nullcontext())
    assert taken == [b"0", b"123", b"456", b"789"]


async def test_no_more_is_read_than_may_wait() -> None:
    read = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(10):
            read += MAX_AHEAD_BYTES // 2
            yield b"x" * (MAX_AHEAD_BYTES // 2)

    worked = 0

    async def work(data: bytes) -> None:
        nonlocal worked
        await trio.testing.wait_all_tasks_blocked()
        assert read - worked <= len(data) + MAX_AHEAD_BYTES
        worked += len(data)

    await work_through(body(), work, while_reading=nullcontext())
    assert worked == 5 * MAX_AHEAD_BYTES


async def test_an_error_comes_after_everything_before_it() -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"1"
        yield b"2"
        raise RequestError(Code.INVALID_REQUEST, "The connection ended before the body did.")

    taken = b""

    async def work(data: bytes) -> None:
        nonlocal taken
        await trio.lowlevel.checkpoint()
        taken += data

    with pytest.raises(RequestError, match="before the body did"):
        await work_through(body(), work, while_reading=nullcontext())
    assert taken == b"12"


async def test_what_ends_the_reading_leaves_the_work(autojump_clock: trio.testing.MockClock) -> None:
    """What came before is worked on to its end, and then the reason is told."""

    async def body() -> AsyncIterator[bytes]:
        yield b"1"
        await trio.sleep(1)
        yield b"2"
        await trio.sleep_forever()

    @contextmanager
    def for_two_seconds() -> Iterator[None]:
        with trio.move_on_after(2):
            yield
        raise RequestError(Code.UNAUTHORIZED, "The token has expired.")

    taken = b""

    async def work(data: bytes) -> None:
        nonlocal taken
        await trio.sleep(1.75)
        taken += data

    with pytest.raises(RequestError, match="expired"):
        await work_through(body(), work, while_reading=for_two_seconds())
    assert taken == b"12"
    assert trio.current_time() == pytest.approx(3.5)
