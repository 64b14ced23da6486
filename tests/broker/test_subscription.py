"""A subscriber, its subscriptions, and the table of those that are not live yet."""

from __future__ import annotations

import pytest

from relay.broker.subscription import Pending, Subscriber, Subscription, own_subscriber
from relay.ground.errors import Code, RequestError
from relay.model.namespaces import ChannelName, Namespaces
from relay.model.principal import Principal
from tests.fakes import FakeConnection, RecordingSink

KINDS = Namespaces(entities=("task",), history_period=1.0, durable=())
ONE, TWO = KINDS["task"].channel("1"), KINDS["task"].channel("2")


def subscriber() -> Subscriber:
    """Return a subscriber of no broker."""
    return Subscriber(RecordingSink(), lambda publication: None, leave=lambda subscriber: None)


def subscribed(of: Subscriber, name: ChannelName) -> Subscription:
    """Return a new subscription of a subscriber."""
    subscription = of.subscriptions[name.text] = Subscription(name, counted=True)
    return subscription


def test_a_subscription_that_ended_is_refused() -> None:
    subscription = Subscription(ONE, counted=True)
    subscription.check()
    subscription.ended = True
    with pytest.raises(RequestError) as caught:
        subscription.check()
    assert caught.value.code is Code.FORBIDDEN


def test_a_subscriber_leaves_at_the_end_of_its_block() -> None:
    left: list[Subscriber] = []
    with Subscriber(RecordingSink(), lambda publication: None, leave=left.append) as one:
        assert left == []
    assert left == [one]


def test_a_lost_right_is_reported_until_the_connection_closes() -> None:
    told: list[tuple[str, str]] = []
    one = subscriber()
    one.revoked(ONE, "nobody listens")
    one.call_when_revoked(lambda channel, reason: told.append((channel.text, reason)))
    one.revoked(ONE, "removed")
    one.close()
    one.revoked(TWO, "removed")
    assert told == [("task:1", "removed")]


def test_a_subscriber_has_a_user_once_it_is_identified() -> None:
    one = subscriber()
    assert (one.principal, one.user_id, one.is_admin) == (None, None, False)
    bob = Principal("bob", is_admin=True)
    one.identify(bob)
    assert (one.principal, one.user_id, one.is_admin) == (bob, "bob", True)


def test_a_connection_has_its_subscriber_until_that_closes() -> None:
    """Operators, publishers and other nodes find a subscriber by its connection, also once it has a timer."""
    connection = FakeConnection()
    one = Subscriber(RecordingSink(), lambda publication: None, leave=lambda subscriber: None, connection=connection)
    one.expect(None)
    assert own_subscriber(connection) is one
    one.close()
    assert own_subscriber(connection) is None


def test_pending_subscriptions_are_found_by_channel() -> None:
    """A table entry lasts as long as a subscriber waits for its channel."""
    pending, one, other = Pending(), subscriber(), subscriber()
    for each in (one, other):
        pending.add(each, subscribed(each, ONE))
    pending.add(one, subscribed(one, TWO))
    assert set(pending.of(ONE)) == {one, other}
    assert set(pending.of(TWO)) == {one}
    assert len(pending) == 2
    pending.discard(one, one.subscriptions[TWO.text])
    pending.discard(one, one.subscriptions[TWO.text])
    assert set(pending.of(TWO)) == set()
    assert len(pending) == 1


def test_a_pending_subscription_that_was_live_is_resuming() -> None:
    pending, one, other = Pending(), subscriber(), subscriber()
    for each in (one, other):
        pending.add(each, subscribed(each, ONE))
    one.subscriptions[ONE.text].present = True
    assert pending.resuming(ONE) == [one]
