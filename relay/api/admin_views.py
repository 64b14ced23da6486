"""Answers of `/v1/admin/...`. `/openapi.json` describes them by these classes."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict

from relay.access.busiest import BusyChannel
from relay.access.this_node import ActiveChannel
from relay.api.views import OfAllNodes
from relay.ground.clock import iso_ms
from relay.store.api_keys import ApiKey


class ConnectionView(TypedDict):
    """One connection. `sentBytes` counts what the client's machine has acknowledged; `node` is given if there are several."""

    id: str
    userId: str | None
    dialect: str
    address: str
    since: str
    subscriptions: int
    sentBytes: int | None
    waitingBytes: int
    node: NotRequired[str]


class OneConnectionView(ConnectionView):
    """One connection, with the names of its channels; of the first ones if there are many."""

    channels: list[str]


class ConnectionsView(OfAllNodes):
    """A page of connections. The cursor is null on the last page."""

    connections: list[ConnectionView]
    cursor: str | None
    total: int


class ChannelsView(OfAllNodes):
    """A page of channels with a subscriber. The cursor is null on the last page."""

    channels: list[ActiveChannel]
    cursor: str | None


class AdminPublicationView(TypedDict):
    """One publication of a channel."""

    type: str
    offset: int
    publishedAt: str
    data: Any


class AdminHistoryView(TypedDict):
    """A page of publications, and the channel's position. The cursor is null on the last page."""

    publications: list[AdminPublicationView]
    offset: int
    epoch: str
    cursor: str | None


class BusiestView(TypedDict):
    """The busiest channels, and the seconds for which they were watched."""

    seconds: float
    channels: list[BusyChannel]


class PlacesView(TypedDict):
    """The places for connections of one endpoint."""

    used: int
    maximum: int


class LimitsView(TypedDict):
    """The limits of the configuration, and the places of each dialect."""

    limits: dict[str, Any]
    places: dict[str, list[PlacesView]]


class StepView(TypedDict):
    """One step of an explanation: the thing that was looked at, and the finding."""

    check: str
    found: str


class ExplanationView(TypedDict):
    """Whether an action is allowed, and the steps to that answer."""

    allowed: bool
    code: str | None
    message: str
    change: str
    steps: list[StepView]


class DisconnectedView(OfAllNodes):
    """The number of connections that are ended."""

    disconnected: int


class UnsubscribedView(OfAllNodes):
    """The number of subscriptions that are ended."""

    unsubscribed: int


class KeyView(TypedDict):
    """An API key without its secret."""

    id: str
    hint: str
    userId: str
    tier: str
    scopes: list[str]
    createdAt: str
    revokedAt: str | None


def key_entry(key: ApiKey) -> KeyView:
    """Return the entry of one key in answers: everything but its secret."""
    return {
        "id": key.id,
        "hint": key.hint,
        "userId": key.user_id,
        "tier": key.tier,
        "scopes": sorted(key.scopes),
        "createdAt": iso_ms(key.created_at),
        "revokedAt": None if key.revoked_at is None else iso_ms(key.revoked_at),
    }


class NewKeyView(KeyView):
    """An API key that was created. This is the only answer that has its secret."""

    secret: str


class KeysView(TypedDict):
    """A page of API keys. The cursor is null on the last page."""

    keys: list[KeyView]
    cursor: str | None


class NothingView(TypedDict):
    """An answer without a field."""
