"""The events of webhooks as each statement leaves it in a real database, of either kind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from relay.store import webhook_events
from relay.store.transaction import Transaction
from relay.store.webhook_events import Delivery, Event
from tests.stores import transaction

pytestmark = pytest.mark.each_store

ALICE, BOB = "user:alice", "user:bob"


@pytest.fixture
def connection(store: str, tmp_path: Path) -> Iterator[Transaction]:
    """A migrated database, as the store's thread has it."""
    with transaction(tmp_path) as connection:
        yield connection


def event(key: str, number: int, endpoint: str = "backend") -> Event:
    """Return an event with a number in its data."""
    return Event(endpoint, key, "user.connected", 1_000, json.dumps({"number": number, "odd": "a'\"\\😀"}))


def claim(connection: Transaction, now_ms: int, maximum: int = 100) -> list[Delivery]:
    """Claim what is due for the endpoint, for 100 ms."""
    return webhook_events.claim(connection, "backend", node="n", now_ms=now_ms, until_ms=now_ms + 100, maximum=maximum)


def told(deliveries: list[Delivery]) -> list[tuple[str, int]]:
    """Return key and number of deliveries."""
    return [(one.key, json.loads(one.body)["data"]["number"]) for one in deliveries]


def test_an_event_comes_back_as_it_was_written(connection: Transaction) -> None:
    """The body is one JSON object with the type, the time, the data and the number of the event in its key."""
    webhook_events.append(connection, [event(ALICE, 1), event(ALICE, 2)], 50)
    [first] = claim(connection, 50)
    assert json.loads(first.body) == {
        "type": "user.connected",
        "timestamp": "1970-01-01T00:00:01.000Z",
        "data": {"number": 1, "odd": "a'\"\\😀", "seq": 1},
    }
    assert (first.endpoint, first.key, first.seq, first.attempts, first.created_ms) == ("backend", ALICE, 1, 1, 50)
    assert first.event_id.startswith("evt_")


def test_a_key_is_in_order_and_keys_are_independent(connection: Transaction) -> None:
    """Only the oldest event of a key is due; the next one is, once that was delivered or is a dead letter."""
    webhook_events.append(connection, [event(ALICE, 1), event(BOB, 1), event(ALICE, 2)], 0)
    webhook_events.append(connection, [event(ALICE, 3)], 0)
    first = claim(connection, 0)
    assert told(first) == [(ALICE, 1), (BOB, 1)]
    assert claim(connection, 99) == []
    webhook_events.delivered(connection, first[0].id, 10)
    [second] = claim(connection, 10)
    assert told([second]) == [(ALICE, 2)]
    webhook_events.bury(connection, second.id, now_ms=20, status=500, error="answered 500")
    assert told(claim(connection, 20)) == [(ALICE, 3)]


def test_a_claim_ends(connection: Transaction) -> None:
    """What is claimed and never settled is due again later, with the same id and one attempt more."""
    webhook_events.append(connection, [event(ALICE, 1)], 0)
    [first] = claim(connection, 0)
    assert webhook_events.next_due(connection, "backend") == 100
    assert claim(connection, 99) == []
    [again] = claim(connection, 100)
    assert (again.event_id, again.attempts) == (first.event_id, 2)


def test_a_failed_event_waits_and_holds_its_key(connection: Transaction) -> None:
    """The next attempt is made when it is due. Nothing of the key overtakes it."""
    webhook_events.append(connection, [event(ALICE, 1), event(ALICE, 2)], 0)
    [first] = claim(connection, 0)
    webhook_events.failed(connection, first.id, next_ms=5_000, status=None, error="no connection")
    assert claim(connection, 4_999) == []
    assert webhook_events.next_due(connection, "backend") == 5_000
    [again] = claim(connection, 5_000)
    assert (again.id, again.last_error, again.attempts) == (first.id, "no connection", 2)


def test_delivered_twice_counts_once(connection: Transaction) -> None:
    """A second answer to the same event, after its claim had ended, changes nothing."""
    webhook_events.append(connection, [event(ALICE, 1), event(ALICE, 2), event(ALICE, 3)], 0)
    [first] = claim(connection, 0)
    webhook_events.delivered(connection, first.id, 0)
    webhook_events.delivered(connection, first.id, 0)
    webhook_events.bury(connection, first.id, now_ms=0, status=None, error="")
    assert told(claim(connection, 0)) == [(ALICE, 2)]
    assert webhook_events.count(connection, "backend").pending == 2


def test_dead_letters_are_replayed_behind_what_is_pending(connection: Transaction) -> None:
    """They keep id and number. Others of the endpoint, and other endpoints, stay."""
    webhook_events.append(connection, [event(ALICE, 1), event(ALICE, 2), event(BOB, 1), event(ALICE, 9, "other")], 0)
    dead = {}
    for one in claim(connection, 0):
        webhook_events.bury(connection, one.id, now_ms=0, status=500, error="answered 500")
        dead[one.key] = one
    assert webhook_events.count(connection, "backend") == webhook_events.Count(pending=1, dead=2, oldest_ms=0)
    since = {"since_ms": 0, "now_ms": 7, "maximum": 10}
    assert webhook_events.replay(connection, "other", event_id=None, **since) == 0
    assert webhook_events.replay(connection, "backend", event_id=dead[ALICE].event_id, **since) == 1
    [second] = claim(connection, 7)
    assert told([second]) == [(ALICE, 2)]
    webhook_events.delivered(connection, second.id, 7)
    [replayed] = claim(connection, 7)
    assert (replayed.event_id, replayed.seq, replayed.attempts) == (dead[ALICE].event_id, 1, 1)
    webhook_events.delivered(connection, replayed.id, 7)
    webhook_events.append(connection, [event(ALICE, 3)], 8)
    assert [one.seq for one in claim(connection, 8)] == [3]
    assert webhook_events.replay(connection, "backend", event_id=None, since_ms=1, now_ms=9, maximum=10) == 0
    assert webhook_events.replay(connection, "backend", event_id=None, since_ms=0, now_ms=9, maximum=10) == 1
    assert told(claim(connection, 9)) == [(BOB, 1)]


def test_discard_page_and_prune(connection: Transaction) -> None:
    """Pages are in order; dead letters can be deleted, and are after a time, as are keys that nothing used."""
    webhook_events.append(connection, [event(f"user:{name}", 1) for name in "abcd"], 0)
    claimed = claim(connection, 0)
    for one in claimed[:3]:
        webhook_events.bury(connection, one.id, now_ms=10, status=None, error="x")
    page = webhook_events.page(connection, "backend", dead=True, after=0, limit=2)
    assert [one.key for one in page] == ["user:a", "user:b"]
    rest = webhook_events.page(connection, "backend", dead=True, after=page[-1].id, limit=2)
    assert [(one.key, one.last_error, one.dead_ms) for one in rest] == [("user:c", "x", 10)]
    assert [one.key for one in webhook_events.page(connection, "backend", dead=False, after=0, limit=9)] == ["user:d"]
    assert webhook_events.discard(connection, "backend", event_id=claimed[0].event_id, maximum=9) == 1
    assert webhook_events.discard(connection, "backend", event_id="evt_none", maximum=9) == 0
    webhook_events.prune(connection, "backend", letters_before_ms=10, keys_before_ms=0)
    assert webhook_events.count(connection, "backend").dead == 2
    webhook_events.prune(connection, "backend", letters_before_ms=11, keys_before_ms=1)
    assert webhook_events.count(connection, "backend") == webhook_events.Count(pending=1, dead=0, oldest_ms=0)
    keys = connection.execute("SELECT key FROM webhook_keys").fetchall()
    assert [key for (key,) in keys] == ["user:d"]


def test_coalesced_events_leave_those_under_way(connection: Transaction) -> None:
    """Pending events of a key go, except one that an attempt was made for; the next event is then in its turn."""
    webhook_events.append(connection, [event(ALICE, 1), event(ALICE, 2), event(BOB, 1)], 0)
    [first, _] = claim(connection, 0)
    assert webhook_events.coalesce(connection, "backend", ALICE) == 1
    webhook_events.append(connection, [event(ALICE, 3)], 0)
    webhook_events.delivered(connection, first.id, 0)
    [third] = claim(connection, 0)
    assert (told([third]), third.seq) == ([(ALICE, 3)], 3)
    webhook_events.append(connection, [event("user:c", 1)], 0)
    assert webhook_events.coalesce(connection, "backend", "user:c") == 1
    webhook_events.append(connection, [event("user:c", 2)], 0)
    assert told(claim(connection, 0)) == [("user:c", 2)]


def test_claims_of_an_earlier_run_are_freed(connection: Transaction) -> None:
    """A server that starts tries at once what the last one had under way; its own claims stay."""
    webhook_events.append(connection, [event(ALICE, 1)], 0)
    [first] = claim(connection, 0)
    webhook_events.free_claims(connection, "n", 5)
    assert claim(connection, 5) == []
    webhook_events.free_claims(connection, "next", 5)
    assert [one.id for one in claim(connection, 5)] == [first.id]


def test_endpoints_that_nobody_configures_are_named(connection: Transaction) -> None:
    """An endpoint with pending events that is not configured any more is found."""
    webhook_events.append(connection, [event(ALICE, 1), event(ALICE, 1, "old")], 0)
    assert webhook_events.forgotten_endpoints(connection, {"backend"}) == ["old"]
