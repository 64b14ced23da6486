"""API keys in the database: only their hashes are stored."""

import hashlib
import hmac
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from relay.store import api_keys as keys
from relay.store.api_keys import ApiKey
from relay.store.transaction import Transaction
from tests.stores import transaction

pytestmark = pytest.mark.each_store


@pytest.fixture
def connection(store: str, tmp_path: Path) -> Iterator[Transaction]:
    """A migrated database, as the store's thread has it."""
    with transaction(tmp_path) as connection:
        yield connection


def create(connection: Transaction, **changes: Any) -> tuple[ApiKey, str]:
    values: dict[str, Any] = {
        "prefix": "rk",
        "mode": "live",
        "user_id": "u1",
        "tier": "free",
        "scopes": {"connect"},
        "now_ms": 1000,
    }
    return keys.create(connection, **values | changes)


@pytest.mark.parametrize("mode", ["live", "test"])
def test_a_new_key(connection: Transaction, mode: str) -> None:
    key, secret = create(connection, mode=mode, tier="pro", scopes=["publish", "connect", "publish"])
    match = re.fullmatch(rf"rk_{mode}_([0-9A-Za-z]+)", secret)
    assert match is not None
    assert len(match[1]) >= 32
    assert re.fullmatch(r"key_[0-9A-Za-z]+", key.id)
    assert key.hint == f"rk_{mode}_…{secret[-4:]}"
    assert key == ApiKey(key.id, "u1", "pro", frozenset({"connect", "publish"}), 1000, None, key.hint)
    assert keys.find(connection, secret) == key


def test_no_two_are_alike(connection: Transaction) -> None:
    made = [create(connection) for _ in range(50)]
    assert len({key.id for key, _ in made}) == len({secret for _, secret in made}) == 50


def test_only_the_hash_is_stored(connection: Transaction, tmp_path: Path) -> None:
    _, secret = create(connection)
    assert connection.execute("SELECT hash FROM api_keys").fetchone() == (hashlib.sha256(secret.encode()).hexdigest(),)
    random = secret.rpartition("_")[2]
    for file in tmp_path.iterdir():
        assert random.encode() not in file.read_bytes(), file


@pytest.mark.parametrize(
    "other",
    [lambda s: s[:-1], lambda s: s + "0", lambda s: s.upper(), lambda s: "", lambda s: "\ud800", lambda s: "ü" * 300],
)
def test_another_secret_finds_nothing(connection: Transaction, other: Any) -> None:
    _, secret = create(connection)
    assert keys.find(connection, other(secret)) is None


def test_hashes_are_compared_in_constant_time(connection: Transaction, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[str, str]] = []
    compare = hmac.compare_digest

    def noting(one: str, other: str) -> bool:
        compared.append((one, other))
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", noting)
    _, secret = create(connection)
    keys.find(connection, secret)
    assert compared == [(hashlib.sha256(secret.encode()).hexdigest(),) * 2]


def test_a_secret_of_any_length_is_looked_up_or_refused_without_hashing(
    connection: Transaction, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hashlib, "sha256", lambda _: pytest.fail("hashed"))
    assert keys.find(connection, "x" * 1_000_000) is None


def test_a_revoked_key_is_found_no_more_but_listed(connection: Transaction) -> None:
    key, secret = create(connection)
    other, other_secret = create(connection, now_ms=2000)
    assert keys.revoke(connection, key.id, 5000) is True
    assert keys.find(connection, secret) is None
    assert keys.find(connection, other_secret) == other
    assert keys.get(connection, [key.id])[key.id].revoked_at == 5000
    assert [(one.id, one.revoked_at) for one in keys.list_all(connection)] == [(key.id, 5000), (other.id, None)]


def test_a_second_revocation_leaves_the_first(connection: Transaction) -> None:
    key, _ = create(connection)
    keys.revoke(connection, key.id, 5000)
    assert keys.revoke(connection, key.id, 6000) is True
    assert keys.get(connection, [key.id])[key.id].revoked_at == 5000


def test_one_that_is_not_there_is_neither_revoked_nor_moved(connection: Transaction) -> None:
    key, _ = create(connection)
    assert keys.revoke(connection, "key_none", 5000) is False
    assert keys.set_tier(connection, "key_none", "pro") is False
    assert keys.list_all(connection) == [key]


def test_a_tier_can_be_changed(connection: Transaction) -> None:
    key, secret = create(connection)
    other, _ = create(connection)
    assert keys.set_tier(connection, key.id, "pro") is True
    found = keys.find(connection, secret)
    assert found is not None
    assert found.tier == "pro"
    assert keys.get(connection, [other.id])[other.id].tier == "free"


def test_keys_are_got_by_their_ids_and_listed_oldest_first(connection: Transaction) -> None:
    made = [create(connection, now_ms=now_ms)[0] for now_ms in (3000, 1000, 2000)]
    assert keys.list_all(connection) == [made[1], made[2], made[0]]
    assert keys.get(connection, [made[0].id, "key_none", made[2].id]) == {key.id: key for key in (made[0], made[2])}
    assert keys.get(connection, []) == {}
