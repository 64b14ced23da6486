"""One channel in memory: its audience, and what reaches whom."""

from __future__ import annotations

import logging

import pytest

from relay.channel import Channel
from relay.kinds import Kinds
from relay.models import Position, Publication


class Ear:
    """Keeps the frames that it is given."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []

    def push(self, frame: bytes) -> None:
        """Take a frame."""
        self.frames.append(frame)

    def push_latest(self, key: str, frame: bytes) -> None:
        """Take a frame that stands for its key."""
        self.frames.append(frame)


def encode(publication: Publication) -> bytes:
    """Return a publication in some words."""
    return publication.json


def fail(publication: Publication) -> bytes:
    """Have no words for anything."""
    raise TypeError("a defect")


def skip(publication: Publication) -> None:
    """Have no words for this."""


def test_an_encoder_that_fails_fails_alone(caplog: pytest.LogCaptureFixture) -> None:
    """One dialect's defect is logged; the other dialects get the publication, and the publisher hears of nothing."""
    name = Kinds(entities=(), history_period=1.0, durable=()).parse("trades")
    channel: Channel[object] = Channel(name, Position(0, "e"))
    broken, well, silent = Ear(), Ear(), Ear()
    channel.join(fail, broken, None)
    channel.join(skip, silent, None)
    channel.join(encode, well, None)
    with caplog.at_level(logging.ERROR, logger="relay.broker"):
        channel.deliver(Publication(name, "trade:created", 1, "e", 0, data={"amount": 1}))
    assert (broken.frames, silent.frames, well.frames) == ([], [], [b'{"amount":1}'])
    assert [record.getMessage() for record in caplog.records] == ["cannot encode"]


def test_besides_gets_no_shared_frame() -> None:
    """The connection that is given its own copy gets no other; the rest get the shared one."""
    name = Kinds(entities=(), history_period=1.0, durable=()).parse("trades")
    channel: Channel[object] = Channel(name, Position(0, "e"))
    one, two = Ear(), Ear()
    channel.join(encode, one, None)
    channel.join(encode, two, None)
    channel.deliver(Publication(name, "trade:created", 1, "e", 0, data={}), besides=one)
    assert (one.frames, two.frames) == ([], [b"{}"])
    channel.leave(encode, two)
    channel.leave(encode, two)
    assert not channel.holds(encode, two)
    assert channel.holds(encode, one)
