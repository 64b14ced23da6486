"""Reads one page of a channel's history, without a subscription."""

from __future__ import annotations

import attrs

from relay.broker.registry import ChannelRegistry
from relay.model.namespaces import ChannelName
from relay.model.publication import Position, Publication

MAX_PAGE_BYTES = 256 * 1024
"""Bytes of data after which a page ends early, so that it fits into an outbox. It has one publication at least."""


@attrs.frozen
class Page:
    """Some of the publications that a channel keeps."""

    head: Position
    """The channel's position at that moment."""
    publications: list[Publication]
    recovered: bool | None = None
    """Whether nothing is missing between the position that was asked for and the first publication; None without one."""


async def read_page(
    channels: ChannelRegistry,
    name: ChannelName,
    *,
    limit: int,
    before: int | None = None,
    since: Position | None = None,
    max_bytes: int = MAX_PAGE_BYTES,
) -> Page:
    """Return at most `limit` kept publications: newest first before an offset, or oldest first after a position.

    Without `before` and `since` they are the newest. A position without an epoch is one of the present epoch. Several
    have at most `max_bytes` of data. A checkpoint if the channel or its history is not in memory.

    Raises:
        RequestError: the store cannot read.
    """
    channel = await channels.pin(name)
    try:
        if not channel.history.complete:
            await channels.load_history(channel)
        channels.expire(channel)
        history, head = channel.history, channel.position
        if since is None:
            return Page(head, _bounded(history.before(head.offset + 1 if before is None else before, limit), max_bytes))
        if not since.epoch:
            since = Position(since.offset, head.epoch)
        recovered = channels.can_resume(channel, since)
        return Page(
            head, _bounded(history.after(since.offset if recovered else history.floor, limit), max_bytes), recovered
        )
    finally:
        channels.unpin(channel)


def _bounded(publications: list[Publication], max_bytes: int) -> list[Publication]:
    size = 0
    for number, publication in enumerate(publications):
        size += len(publication.json)
        if size > max_bytes and number:
            return publications[:number]
    return publications
