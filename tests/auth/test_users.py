"""Users: the names that tokens gave, stored when they are news."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

import relay.auth.users
from relay.auth.users import Users
from relay.store.database import Database
from relay.store.sqlite.database import open_database
from relay.store.users import Profile
from tests.parts import SetClock, open_parts, user
from tests.waiting import until


async def stored(database: Database) -> int:
    """Return how many users are stored."""
    return int(await database.read(lambda connection: connection.execute("SELECT count(*) FROM users").fetchone()[0]))


async def test_names_are_stored_as_last_seen(tmp_path: Path) -> None:
    """New ones take the place of old ones; what a token does not name stays; they survive a restart."""
    async with open_parts(tmp_path) as parts:
        await parts.users.seen(user("bob", first_name="Bob", last_name="'; DROP TABLE users; --", avatar="https://a"))
        await parts.users.seen(user("bob", first_name="<b>Robert</b>"))
        await parts.users.seen(user("eve", last_name="E"))
    async with open_parts(tmp_path) as parts:
        assert await parts.users.profiles(["eve", "bob", "bob", "nobody"]) == {
            "eve": Profile("eve", None, "E", None),
            "bob": Profile("bob", "<b>Robert</b>", "'; DROP TABLE users; --", "https://a"),
        }
        assert await parts.users.profiles([]) == {}


async def test_what_is_no_news_is_not_written(tmp_path: Path) -> None:
    """Neither the same again, nor what names nothing: the call returns at once."""
    async with open_parts(tmp_path) as parts:
        bob = user("bob", first_name="Bob")
        await parts.users.seen(bob)
        operations = parts.database.operations
        for _ in range(3):
            await parts.users.seen(bob)
            await parts.users.seen(user("nameless"))
        assert parts.database.operations == operations
        assert await stored(parts.database) == 1


async def test_what_is_remembered_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the bound, those that were seen longest ago are forgotten, and written again when they come back."""
    monkeypatch.setattr(relay.auth.users, "MAX_REMEMBERED", 2)
    async with open_parts(tmp_path) as parts:
        a, b, c = (user(name, first_name=name) for name in "abc")
        for one in (a, b, a, c):  # b is the one that was seen longest ago
            await parts.users.seen(one)
        for one, writes in ((a, 0), (c, 0), (b, 1), (a, 1)):
            before = parts.database.operations
            await parts.users.seen(one)
            assert parts.database.operations - before == writes, one.user_id


@pytest.mark.slow
async def test_a_database_that_cannot_be_written_keeps_nobody_out(tmp_path: Path) -> None:
    """Names are for show: they are stored the next time that they can be."""
    path = tmp_path / "relay.db"
    async with open_database(path) as database, trio.open_nursery() as nursery:
        await nursery.start(database.run)
        users = Users(database, SetClock())
        bob = user("bob", first_name="Bob")
        await database.write(lambda connection: connection.execute("PRAGMA query_only = ON").fetchall())
        await users.seen(bob)
        assert not database.healthy
        assert await users.profiles(["bob"]) == {}
        await database.load(lambda connection: connection.execute("PRAGMA query_only = OFF").fetchall())
        await until(lambda: database.last_error is None, 5)
        await users.seen(bob)
        assert await users.profiles(["bob"]) == {"bob": Profile("bob", "Bob", None, None)}
        nursery.cancel_scope.cancel()
