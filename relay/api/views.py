"""Channels as JSON, for routes and dialects alike: a page of history, and the users that are present. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from relay.access.reading import PresentUsers
from relay.broker.paging import Page
from relay.ground import strictjson
from relay.ground.clock import iso_ms
from relay.model.publication import Publication, Published


def history(channel: str, page: Page) -> dict[str, object]:
    """Return a page of history. Data stays as it was published, byte for byte."""
    shown: dict[str, object] = {"channel": channel}
    if page.head.epoch:
        shown |= {"offset": page.head.offset, "epoch": page.head.epoch}
    shown["publications"] = [_publication(publication) for publication in page.publications]
    if page.recovered is not None:
        shown["recovered"] = page.recovered
    return shown


def presence(channel: str, present: PresentUsers) -> dict[str, object]:
    """Return the users that are present, or their number alone for a caller that may not know more."""
    shown: dict[str, object] = {"channel": channel, "count": present.count}
    if present.users is not None:
        shown["users"] = [
            {"userId": user.user_id, "connections": user.connections}
            | ({} if user.info is None else {"info": strictjson.embedded(user.info)})
            for user in present.users
        ]
    return shown


def published(channel: str, outcome: Published) -> dict[str, object]:
    """Return the outcome of a publication."""
    position = outcome.position
    if not position.epoch:  # a channel that keeps nothing has no positions
        return {"channel": channel}
    return {"channel": channel, "offset": position.offset, "epoch": position.epoch}


def _publication(publication: Publication) -> dict[str, object]:
    shown: dict[str, object] = {
        "offset": publication.offset,
        "type": publication.type,
        "data": strictjson.embedded(publication.json),
        "timestamp": iso_ms(publication.published_ms),
    }
    if publication.publisher is not None:
        shown["publisher"] = strictjson.embedded(publication.publisher)
    return shown


def with_unanswered(data: dict[str, Any], unanswered: Sequence[str]) -> dict[str, Any]:
    """Return an answer about all nodes, with the names of the nodes that did not answer in time, if there are any."""
    return {**data, "unanswered": list(unanswered)} if unanswered else data
