"""Spans as each statement leaves them in a real database, of either kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from relay.store import spans
from relay.store.spans import Span
from relay.store.transaction import Transaction
from tests.stores import transaction

pytestmark = pytest.mark.each_store

USER = "user:alice"


@pytest.fixture
def connection(store: str, tmp_path: Path) -> Iterator[Transaction]:
    """A migrated database, as the store's thread has it."""
    with transaction(tmp_path) as connection:
        yield connection


def span(id_: str, subject: str = USER, kind: str = "user", began_ms: int = 1) -> Span:
    """Return a span that would begin."""
    return Span(subject, kind, subject, id_, '{"userId":"alice"}', began_ms)


def begins(connection: Transaction, span: Span, holder: str, node: str = "n") -> bool:
    """Record a holder, and return whether an endpoint is told of a beginning."""
    _, told = spans.hold(connection, span, holder, node, endpoints=["backend"])
    return told == ["backend"]


def test_a_span_begins_once_and_ends_after_its_last_holder(connection: Transaction) -> None:
    """It begins with the first holder, whatever is repeated, and ends some time after the last one."""
    assert begins(connection, span("s1"), "c1")
    assert begins(connection, span("s1"), "c1")  # a commit without an answer is tried again
    assert not begins(connection, span("s2"), "c2")
    assert spans.release(connection, USER, "c1", ends_ms=50, reason="idle") is None
    assert spans.next_end(connection) is None
    assert spans.release(connection, USER, "c2", ends_ms=60, reason="closed") is None
    assert spans.release(connection, USER, "c2", ends_ms=99, reason="again") is None
    assert spans.next_end(connection) == 60
    assert spans.take_ended(connection, 59, 10) == []
    [ended] = spans.take_ended(connection, 60, 10)
    assert (ended.id, ended.reason, ended.data, ended.began_ms) == ("s1", "closed", '{"userId":"alice"}', 1)
    assert spans.take_ended(connection, 99, 10) == []


def test_a_holder_that_comes_in_time_keeps_the_span(connection: Transaction) -> None:
    """Nothing begins or ends for a user that comes back within the grace period."""
    begins(connection, span("s1"), "c1")
    spans.release(connection, USER, "c1", ends_ms=50, reason="closed")
    assert not begins(connection, span("s2"), "c2")
    assert spans.take_ended(connection, 99, 10) == []


def test_each_endpoint_is_told_of_a_beginning_once(connection: Transaction) -> None:
    """One that is new is told by the next holder that is recorded, also if that one was recorded before."""
    assert spans.hold(connection, span("s1"), "c1", "n", endpoints=["a"])[1] == ["a"]
    lasting, untold = spans.hold(connection, span("s2"), "c1", "n", endpoints=["a", "b"])
    assert (lasting.id, untold) == ("s1", ["b"])
    assert spans.hold(connection, span("s3"), "c2", "m", endpoints=["b", "a"])[1] == []
    for holder in ("c1", "c2"):
        spans.release(connection, USER, holder, ends_ms=50, reason="closed")
    [ended] = spans.take_ended(connection, 50, 10)
    assert ended.untold(["a", "b", "c"]) == ["c"]


def test_a_span_of_an_older_release_counts_as_told(connection: Transaction) -> None:
    """Its column is null, and no endpoint is told of its beginning twice."""
    begins(connection, span("s1"), "c1")
    connection.execute("UPDATE spans SET told = NULL")
    assert not begins(connection, span("s2"), "c2")
    assert Span(USER, "user", USER, "s1", "{}", 1).untold(["backend"]) == []


def test_without_a_grace_period_it_ends_at_once(connection: Transaction) -> None:
    """The end is returned by the release itself, once."""
    begins(connection, span("s1"), "c1")
    ended = spans.release(connection, USER, "c1", ends_ms=None, reason="closed")
    assert ended is not None
    assert (ended.id, ended.reason) == ("s1", "closed")
    assert spans.release(connection, USER, "c1", ends_ms=None, reason="closed") is None
    assert begins(connection, span("s2"), "c2")


def test_the_holders_of_a_lost_node_are_released_in_slices(connection: Transaction) -> None:
    """Kinds without a grace period end at once, the others later; holders on other nodes keep theirs."""
    for number in range(3):
        begins(connection, span(f"s{number}", f"connection:{number}", "connection", number), str(number), "gone")
    begins(connection, span("u1"), "0", "gone")
    begins(connection, span("u2"), "9", "here")
    begins(connection, span("u3", "user:bob"), "1", "gone")
    assert spans.holding_nodes(connection) == ["gone", "here"]
    ended = []
    while True:
        count, some = spans.lose_node(
            connection, "gone", ends_ms_of=lambda kind: 70 if kind == "user" else None, reason="server_lost", maximum=2
        )
        if not count:
            break
        ended += some
    assert [(one.id, one.reason) for one in ended] == [(f"s{number}", "server_lost") for number in range(3)]
    assert spans.holding_nodes(connection) == ["here"]
    assert spans.next_end(connection) == 70
    spans.prolong(connection, 80)
    assert spans.take_ended(connection, 79, 10) == []
    assert [one.subject for one in spans.take_ended(connection, 80, 10)] == ["user:bob"]
