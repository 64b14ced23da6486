"""Rooms and members as each statement leaves them in a real database, of either kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from relay.store import rooms
from relay.store.rooms import Room
from relay.store.transaction import Transaction
from tests.stores import transaction

pytestmark = pytest.mark.each_store


@pytest.fixture
def connection(store: str, tmp_path: Path) -> Iterator[Transaction]:
    """A migrated database, as the store's thread has it."""
    with transaction(tmp_path) as connection:
        yield connection


def room(id_: str = "r", **fields: object) -> Room:
    """Return a room that is not stored yet."""
    new = Room(id_, "Name", None, "public", "cora", 1000, 1, 0, None)
    return attrs.evolve(new, **fields)  # type: ignore[arg-type]


def test_insert_and_get(connection: Transaction) -> None:
    """A room comes back as it was stored, its creator is its member, and an id is taken once."""
    odd = room("r", name="a'\"b\0c😀", description="", type="private")
    assert rooms.insert(connection, odd)
    assert rooms.get(connection, "r") == odd
    assert rooms.is_member(connection, "r", "cora")
    assert not rooms.insert(connection, room("r", created_by="eve"))
    assert rooms.get(connection, "r") == odd
    assert not rooms.is_member(connection, "r", "eve")
    assert rooms.get(connection, "none") is None


def test_members_are_counted(connection: Transaction) -> None:
    """Adding or removing twice counts once; the count is the number of rows."""
    rooms.insert(connection, room())
    rooms.insert(connection, room("other"))
    for add, user, count in (
        (True, "a", 2), (True, "a", 2), (True, "b", 3), (False, "a", 2), (False, "a", 2), (False, "nobody", 2),
    ):  # fmt: skip
        if add:
            rooms.add_member(connection, "r", user, 2000)
        else:
            rooms.remove_member(connection, "r", user)
        stored = rooms.get(connection, "r")
        assert stored is not None
        assert stored.member_count == count == len(rooms.member_ids(connection, "r"))
    assert rooms.member_ids(connection, "r") == {"cora", "b"}
    assert rooms.member_ids(connection, "other") == {"cora"}


def test_update(connection: Transaction) -> None:
    """Only what is named changes, and only in that room."""
    rooms.insert(connection, room())
    rooms.insert(connection, room("other"))
    rooms.update(connection, "r", {"description": "D", "created_by": "eve"})
    assert rooms.get(connection, "r") == room(description="D")
    rooms.update(connection, "r", {"name": "N", "type": "group", "description": None})
    assert rooms.get(connection, "r") == room(name="N", type="group")
    assert rooms.get(connection, "other") == room("other")


def test_delete_leaves_other_rooms_alone(connection: Transaction) -> None:
    """Ids that begin alike, too, and their keys."""
    for id_ in ("r", "r1", "r-", "q"):
        rooms.insert(connection, room(id_))
        connection.execute(
            "INSERT INTO messages (id, room_id, user_id, text, created_at) VALUES (?, ?, 'u', 'x', 1)", (id_, id_)
        )
        for user in ("u", "", "a:b"):
            connection.execute(
                'INSERT INTO idempotency (scope, key, "offset", epoch, expires_at) VALUES (?, ?, 1, ?, 9)',
                (rooms.message_scope(id_, user), "k", "e"),
            )
    connection.execute(
        'INSERT INTO idempotency (scope, key, "offset", epoch, expires_at) VALUES (?, ?, 1, ?, 9)',
        ("key:1 chatroom:r", "k", "e"),
    )
    rooms.delete(connection, "r")
    assert rooms.get(connection, "r") is None
    assert rooms.member_ids(connection, "r") == frozenset()
    for id_ in ("r1", "r-", "q"):
        assert rooms.get(connection, id_) == room(id_)
        assert rooms.is_member(connection, id_, "cora")
    assert {row[0] for row in connection.execute("SELECT room_id FROM messages")} == {"r1", "r-", "q"}
    scopes = [row[0] for row in connection.execute("SELECT scope FROM idempotency")]
    assert len(scopes) == 10
    assert not [scope for scope in scopes if scope.startswith("chat:r:")]


def test_listing(connection: Transaction) -> None:
    """What a user sees, the newest first: private rooms to members and creators alone."""
    rooms.insert(connection, room("public"))
    rooms.insert(connection, room("group", type="group"))
    rooms.insert(connection, room("private", type="private"))
    rooms.insert(connection, room("left", type="private", created_by="eve"))
    rooms.remove_member(connection, "left", "eve")
    rooms.add_member(connection, "private", "bob", 1)

    def ids(user: str | None, type_: rooms.RoomType | None = None, limit: int = 9, offset: int = 0) -> tuple[str, int]:
        found, total = rooms.list_visible(connection, user, type_, limit, offset)
        return " ".join(one.id for one in found), total

    assert ids(None) == ("left private group public", 4)
    assert ids("cora") == ids("bob") == ("private group public", 3)
    assert ids("eve") == ("left group public", 3)
    assert ids("mia") == ("group public", 2)
    assert ids("mia", "private") == ("", 0)
    assert ids("eve", "private") == ("left", 1)
    assert ids(None, limit=2, offset=1) == ("private group", 4)
    assert ids(None, offset=2**62) == ("", 4)


def test_member_listing(connection: Transaction) -> None:
    """In the order of joining, with names where there are any; those of the same moment by id, so that pages are stable."""
    rooms.insert(connection, room())
    connection.execute("INSERT INTO users VALUES ('b', 'B', NULL, 'https://b', 1)")
    for user, at in (("z", 1500), ("b", 2000), ("a", 2000)):
        rooms.add_member(connection, "r", user, at)
    listed = rooms.list_members(connection, "r", 9, 0)
    assert [member.user_id for member in listed] == ["cora", "z", "a", "b"]
    assert listed[3] == rooms.Member("b", 2000, "B", None, "https://b")
    assert [member.user_id for member in rooms.list_members(connection, "r", 2, 1)] == ["z", "a"]


def test_pages_by_their_last_entry(connection: Transaction) -> None:
    """For operators: what comes or goes meanwhile moves no other entry to another page."""
    for id_ in ("one", "two", "three"):
        rooms.insert(connection, room(id_))
    rooms.insert(connection, room("hidden", type="private"))
    [(_, first), (number, second)], total = rooms.list_before(connection, None, None, 2)
    assert (first.id, second.id, total) == ("hidden", "three", 4)
    rooms.insert(connection, room("four"))
    rooms.delete(connection, "hidden")
    assert [one.id for _, one in rooms.list_before(connection, number, None, 9)[0]] == ["two", "one"]
    assert rooms.list_before(connection, number, "private", 9) == ([], 0)

    for user, at in (("z", 1500), ("b", 2000), ("a", 2000)):
        rooms.add_member(connection, "one", user, at)
    rooms.remove_member(connection, "one", "a")
    for place, following in {None: ["cora", "z", "b"], (1500, "z"): ["b"], (2000, "a"): ["b"], (2000, "b"): []}.items():
        assert [member.user_id for member in rooms.list_members_after(connection, "one", place, 9)] == following
