"""Verifying finds what is wrong with a database, and nothing where nothing is."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import trio

from relay.store.errors import StoreError
from relay.store.sqlite.database import open_database
from relay.store.sqlite.verification import verify
from relay.store.verification import MAX_PROBLEMS

CONTENT = """
INSERT INTO channels (id, name, epoch, offset, durable, history_size) VALUES
    (1, 'chatroom:r', 'e', 5, 1, 1000), (2, 'market:X', 'e', 9, 0, 1), (3, 'trades', 'e', 0, 0, 500);
INSERT INTO publications (channel_id, offset, type, data, published_at) VALUES
    (1, 3, 't', '{}', 1), (1, 4, 't', '{}', 1), (1, 5, 't', '{}', 1), (2, 7, 't', '{}', 1);
INSERT INTO rooms (id, name, type, created_by, created_at, member_count, message_count)
    VALUES ('r', 'R', 'public', 'u', 1, 1, 2);
INSERT INTO members VALUES ('r', 'u', 1);
INSERT INTO messages (id, room_id, user_id, text, created_at) VALUES ('m1', 'r', 'u', 'x', 1), ('m2', 'r', 'u', 'x', 1);
INSERT INTO webhook_keys VALUES ('backend', 'user:u', 7, 1, 1);
INSERT INTO webhook_events (endpoint, key, seq, event_id, type, body, created_at, attempts, next_at, dead_at)
    VALUES ('backend', 'user:u', 6, 'e6', 't', '{}', 1, 9, NULL, 1), ('backend', 'user:u', 7, 'e7', 't', '{}', 1, 0, 1, NULL);
INSERT INTO spans VALUES ('user:u', 'user', 'user:u', 's', '{}', 1, NULL, NULL, NULL);
INSERT INTO span_holders VALUES ('user:u', 'c', 'n');
"""


async def make(path: Path, *changes: str) -> None:
    """Make a database with some content, changed."""
    with trio.fail_after(20):
        async with open_database(path):
            pass
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(CONTENT)
        for change in changes:
            connection.execute(change)


def problems(path: Path) -> list[str]:
    return [problem for finding in verify(path) for problem in finding.problems]


async def test_it_says_what_it_verified(tmp_path: Path) -> None:
    await make(tmp_path / "relay.db")
    findings = list(verify(tmp_path / "relay.db"))
    assert [finding.problems for finding in findings] == [[]] * 6
    assert [finding.verified.partition(":")[0] for finding in findings] == [
        "file", "foreign keys", "schema", "offsets", "rooms", "webhooks",
    ]  # fmt: skip
    assert "4 publications in 3 channels" in findings[3].verified
    assert "1 with 2 messages and 1 members" in findings[4].verified
    assert "2 events, and 1 spans that last" in findings[5].verified


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("DELETE FROM publications WHERE offset = 4", "chatroom:r: 1 offsets are missing between 3 and 5"),
        ("UPDATE channels SET offset = 4 WHERE id = 1", "chatroom:r: goes up to offset 5, but its head says 4"),
        ("UPDATE channels SET offset = 6 WHERE id = 1", "chatroom:r: its head says 6, but its newest publication has offset 5"),
        ("UPDATE channels SET offset = 6 WHERE id = 2", "market:X: goes up to offset 7, but its head says 6"),
        ("INSERT INTO publications VALUES (2, 0, 't', '{}', 1, NULL)", "market:X: the offset 0 is below 1"),
        ("UPDATE publications SET offset = 'x' WHERE offset = 4", "chatroom:r: 1 of its numbers are not integers"),
        ("UPDATE channels SET offset = x'00' WHERE id = 1", "chatroom:r: 1 of its numbers are not integers"),
        ("DELETE FROM channels WHERE id = 1", "3 publications belong to the missing channel number 1"),
        ("DELETE FROM messages WHERE id = 'm1'", "the room r counts 2 messages, but has 1"),
        ("UPDATE members SET room_id = 'gone'", "1 members belong to the missing room gone"),
        ("DELETE FROM webhook_events", "the webhook backend counts 1 pending events of user:u, but has 0"),
        ("UPDATE webhook_events SET next_at = NULL", "the webhook backend has 1 pending events of user:u, and 0 of them are due"),
        ("DELETE FROM span_holders", "user:u has no holder and no end"),
        ("DROP INDEX messages_by_room", "messages_by_room is missing"),
        ("CREATE TABLE extra (x)", "extra is not Relay's"),
        ("ALTER TABLE meta ADD COLUMN x", "meta was changed"),
    ],
)  # fmt: skip
async def test_it_finds(tmp_path: Path, change: str, problem: str) -> None:
    await make(tmp_path / "relay.db", change)
    found = problems(tmp_path / "relay.db")
    assert any(one.startswith(problem) for one in found), found


async def test_it_finds_an_offset_that_is_there_twice(tmp_path: Path) -> None:
    await make(
        tmp_path / "relay.db",
        "DROP TABLE publications",
        "CREATE TABLE publications (channel_id, offset, type, data, published_at)",
        "INSERT INTO publications VALUES (1, 4, 't', '{}', 1), (1, 4, 't', '{}', 1), (1, 5, 't', '{}', 1)",
    )
    assert "chatroom:r: 1 offsets are duplicates" in problems(tmp_path / "relay.db")


async def test_a_page_that_was_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "relay.db"
    await make(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        page = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'messages_by_room'").fetchone()[0]
    with path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\x0a" + bytes(7))  # an index page with nothing on it
    assert any("messages_by_room" in problem for problem in problems(path))


async def test_of_many_problems_it_says_how_many(tmp_path: Path) -> None:
    path = tmp_path / "relay.db"
    await make(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany(
            "INSERT INTO publications VALUES (?, 1, 't', '{}', 1, NULL)",
            [(n,) for n in range(10, 40)],
        )
    found = problems(path)
    assert len(found) == MAX_PROBLEMS + 1
    assert found[-1] == "and 10 more like these"


async def test_what_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "relay.db"
    with pytest.raises(StoreError, match="There is no database at"):
        list(verify(path))
    path.write_text("not a database " * 100)
    with pytest.raises(StoreError, match="is not an SQLite database"):
        list(verify(path))
