"""Reads what a channel keeps and who is subscribed to it. The right to subscribe is the right to read both."""

from __future__ import annotations

import attrs

from relay.access.rights import Rights
from relay.broker.attendance import Present
from relay.broker.broker import Broker
from relay.broker.paging import Page, read_page
from relay.broker.presence import PresenceTable
from relay.broker.subscription import Subscriber
from relay.ground.errors import Code, RefusalReason, RequestError
from relay.model.namespaces import ChannelName
from relay.model.principal import Principal
from relay.model.publication import Position

DEFAULT_PAGE = 50
"""Publications of one page of history, unless the caller asks for another number."""
MAX_PAGE = 1000
"""Publications of one page of history."""


@attrs.frozen
class PresentUsers:
    """The presence of a channel, as far as one caller may know it."""

    count: int
    users: list[Present] | None
    """None for a caller without a user, which may know the number alone."""


class Reading:
    """Reads for callers, after it checked that they may."""

    def __init__(self, broker: Broker, rights: Rights, presence: PresenceTable) -> None:
        self._broker = broker
        self._rights = rights
        self._presence = presence

    async def history(
        self,
        principal: Principal | None,
        channel: ChannelName,
        *,
        limit: int,
        before: int | None = None,
        since: Position | None = None,
        subscriber: Subscriber | None = None,
    ) -> Page:
        """Return a page of the channel's history, at most MAX_PAGE publications. See `read_page`.

        A live subscription of `subscriber` proves the right.

        Raises:
            RequestError: as `check_subscribe`.
        """
        await self._check(principal, channel, subscriber)
        return await read_page(self._broker.channels, channel, limit=min(limit, MAX_PAGE), before=before, since=since)

    async def presence(
        self, principal: Principal | None, channel: ChannelName, *, subscriber: Subscriber | None = None
    ) -> PresentUsers:
        """Return the users that are subscribed to the channel.

        Raises:
            RequestError: as `check_subscribe`; `INVALID_REQUEST` if the namespace has no presence.
        """
        await self._check(principal, channel, subscriber)
        if not channel.namespace.presence:
            raise RequestError(
                Code.INVALID_REQUEST, "This namespace has no presence.", reason=RefusalReason.NO_PRESENCE
            )
        present = self._presence.present(channel)
        return PresentUsers(len(present), None if principal is None else present)

    async def _check(self, principal: Principal | None, channel: ChannelName, subscriber: Subscriber | None) -> None:
        if subscriber is not None:
            subscription = subscriber.subscriptions.get(channel.text)
            if subscription is not None and subscription.live:
                return
        await self._rights.check_subscribe(principal, channel, subscriber=subscriber)
