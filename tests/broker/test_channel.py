"""One channel: its head, its audience, and who is given what."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.broker.channel import Channel
from relay.model.kinds import Kinds
from relay.model.publication import Position, Publication
from relay.sessions.flusher import Flusher
from relay.sessions.outbox import Outbox, flush

KINDS = Kinds(entities=["task"], history_period=86400.0, durable=())


def channel(name: str = "task:1", offset: int = 0) -> Channel[str]:
    """Return a channel with this head."""
    return Channel(KINDS.parse(name), Position(offset, "e"))


def publication(of: Channel[str], type_: str | None = None, offset: int | None = None) -> Publication:
    """Return the channel's next publication."""
    type_ = type_ or of.name.kind.default_type or "t"
    return Publication(of.name, type_, of.offset + 1 if offset is None else offset, "e", 0, data={})


def in_use(of: Channel[str]) -> bool:
    """Tell whether the channel must stay in memory."""
    return of.in_use


@attrs.define(eq=False)
class Sink:
    """What was pushed, and how."""

    taken: list[tuple[str | None, bytes]] = attrs.Factory(list)

    def push(self, frame: bytes) -> None:
        """Take a frame."""
        self.taken.append((None, frame))

    def push_latest(self, key: str, frame: bytes) -> None:
        """Take a frame of which the newest counts."""
        self.taken.append((key, frame))

    @property
    def frames(self) -> list[bytes]:
        """The frames alone."""
        return [frame for _, frame in self.taken]


class Encoder:
    """Words of a dialect; they are counted."""

    def __init__(self, word: bytes = b"") -> None:
        self.word = word
        self.encoded: list[int] = []

    def __call__(self, publication: Publication) -> bytes:
        """Encode."""
        self.encoded.append(publication.offset)
        return self.word + b"%d" % publication.offset


def test_each_is_given_it_in_its_own_words_encoded_once() -> None:
    """However many there are: the very same bytes for all that share an encoder."""
    one, other = Encoder(b"a"), Encoder(b"b")
    of = channel()
    ours, theirs = [Sink() for _ in range(3)], [Sink() for _ in range(2)]
    for sink in ours:
        of.join(one, sink, "ours")
    for sink in theirs:
        of.join(other, sink, "theirs")
    of.deliver(publication(of, offset=1))
    of.deliver(publication(of, offset=2))
    assert one.encoded == other.encoded == [1, 2]
    assert all(sink.taken == [(None, b"a1"), (None, b"a2")] for sink in ours)
    assert all(sink.taken == [(None, b"b1"), (None, b"b2")] for sink in theirs)
    assert all(sink.frames[0] is ours[0].frames[0] for sink in ours)
    assert of.subscribers() == ["ours"] * 3 + ["theirs"] * 2


def test_a_dialect_without_words_for_it_says_nothing() -> None:
    """And the others hear of it all the same."""
    of = channel()
    silent, sink = Sink(), Sink()
    of.join(lambda publication: None, silent, "silent")
    of.join(Encoder(), sink, "sink")
    of.deliver(publication(of))
    assert silent.taken == []
    assert sink.frames == [b"1"]


def test_whoever_sent_it_gets_its_own_copy_elsewhere() -> None:
    """`except_for` is left out, and nobody else is; also when it does not listen here."""
    of = channel()
    encode = Encoder()
    sinks = [Sink() for _ in range(3)]
    for sink in sinks:
        of.join(encode, sink, "")
    of.deliver(publication(of), except_for=sinks[1])
    assert [sink.frames for sink in sinks] == [[b"1"], [], [b"1"]]
    of.deliver(publication(of, offset=2), except_for=Sink())
    assert [sink.frames for sink in sinks] == [[b"1", b"2"], [b"2"], [b"1", b"2"]]


def test_joining_and_leaving() -> None:
    """Who left is given nothing, who joined again once; leaving is idempotent; an empty channel is not in use."""
    of = channel()
    encode, sink, other = Encoder(), Sink(), Sink()
    assert not in_use(of)
    of.join(encode, sink, "one")
    of.join(encode, sink, "one")
    of.join(encode, other, "other")
    of.deliver(publication(of, offset=1))
    of.leave(encode, other)
    of.leave(encode, other)
    of.leave(Encoder(), sink)
    of.deliver(publication(of, offset=2))
    assert sink.frames == [b"1", b"2"]
    assert other.frames == [b"1"]
    assert of.subscribers() == ["one"]
    assert in_use(of)
    of.leave(encode, sink)
    assert not in_use(of)
    assert of.subscribers() == []


def test_it_is_in_use_while_something_is_due() -> None:
    """While a task holds on to it, and while it is ahead of the store."""
    of = channel("trades", offset=3)
    assert not in_use(of)
    of.pins += 1
    assert in_use(of)
    of.pins -= 1
    of.add(publication(of))
    assert in_use(of)
    of.written_offset = of.offset
    assert not in_use(of)


def test_the_newest_is_the_head() -> None:
    """And its history begins where the head was when it came into memory."""
    of = channel(offset=7)
    assert of.position == Position(7, "e")
    assert not of.history.complete
    of.add(publication(of))
    assert of.position == Position(8, "e")
    assert [one.offset for one in of.history.all()] == [8]


def test_of_a_market_the_last_price_is_kept() -> None:
    """What is no price goes by: it has an offset, and pushes no price out."""
    of = channel("market:A")
    for type_ in (None, "market:halt"):
        of.add(publication(of, type_))
    assert of.offset == 2
    assert [one.offset for one in of.history.all()] == [1]
    of.add(publication(of))
    assert [one.offset for one in of.history.all()] == [3]


def test_only_values_replace_values() -> None:
    """Of a market or a chart the default type is pushed as the newest of its key, everything else, and everywhere else, as it is."""
    for name, type_, latest in (
        ("market:A", None, True),
        ("event:1", None, True),
        ("market:A", "market:halt", False),
        ("event:1", "x", False),
        ("trades", None, False),
        ("task:1", None, False),
    ):
        of = channel(name)
        sink = Sink()
        of.join(Encoder(), sink, "")
        of.deliver(publication(of, type_))
        assert [key is not None for key, _ in sink.taken] == [latest], name


def test_channels_do_not_share_keys() -> None:
    """A price of one symbol stands for none of another."""
    sink = Sink()
    for name in ("market:A", "market:B", "event:1"):
        of = channel(name)
        of.join(Encoder(), sink, "")
        of.deliver(publication(of, offset=1))
        of.deliver(publication(of, offset=2))
    keys = [key for key, _ in sink.taken]
    assert keys[::2] == keys[1::2]
    assert len(set(keys)) == 3


class Refusing:
    """A kernel that takes nothing, until it takes everything."""

    def __init__(self) -> None:
        self.open = False
        self.taken = b""

    def send_nowait(self, data: bytes) -> int:
        """Take all or nothing."""
        if not self.open:
            return 0
        self.taken += data
        return len(data)

    async def wait_writable(self) -> None:
        """Return."""


@given(st.lists(st.sampled_from(["market:price", "market:halt"]), min_size=1, max_size=12), st.integers(0, 12))
async def test_a_slow_reader_gets_a_market_in_order(types: list[str], blocked_from: int) -> None:
    """All that is no price, the last price, and of the others what was not replaced: in the order of their offsets."""
    of = channel("market:A")
    kernel = Refusing()
    outbox = Outbox(kernel, Flusher(), 10_000, on_blocked=lambda: None, on_overflow=lambda: None)
    of.join(lambda one: b"%d " % one.offset, outbox, "")
    for index, type_ in enumerate(types):
        one = publication(of, type_)
        of.add(one)
        if index == blocked_from:
            outbox.settle()
            flush((outbox,))
        of.deliver(one)
    outbox.settle()
    kernel.open = True
    await outbox.drain()
    flush((outbox,))
    delivered = [int(word) for word in kernel.taken.split()]
    assert delivered == sorted(set(delivered))
    assert {offset for offset, type_ in enumerate(types, 1) if type_ == "market:halt"} <= set(delivered)
    prices = [offset for offset, type_ in enumerate(types, 1) if type_ == "market:price"]
    assert prices[-1:] == [offset for offset in delivered if offset in prices][-1:]


@pytest.mark.parametrize("name", ["market:A", "event:1"])
async def test_a_slow_reader_of_values_is_not_flooded(name: str) -> None:
    """However many come, one waits behind what the kernel refused."""
    of = channel(name)
    kernel = Refusing()
    outbox = Outbox(kernel, Flusher(), 100, on_blocked=lambda: None, on_overflow=lambda: pytest.fail("disconnected"))
    of.join(Encoder(), outbox, "")
    of.deliver(publication(of, offset=1))
    outbox.settle()
    flush((outbox,))
    for offset in range(2, 500):
        of.deliver(publication(of, offset=offset))
    outbox.settle()
    assert outbox.size == len(b"1499")
    kernel.open = True
    await outbox.drain()
    assert kernel.taken == b"1499"
