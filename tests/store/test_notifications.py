"""Notifications as each statement leaves them in a real database, of either kind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from relay.store import notifications
from relay.store.transaction import Transaction
from tests.stores import transaction


@pytest.mark.each_store
def test_each_users_own(store: str, tmp_path: Path) -> None:
    """The newest first; an id is taken once; what is marked as read keeps the time of the first."""
    with transaction(tmp_path) as connection:
        _use(connection)


def _use(connection: Transaction) -> None:
    for number, owner in enumerate(("u", "v", "u")):
        assert notifications.insert(connection, f"n{number}", owner, json.dumps({"message": number}), 1000 + number)
    assert not notifications.insert(connection, "n0", "v", "{}", 2000)
    found, total = notifications.list_page(connection, "u", 9, 0)
    assert [(one.id, one.data, one.created_at, one.read_at) for one in found] == [
        ("n2", {"message": 2}, 1002, None),
        ("n0", {"message": 0}, 1000, None),
    ]
    assert total == 2
    assert notifications.mark_read(connection, "v", "n0", 3000) is None
    for now_ms in (3000, 4000):
        read = notifications.mark_read(connection, "u", "n0", now_ms)
        assert read is not None
        assert (read.id, read.data, read.read_at) == ("n0", {"message": 0}, 3000)
    assert notifications.mark_all_read(connection, "u", 5000) == 1
    assert [one.read_at for one in notifications.list_page(connection, "u", 9, 0)[0]] == [5000, 3000]
    assert notifications.list_page(connection, "v", 9, 0)[0][0].read_at is None
    assert notifications.list_page(connection, "u", 1, 1)[0][0].id == "n0"
