"""Channels as JSON, for routes and dialects alike: a page of history, and the users that are present. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NotRequired, TypedDict, TypeVar, cast

from relay.access.reading import PresentUsers
from relay.broker.attendance import Present
from relay.broker.paging import Page
from relay.ground import strictjson
from relay.ground.clock import iso_ms
from relay.model.publication import Publication, Published

Answer = TypeVar("Answer", bound="OfAllNodes")


class OfAllNodes(TypedDict):
    """An answer about all nodes. `unanswered` names the nodes that did not answer in time."""

    unanswered: NotRequired[list[str]]


class PublisherView(TypedDict):
    """The client that published, as the server vouches for it."""

    user: str | None
    connection: NotRequired[str]
    info: NotRequired[Any]


class PublicationView(TypedDict):
    """One publication of a history."""

    offset: int
    type: str
    data: Any
    timestamp: str
    publisher: NotRequired[PublisherView]


class HistoryView(TypedDict):
    """A page of a channel's history. A channel that keeps nothing has no offset and no epoch."""

    channel: str
    offset: NotRequired[int]
    epoch: NotRequired[str]
    publications: list[PublicationView]
    recovered: NotRequired[bool]


class PresentView(TypedDict):
    """A user that is present, with the number of its connections."""

    userId: str
    connections: int
    info: NotRequired[Any]


class PresenceView(TypedDict):
    """The presence of a channel. A caller without a user gets the count alone."""

    channel: str
    count: int
    users: NotRequired[list[PresentView]]


class PublishedView(TypedDict):
    """The place of a publication. A channel that keeps nothing has no offset and no epoch."""

    channel: str
    offset: NotRequired[int]
    epoch: NotRequired[str]


def history(channel: str, page: Page) -> HistoryView:
    """Return a page of history. Data stays as it was published, byte for byte."""
    shown: HistoryView = {
        "channel": channel,
        "publications": [_publication(publication) for publication in page.publications],
    }
    if page.head.epoch:
        shown["offset"], shown["epoch"] = page.head.offset, page.head.epoch
    if page.recovered is not None:
        shown["recovered"] = page.recovered
    return shown


def presence(channel: str, present: PresentUsers) -> PresenceView:
    """Return the users that are present, or their number alone for a caller that may not know more."""
    shown: PresenceView = {"channel": channel, "count": present.count}
    if present.users is not None:
        shown["users"] = [_present(user) for user in present.users]
    return shown


def published(channel: str, outcome: Published) -> PublishedView:
    """Return the outcome of a publication."""
    position = outcome.position
    if not position.epoch:  # a channel that keeps nothing has no positions
        return {"channel": channel}
    return {"channel": channel, "offset": position.offset, "epoch": position.epoch}


def _present(user: Present) -> PresentView:
    shown: PresentView = {"userId": user.user_id, "connections": user.connections}
    if user.info is not None:
        shown["info"] = strictjson.embedded(user.info)
    return shown


def _publication(publication: Publication) -> PublicationView:
    shown: PublicationView = {
        "offset": publication.offset,
        "type": publication.type,
        "data": strictjson.embedded(publication.json),
        "timestamp": iso_ms(publication.published_ms),
    }
    if publication.publisher is not None:
        shown["publisher"] = cast(PublisherView, strictjson.embedded(publication.publisher))
    return shown


def with_unanswered(data: Answer, unanswered: Sequence[str]) -> Answer:
    """Return an answer about all nodes, with the names of the nodes that did not answer in time, if there are any."""
    if unanswered:
        data["unanswered"] = list(unanswered)
    return data
