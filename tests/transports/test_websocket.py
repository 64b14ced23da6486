"""What is read of WebSocket frames, however they are cut into reads, and what becomes of connections that are gone."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from wsproto.events import BytesMessage, CloseConnection, TextMessage

from relay.ground.errors import Reason
from relay.ground.turnstile import Turnstile
from relay.transports.background_reader import BackgroundReader
from relay.transports.websocket import WebSocket
from relay.transports.websocket_events import MAX_EMPTY_FRAGMENTS, Events
from tests.e2e.wire import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, frame

LONE_PONG = frame(PONG)
FRAMES = st.sampled_from(
    [
        LONE_PONG,
        LONE_PONG,
        frame(PONG, b"x"),
        frame(PING),
        frame(TEXT, b"text"),
        frame(TEXT),
        frame(BINARY, LONE_PONG),
        frame(BINARY, LONE_PONG, fin=False) + frame(CONTINUATION, LONE_PONG),
        frame(BINARY, LONE_PONG, fin=False) + LONE_PONG + frame(CONTINUATION, LONE_PONG[:2]),
        frame(CLOSE, b"\x03\xe8"),
        b"\xff\xff",
    ]
)


class Sealed:
    """An outbox as far as a reader uses it."""

    def seal(self) -> None:
        """Nothing more is to be sent."""


def seen(data: bytes, cuts: list[int]) -> tuple[list[object], int, list[Reason]]:
    """Return what comes of data that is cut so: events, with messages whole again, the number of pongs, and what broke the rules."""
    pongs: list[None] = []
    violations: list[Reason] = []
    outbox: Any = Sealed()
    events = Events(outbox, 1000, lambda: pongs.append(None), violations.append)
    found: list[object] = []
    message = b""
    for begin, end in pairwise([0, *cuts, len(data)]):
        events.receive_data(data[begin:end])
        for event in events.events():
            if isinstance(event, TextMessage | BytesMessage):
                message += event.data.encode() if isinstance(event.data, str) else event.data
                if event.message_finished:
                    found.append((type(event), message))
                    message = b""
            else:
                found.append((type(event), event.code if isinstance(event, CloseConnection) else None))
    return found, len(pongs), violations


@pytest.mark.slow
@given(st.lists(FRAMES, max_size=8), st.data())
def test_reads_may_end_anywhere(frames: list[bytes], data: st.DataObject) -> None:
    """A pong that comes alone is not taken apart: only what is one may be told by that, and nothing else may differ."""
    wire = b"".join(frames)
    ends = {sum(map(len, frames[:number])) for number in range(1, len(frames))}
    cuts = data.draw(st.sets(st.integers(0, len(wire))))
    by_byte = seen(wire, list(range(1, len(wire))))
    for chosen in (cuts, ends, cuts | ends):
        assert seen(wire, sorted(chosen)) == by_byte


def test_a_pong_that_comes_alone_is_a_sign_of_life() -> None:
    assert seen(LONE_PONG * 2, [6]) == ([], 2, [])


def test_what_only_looks_like_a_pong_is_none() -> None:
    """Six bytes in the middle of a message, read by themselves."""
    whole = frame(BINARY, LONE_PONG)
    assert seen(whole, [len(whole) - 6]) == ([(BytesMessage, LONE_PONG)], 0, [])
    assert seen(whole, [len(whole) - 6, len(whole) - 3]) == ([(BytesMessage, LONE_PONG)], 0, [])


def test_a_pong_between_two_fragments_is_one() -> None:
    fragments = [frame(TEXT, b"a", fin=False), LONE_PONG, frame(CONTINUATION, b"b")]
    assert seen(b"".join(fragments), [7, 13]) == ([(TextMessage, b"ab")], 1, [])


def test_a_fragment_with_a_part_of_a_character_is_not_empty() -> None:
    """One byte in each fragment is slow, but not a flood; fragments with none are, also within a character."""
    text = "\U0001f600\u00fc" * 50
    first, *rest = (bytes((byte,)) for byte in text.encode())
    begin = frame(TEXT, first, fin=False)
    wire = begin + b"".join(frame(CONTINUATION, byte, fin=False) for byte in rest)
    assert seen(wire + frame(CONTINUATION), []) == ([(TextMessage, text.encode())], 0, [])
    empty = frame(CONTINUATION, fin=False)
    assert seen(begin + empty * MAX_EMPTY_FRAGMENTS, [])[2] == []
    assert seen(begin + empty * (MAX_EMPTY_FRAGMENTS + 1), [])[2] == [Reason.FLOOD]


class Gone:
    """A stream whose peer is gone, and has said so or not."""

    reads_at_once = True

    def __init__(self, *, reset: bool) -> None:
        self._reset = reset

    def receive_nowait(self, max_bytes: int | None = None) -> bytes:
        """There is nothing any more."""
        if self._reset:
            raise trio.BrokenResourceError
        return b""


@pytest.mark.parametrize("reset", [False, True])
async def test_of_many_that_are_gone_few_end_in_one_turn(reset: bool) -> None:
    """Between them others run: who stayed gets what was published meanwhile."""
    stream: Any = Gone(reset=reset)
    outbox: Any = Sealed()
    ends = trio.Semaphore(3)
    ended = 0

    async def end() -> None:
        nonlocal ended
        websocket = WebSocket(
            stream,
            outbox,
            BackgroundReader(),
            max_message_bytes=1000,
            on_bytes=None,
            on_pong=None,
            on_violation=print,
            start_turnstile=Turnstile(),
            end_semaphore=ends,
        )
        assert await websocket.receive() is None
        ended += 1

    async with trio.open_nursery() as nursery:
        for _ in range(30):
            nursery.start_soon(end)
        seen_ended = [0]
        while seen_ended[-1] < 30:
            await trio.lowlevel.checkpoint()
            seen_ended.append(ended)
    assert max(after - before for before, after in pairwise(seen_ended)) <= 3
