"""Messages: what each statement does to a real database, of either kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relay.store import messages, rooms
from relay.store.messages import Message
from relay.store.rooms import Room
from relay.store.transaction import Transaction
from tests.stores import transaction

pytestmark = pytest.mark.each_store


@pytest.fixture
def connection(store: str, tmp_path: Path) -> Iterator[Transaction]:
    """A migrated database, with two rooms, as the store's thread has it."""
    with transaction(tmp_path) as connection:
        for id_ in ("r", "other"):
            rooms.insert(connection, Room(id_, "Name", None, "public", "cora", 1000, 1, 0, None))
        yield connection


def test_messages_are_counted_once(connection: Transaction) -> None:
    """An id that is taken, in whichever room, changes nothing."""
    first = Message("m1", "r", "u", "a'b\0c😀", 5000)
    taken = Message("m1", "other", "v", "x", 6000)
    assert messages.insert(connection, [first, taken]) == [True, False]
    assert messages.insert(connection, [taken]) == [False]
    assert messages.get(connection, "m1") == first
    assert messages.get(connection, "none") is None
    stored, other = rooms.get(connection, "r"), rooms.get(connection, "other")
    assert stored is not None
    assert other is not None
    assert (stored.message_count, stored.last_message_at) == (1, 5000)
    assert (other.message_count, other.last_message_at) == (0, None)


def test_names_are_those_that_are_stored_now(connection: Transaction) -> None:
    """A message shows its author's names as they are when it is asked for."""
    messages.insert(connection, [Message("m1", "r", "u", "x", 5000)])
    assert messages.list_page(connection, "r", 9, 0, count=1) == [Message("m1", "r", "u", "x", 5000, None, None, None)]
    connection.execute("INSERT INTO users VALUES ('u', 'F', 'L', 'A', 1)")
    assert messages.list_page(connection, "r", 9, 0, count=1) == [Message("m1", "r", "u", "x", 5000, "F", "L", "A")]
    assert messages.get(connection, "m1") == Message("m1", "r", "u", "x", 5000, "F", "L", "A")


def test_pages(connection: Transaction) -> None:
    """In the order of commits, whatever their times are, and of one room alone."""
    for number in range(6):
        messages.insert(connection, [Message(f"m{number}", "r" if number % 2 else "other", "u", "x", 9000 - number)])

    def ids(found: list[Message] | None) -> list[str] | None:
        return None if found is None else [message.id for message in found]

    assert ids(messages.list_page(connection, "r", 9, 0, count=3)) == ["m5", "m3", "m1"]
    assert ids(messages.list_page(connection, "r", 1, 1, count=3)) == ["m3"]
    assert ids(messages.list_page(connection, "r", 1, 2**62, count=3)) == []
    assert ids(messages.list_before(connection, "r", "m5", 1)) == ["m3"]
    assert ids(messages.list_before(connection, "r", "m1", 9)) == []
    assert ids(messages.list_before(connection, "r", "m2", 9)) is None
    assert ids(messages.list_before(connection, "none", "m1", 9)) is None


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(count=st.integers(0, 12), limit=st.integers(1, 5), offset=st.integers(0, 15), later=st.integers(0, 3))
def test_a_page_is_the_same_from_either_end(
    connection: Transaction, count: int, limit: int, offset: int, later: int
) -> None:
    """A page shows the room as it was when its messages were counted, however many came since."""
    rooms.delete(connection, "r")
    rooms.insert(connection, rooms.Room("r", "R", None, "public", "u", 1, 1, 0, None))
    for number in range(count + later):
        messages.insert(connection, [Message(f"m{number}", "r", "u", "x", number)])
    found = messages.list_page(connection, "r", limit, offset, count=count)
    newest_first = [f"m{number}" for number in reversed(range(count))]
    seen = [message.id for message in found]
    if 2 * offset + limit > count:  # read from the oldest message on
        assert seen == newest_first[offset : offset + limit]
    else:
        assert len(seen) == limit


def test_pages_read_an_index(connection: Transaction, store: str) -> None:
    """A page of a room costs what the page costs, not what the table holds."""
    for query, parameters in (
        ("SELECT id FROM messages WHERE room_id = ? ORDER BY seq DESC LIMIT 50", ("r",)),
        ("SELECT id FROM messages WHERE room_id = ? AND seq < ? ORDER BY seq DESC LIMIT 50", ("r", 9)),
        ("SELECT id FROM notifications WHERE user_id = ? ORDER BY seq DESC LIMIT 50", ("u",)),
        ("DELETE FROM idempotency WHERE scope >= ? AND scope < ?", ("chat:r:", "chat:r;")),
    ):
        if store == "postgres":
            for way in ("seqscan", "bitmapscan", "sort"):  # good enough for a few rows
                connection.execute(f"SET enable_{way} = off")
            plan = " ".join(row[0] for row in connection.execute(f"EXPLAIN {query}", parameters))
            assert "Index" in plan
            assert "Sort" not in plan
        else:
            plan = " ".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {query}", parameters))
            assert "SEARCH" in plan
            assert "SCAN" not in plan
            assert "TEMP B-TREE" not in plan
