"""Values and secrets that the database keeps under a name."""

import base64
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from relay.store.meta import get_meta, get_or_create, set_meta
from relay.store.transaction import Transaction
from tests.stores import transaction

pytestmark = pytest.mark.each_store


@pytest.fixture
def connection(store: str, tmp_path: Path) -> Iterator[Transaction]:
    """A migrated database, as the store's thread has it."""
    with transaction(tmp_path) as connection:
        yield connection


def test_a_value_that_was_never_set_is_none(connection: Transaction) -> None:
    assert get_meta(connection, "name") is None


def test_a_value_is_what_it_was_set_to_last(connection: Transaction) -> None:
    set_meta(connection, "name", "one")
    set_meta(connection, "other", "")
    set_meta(connection, "name", "two")
    assert (get_meta(connection, "name"), get_meta(connection, "other")) == ("two", "")


def test_a_secret_is_made_once_and_kept(connection: Transaction, tmp_path: Path) -> None:
    secret = get_or_create(connection, "jwt_secret")
    assert get_or_create(connection, "jwt_secret") == get_meta(connection, "jwt_secret") == secret
    with transaction(tmp_path) as other:
        assert get_or_create(other, "jwt_secret") == secret


def test_a_secret_is_long_random_and_url_safe(connection: Transaction) -> None:
    made = {get_or_create(connection, f"secret {number}") for number in range(50)}
    assert len(made) == 50
    for secret in made:
        assert re.fullmatch(r"[A-Za-z0-9_-]+", secret)
        assert len(base64.urlsafe_b64decode(secret + "=" * (-len(secret) % 4))) >= 32


def test_a_secret_that_is_there_already_is_not_replaced(connection: Transaction) -> None:
    set_meta(connection, "jwt_secret", "mine")
    assert get_or_create(connection, "jwt_secret") == "mine"
