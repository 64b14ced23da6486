"""One channel: its head, its history, its subscribers and the frames that each is delivered."""

from __future__ import annotations

from collections import defaultdict

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.broker.channel import Channel
from relay.broker.subscription import Subscriber
from relay.config.namespaces import NamespaceConfig
from relay.model.namespaces import Namespaces
from relay.model.publication import Draft, Encoder, Origin, Position, Publication
from relay.sessions.audience import Sink
from relay.sessions.flusher import Flusher
from relay.sessions.outbox import Outbox, flush
from tests.fakes import MemoryTransport, RecordingSink

KINDS = Namespaces(entities=["task"], history_period=86400.0, durable=())


def channel(name: str = "task:1", offset: int = 0) -> Channel:
    """Return a channel with this head."""
    return Channel(KINDS.parse(name), Position(offset, "e"))


def subscriber(sink: Sink, encode: Encoder) -> Subscriber:
    """Return a subscriber of no broker."""
    return Subscriber(sink, encode, leave=lambda subscriber: None)


def publish(
    of: Channel, type_: str | None = None, *, written: bool = False, origin: Origin | None = None
) -> Publication:
    """Publish to the channel."""
    draft = Draft(of.name, type_ or of.name.namespace.default_type or "t", {}, 0, origin=origin)
    return of.publish(draft, Position(of.offset + 1, "e"), written=written)


def in_use(of: Channel) -> bool:
    """Tell whether the channel must stay in memory."""
    return of.in_use


class CountingEncoder:
    """An encoder that counts its calls."""

    def __init__(self, word: bytes = b"") -> None:
        self.word = word
        self.encoded: list[int] = []

    def __call__(self, publication: Publication) -> bytes:
        """Encode."""
        self.encoded.append(publication.offset)
        return self.word + b"%d" % publication.offset


def test_a_publication_is_encoded_once_for_each_encoder() -> None:
    """All subscribers that share an encoder get the very same bytes."""
    one, other = CountingEncoder(b"a"), CountingEncoder(b"b")
    of = channel()
    ours, theirs = [RecordingSink() for _ in range(3)], [RecordingSink() for _ in range(2)]
    subscribers = [*(subscriber(sink, one) for sink in ours), *(subscriber(sink, other) for sink in theirs)]
    for each in subscribers:
        of.join(each)
    publish(of)
    publish(of)
    assert one.encoded == other.encoded == [1, 2]
    assert all(sink.taken == [(None, b"a1"), (None, b"a2")] for sink in ours)
    assert all(sink.taken == [(None, b"b1"), (None, b"b2")] for sink in theirs)
    assert all(sink.frames[0] is ours[0].frames[0] for sink in ours)
    assert of.subscribers() == subscribers


async def test_sinks_of_several_classes_share_an_encoder() -> None:
    """Each class has its own audience, and a publication is encoded once for all of them."""
    deliveries: defaultdict[Encoder, int] = defaultdict(int)
    of = Channel(KINDS.parse("task:1"), Position(0, "e"), deliveries)
    encode, sink, transport = CountingEncoder(), RecordingSink(), MemoryTransport()
    outbox = Outbox(transport, Flusher(), 100, on_blocked=lambda: None, on_overflow=lambda: None)
    of.join(subscriber(sink, encode))
    of.join(subscriber(outbox, encode))
    publish(of)
    outbox.settle()
    flush((outbox,))
    assert (encode.encoded, sink.frames, bytes(transport.taken)) == ([1], [b"1"], b"1")
    assert deliveries == {encode: 2}


def test_an_encoder_may_refuse_a_publication() -> None:
    """If an encoder returns None, its subscribers get nothing, and the others get their frame."""
    of = channel()
    silent, sink = RecordingSink(), RecordingSink()
    of.join(subscriber(silent, lambda publication: None))
    of.join(subscriber(sink, CountingEncoder()))
    publish(of)
    assert silent.taken == []
    assert sink.frames == [b"1"]


def test_a_defect_of_an_encoder_stays_its_own() -> None:
    """If an encoder raises, its subscribers get nothing, and the others get their frame."""
    of = channel()
    broken, sink = RecordingSink(), RecordingSink()

    def encode(publication: Publication) -> bytes:
        raise ValueError

    of.join(subscriber(broken, encode))
    of.join(subscriber(sink, CountingEncoder()))
    assert publish(of).offset == 1
    assert broken.taken == []
    assert sink.frames == [b"1"]


@attrs.frozen
class Sender:
    """An origin that sends its own copy."""

    sink: RecordingSink

    def receive(self, publication: Publication) -> None:
        """Send the copy."""
        self.sink.push(b"own %d" % publication.offset)


def test_the_origin_gets_its_own_copy() -> None:
    """Every other subscriber gets the shared frame. An origin that is not a subscriber gets its copy too."""
    of = channel()
    encode = CountingEncoder()
    sinks = [RecordingSink() for _ in range(3)]
    for sink in sinks:
        of.join(subscriber(sink, encode))
    publish(of, origin=Sender(sinks[1]))
    assert [sink.frames for sink in sinks] == [[b"1"], [b"own 1"], [b"1"]]
    elsewhere = RecordingSink()
    publish(of, origin=Sender(elsewhere))
    assert [sink.frames for sink in sinks] == [[b"1", b"2"], [b"own 1", b"2"], [b"1", b"2"]]
    assert elsewhere.frames == [b"own 2"]


async def test_the_copy_of_an_origin_has_its_place_in_the_order() -> None:
    """An outbox gets its own copy between the shared frames before and after it."""
    of = channel()
    flusher, encode = Flusher(), CountingEncoder()
    transports = [MemoryTransport() for _ in range(2)]
    outboxes = [
        Outbox(transport, flusher, 100, on_blocked=lambda: None, on_overflow=lambda: None) for transport in transports
    ]
    for outbox in outboxes:
        of.join(subscriber(outbox, encode))

    class Own:
        sink = outboxes[0]

        def receive(self, publication: Publication) -> None:
            self.sink.push(b"own")

    publish(of)
    publish(of, origin=Own())
    publish(of)
    flusher.settle()
    flush(outboxes)
    assert [transport.taken for transport in transports] == [b"1own3", b"123"]


def test_joining_and_leaving() -> None:
    """Both are idempotent. A subscriber that left gets nothing, and an empty channel is not in use."""
    of = channel()
    encode, sink, other = CountingEncoder(), RecordingSink(), RecordingSink()
    one, two = subscriber(sink, encode), subscriber(other, encode)
    assert not in_use(of)
    of.join(one)
    of.join(one)
    of.join(two)
    publish(of, written=True)
    of.leave(two)
    of.leave(two)
    of.leave(subscriber(RecordingSink(), CountingEncoder()))
    publish(of, written=True)
    assert sink.frames == [b"1", b"2"]
    assert other.frames == [b"1"]
    assert of.subscribers() == [one]
    assert in_use(of)
    of.leave(one)
    assert not in_use(of)
    assert of.subscribers() == []


def test_it_is_in_use_while_something_is_due() -> None:
    """While a task holds on to it, and while it is ahead of the store."""
    of = channel("trades", offset=3)
    assert not in_use(of)
    of.pin()
    assert in_use(of)
    of.unpin()
    publish(of)
    assert in_use(of)
    of.mark_written(of.offset)
    assert not in_use(of)
    publish(of, written=True)
    assert not in_use(of)


def test_an_idle_channel_counts_its_seconds() -> None:
    """From the first look at it since it was last in use."""
    of = channel()
    assert [of.idle_period(now) for now in (10.0, 12.0)] == [0.0, 2.0]
    of.pin()
    assert of.idle_period(13.0) == 0.0
    of.unpin()
    assert [of.idle_period(now) for now in (14.0, 19.0)] == [0.0, 5.0]


def test_the_newest_is_the_head() -> None:
    """And its history begins where the head was when it came into memory."""
    of = channel(offset=7)
    assert of.position == Position(7, "e")
    assert not of.history.complete
    publish(of)
    assert of.position == Position(8, "e")
    assert [one.offset for one in of.history.all()] == [8]


def test_of_a_market_the_last_price_is_kept() -> None:
    """What is no price goes by: it has an offset, and pushes no price out."""
    of = channel("market:A")
    for type_ in (None, "market:halt"):
        publish(of, type_)
    assert of.offset == 2
    assert [one.offset for one in of.history.all()] == [1]
    publish(of)
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
        sink = RecordingSink()
        of.join(subscriber(sink, CountingEncoder()))
        publish(of, type_)
        assert [key is not None for key, _ in sink.taken] == [latest], name


def test_channels_do_not_share_keys() -> None:
    """A price of one symbol stands for none of another."""
    sink = RecordingSink()
    for name in ("market:A", "market:B", "event:1"):
        of = channel(name)
        of.join(subscriber(sink, CountingEncoder()))
        publish(of)
        publish(of)
    keys = [key for key, _ in sink.taken]
    assert keys[::2] == keys[1::2]
    assert len(set(keys)) == 3


@pytest.mark.slow
@given(st.lists(st.sampled_from(["market:price", "market:halt"]), min_size=1, max_size=12), st.integers(0, 12))
async def test_a_slow_reader_gets_a_market_in_order(types: list[str], blocked_from: int) -> None:
    """All that is no price, the last price, and of the others what was not replaced: in the order of their offsets."""
    of = channel("market:A")
    kernel = MemoryTransport(room=0)
    outbox = Outbox(kernel, Flusher(), 10_000, on_blocked=lambda: None, on_overflow=lambda: None)
    of.join(subscriber(outbox, lambda one: b"%d " % one.offset))
    for index, type_ in enumerate(types):
        if index == blocked_from:
            outbox.settle()
            flush((outbox,))
        publish(of, type_)
    outbox.settle()
    kernel.grant()
    await outbox.drain()
    flush((outbox,))
    delivered = [int(word) for word in kernel.taken.split()]
    assert delivered == sorted(set(delivered))
    assert {offset for offset, type_ in enumerate(types, 1) if type_ == "market:halt"} <= set(delivered)
    prices = [offset for offset, type_ in enumerate(types, 1) if type_ == "market:price"]
    assert prices[-1:] == [offset for offset in delivered if offset in prices][-1:]


async def test_a_slow_reader_gets_values_that_are_not_kept_in_order() -> None:
    """They have no offsets. A value takes the place of no other one that came before something else."""
    options = NamespaceConfig(history_size=0, durable=False, slow_readers="latest")
    names = Namespaces(entities=(), history_period=1.0, durable=(), configured={"game": options})
    of = Channel(names.parse("game:1"), Position(0, ""))
    kernel = MemoryTransport(room=0)
    outbox = Outbox(kernel, Flusher(), 10_000, on_blocked=lambda: None, on_overflow=lambda: None)
    of.join(subscriber(outbox, lambda one: one.json))
    outbox.send_nowait(b"0")
    flush((outbox,))
    for number, type_ in enumerate(["halt", "game:event", "halt", "game:event", "game:event"], 1):
        of.pass_on(Publication(of.name, type_, 0, "", 1, data=number), None)
    outbox.settle()
    kernel.grant()
    await outbox.drain()
    assert kernel.taken == b"01235"


@pytest.mark.parametrize("name", ["market:A", "event:1"])
async def test_a_slow_reader_of_values_is_not_flooded(name: str) -> None:
    """However many come, one waits: it takes the place of the one that the kernel refused."""
    of = channel(name)
    kernel = MemoryTransport(room=0)
    outbox = Outbox(kernel, Flusher(), 100, on_blocked=lambda: None, on_overflow=lambda: pytest.fail("disconnected"))
    of.join(subscriber(outbox, CountingEncoder()))
    publish(of)
    outbox.settle()
    flush((outbox,))
    for _ in range(2, 500):
        publish(of)
    outbox.settle()
    assert outbox.size == len(b"499")
    kernel.grant()
    await outbox.drain()
    assert kernel.taken == b"499"
