"""Profiles of users in the database."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from relay.store.transaction import Transaction
from relay.store.users import Profile, get_many, upsert
from tests.stores import transaction

pytestmark = pytest.mark.each_store


@pytest.fixture
def connection(store: str, tmp_path: Path) -> Iterator[Transaction]:
    """A migrated database, as the store's thread has it."""
    with transaction(tmp_path) as connection:
        yield connection


def test_a_profile_is_stored_as_it_is(connection: Transaction) -> None:
    profile = Profile("u1", "Ada", "Lovelace", "https://example.com/ada.png")
    upsert(connection, profile, 1000)
    assert get_many(connection, ["u1"]) == {"u1": profile}
    assert connection.execute("SELECT seen_at FROM users").fetchall() == [(1000,)]


def test_what_is_none_does_not_erase_what_is_stored(connection: Transaction) -> None:
    upsert(connection, Profile("u1", first_name="Ada", avatar="a.png"), 1000)
    upsert(connection, Profile("u1", last_name="King"), 2000)
    assert get_many(connection, ["u1"]) == {"u1": Profile("u1", "Ada", "King", "a.png")}
    upsert(connection, Profile("u1"), 3000)
    assert get_many(connection, ["u1"]) == {"u1": Profile("u1", "Ada", "King", "a.png")}
    assert connection.execute("SELECT seen_at FROM users").fetchall() == [(3000,)]


def test_what_is_named_replaces_what_is_stored(connection: Transaction) -> None:
    upsert(connection, Profile("u1", "Ada", "Byron", "a.png"), 1000)
    upsert(connection, Profile("u1", "Augusta", "Lovelace", ""), 2000)
    assert get_many(connection, ["u1"]) == {"u1": Profile("u1", "Augusta", "Lovelace", "")}


@pytest.mark.slow
def test_those_who_were_seen_are_got_and_no_others(connection: Transaction) -> None:
    profiles = {f"u{number}": Profile(f"u{number}", f"Name {number}") for number in range(2000)}
    connection.execute("BEGIN")
    for profile in profiles.values():
        upsert(connection, profile, 1000)
    connection.execute("COMMIT")
    assert get_many(connection, ["u7", "nobody", "u8", "u7"]) == {"u7": profiles["u7"], "u8": profiles["u8"]}
    assert get_many(connection, (id_ for id_ in profiles)) == profiles
    assert get_many(connection, []) == {}


def test_an_id_is_data(connection: Transaction) -> None:
    for user_id in ("", "'; DROP TABLE users; --", "%", "ü\n\0"):
        upsert(connection, Profile(user_id, "Name"), 1000)
        assert get_many(connection, [user_id]) == {user_id: Profile(user_id, "Name")}
