"""Cursors: the position of a stream in all its channels, there and back, and whatever else a client may send."""

from __future__ import annotations

import random

import pytest

from relay.dialects.sse.cursor import UNKNOWN, Cursor, key_of, parse, text_of
from relay.model.namespaces import Namespaces
from relay.model.publication import Position, Publication

NAMES = ["orders:1", "market:BTC", "trades"]


@pytest.mark.parametrize("key", [None, "k-_9"])
def test_there_and_back(key: str | None) -> None:
    cursor = Cursor(NAMES, [None] * 3, key)
    assert parse(cursor.text().decode(), NAMES) == [None, None, None]
    cursor.move("market:BTC", Position(7, "behind"))
    cursor.move("orders:1", Position(0, "durable"))
    text = cursor.text().decode()
    assert parse(text, NAMES) == [Position(0, "durable"), Position(7, "behind"), None]
    assert key_of(text) == key
    again = Cursor(NAMES, parse(text, NAMES), key)
    assert parse(again.text().decode(), NAMES) == parse(text, NAMES)


def test_an_epoch_that_changes() -> None:
    cursor = Cursor(NAMES, [Position(5, "old"), None, None], None)
    cursor.move("orders:1", Position(1, "new"))
    assert parse(cursor.text().decode(), NAMES)[0] == Position(1, "new")


def test_a_channel_without_positions() -> None:
    cursor = Cursor(NAMES, [None] * 3, None)
    cursor.move("trades", Position(0, ""))
    assert parse(cursor.text().decode(), NAMES) == [None] * 3


def test_a_stream_of_one_channel_shares_its_text() -> None:
    name = Namespaces(entities=(), history_period=60.0, durable=()).parse("market:BTC")
    publication = Publication(name, "market:price", 9, "e", 0, data={"price": 1})
    cursor = Cursor(["market:BTC"], [Position(9, "e")], None)
    assert text_of(publication) == cursor.text()


def test_other_channels_or_another_order_resume_nothing() -> None:
    text = Cursor(NAMES, [Position(1, "a"), Position(2, "b"), Position(3, "a")], None).text().decode()
    for names in (NAMES[::-1], NAMES[:2], [*NAMES, "x:1"], ["orders:2", *NAMES[1:]]):
        assert parse(text, names) == [UNKNOWN] * len(names)


def test_a_lost_position_stays_lost_until_the_channel_begins() -> None:
    """A client that drops before it was told of a loss is told the next time."""
    cursor = Cursor(NAMES, parse("garbage", NAMES), None)
    assert parse(cursor.text().decode(), NAMES) == [UNKNOWN] * 3
    cursor.move("orders:1", Position(4, "e"))
    assert parse(cursor.text().decode(), NAMES) == [Position(4, "e"), UNKNOWN, UNKNOWN]


def test_garbage_is_never_an_error_and_never_a_position() -> None:
    """Each text is read as no position, or as the one of the whole text; a changed one names no position that was not in it."""
    source = random.Random(14)
    whole = Cursor(NAMES, [Position(1, "a"), Position(2**63, "b"), None], "key").text().decode()
    for _ in range(5000):
        text = list(whole)
        for _ in range(source.randint(1, 4)):
            text[source.randrange(len(text))] = source.choice("~,.-0123456789abcdef \x00\xff٣")
        for read in (parse("".join(text), NAMES), parse("".join(text[: source.randint(0, len(text))]), NAMES)):
            assert len(read) == len(NAMES)
            assert all(position is None or position.offset >= 0 for position in read)
    assert parse("", NAMES) == parse("~~", NAMES) == [UNKNOWN] * 3
