"""The kinds of spans, each with the two events that report its beginning and its end."""

from __future__ import annotations

import attrs

from relay.config.webhooks import CHANNEL_EVENTS, CONNECTION_EVENTS, PRESENCE_EVENTS, USER_EVENTS

VACANT_PERIOD = 5.0
"""Seconds for which a channel has no subscriber before it counts as vacated, so that a page that is loaded
again makes no event."""


@attrs.frozen
class SpanKind:
    """One kind of span."""

    name: str
    events: tuple[str, str]
    """The types of the events at its beginning and at its end."""
    of_channel: bool
    """Whether its key names a channel, so that webhooks choose its events by channel."""
    grace: float
    """Seconds after its last holder at which it ends."""
    lost_grace: float
    """The same, if the holders were lost with their process."""


@attrs.frozen
class SpanKinds:
    """All kinds. `grace` is the grace period of users, `lost_grace` the one after a process was lost, in seconds."""

    connection: SpanKind
    user: SpanKind
    channel: SpanKind
    presence: SpanKind

    @staticmethod
    def with_grace(grace: float, lost_grace: float) -> SpanKinds:
        """Return the kinds with these periods, in seconds."""
        return SpanKinds(
            SpanKind("connection", CONNECTION_EVENTS, of_channel=False, grace=0.0, lost_grace=0.0),
            SpanKind("user", USER_EVENTS, of_channel=False, grace=grace, lost_grace=lost_grace),
            SpanKind("channel", CHANNEL_EVENTS, of_channel=True, grace=VACANT_PERIOD, lost_grace=lost_grace),
            SpanKind("presence", PRESENCE_EVENTS, of_channel=True, grace=grace, lost_grace=lost_grace),
        )

    def named(self, name: str) -> SpanKind:
        """Return the kind of this name."""
        kind = getattr(self, name)
        assert isinstance(kind, SpanKind)
        return kind


def user_key(user_id: str) -> str:
    """Return the key of the events of a user and of its connections."""
    return f"user:{user_id}"


def channel_key(channel: str) -> str:
    """Return the key of the events of a channel."""
    return f"channel:{channel}"


def channel_of(kind: SpanKind, key: str) -> str | None:
    """Return the channel that a key names; None if the events of the kind are of a user."""
    return key.removeprefix("channel:") if kind.of_channel else None
