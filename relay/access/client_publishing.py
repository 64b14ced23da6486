"""Publishes for clients: checks the right, spends from the user's limit, and names the publisher. One way for every dialect."""

from __future__ import annotations

from typing import Any

from relay.access.publishing import Publishing
from relay.access.rights import Rights
from relay.access.rules import is_backend
from relay.admission.rate_limits import RateLimit
from relay.broker.broker import Broker
from relay.broker.excluded import Excluded
from relay.broker.subscription import Subscriber
from relay.ground import strictjson
from relay.ground.errors import Code, RefusalReason, RequestError
from relay.model.namespaces import ChannelName
from relay.model.principal import Principal
from relay.model.publication import Draft, Published, publisher_json
from relay.sessions.connections import Connections


class ClientPublishing:
    """Publishes what clients send, over a connection or by REST."""

    def __init__(
        self, publishing: Publishing, broker: Broker, rights: Rights, connections: Connections, limit: RateLimit
    ) -> None:
        """`limit` counts the publications of each user."""
        self._publishing = publishing
        self._broker = broker
        self._rights = rights
        self._connections = connections
        self._limit = limit

    async def publish(
        self,
        principal: Principal | None,
        channel: ChannelName,
        item: dict[str, Any],
        *,
        document: bytes,
        subscriber: Subscriber | None = None,
        echo: bool = True,
    ) -> Published:
        """Publish an item to a channel and return its outcome. Always a checkpoint.

        `item` has the fields of an item of `Publishing.draft` but `channel`; its idempotency key counts once per user.
        `document` is the object that it came in, for the form of its data. `subscriber` is the connection; None for
        REST. Without `echo` that connection gets no copy.

        Raises:
            RequestError: the right is missing, the user publishes too fast, the item is not valid, or the store cannot
                write.
            Disconnect: a backend hook ends the connection.
        """
        subscribed = subscriber is not None and subscriber.has_live(channel)
        hook = await self._rights.check_publish(principal, channel, subscribed=subscribed)
        assert principal is not None  # it was checked
        if not is_backend(principal):
            if channel.namespace.built_in:
                raise RequestError(
                    Code.FORBIDDEN,
                    "Only backends may publish to this channel; messages of a room have their own request.",
                    reason=RefusalReason.PUBLISH_NOT_ALLOWED,
                )
            self._limit.spend(principal.user_id)
        draft = self._draft(principal, channel, item, document)
        if hook is not None:
            data = await self._rights.allow_publication(hook, principal, draft, subscriber)
            if data is not None:
                item = {**item, "data": strictjson.loads(data)}
                draft = self._draft(principal, channel, item, b'{"data":%b}' % data)
        connection = None if subscriber is None else subscriber.connection
        connection_id = None if connection is None else self._connections.id_of(connection)
        draft.publisher = publisher_json(principal.user_id, connection_id, principal.info)
        if not echo and subscriber is not None:
            draft.origin = Excluded(subscriber, channel)
        return await self._broker.publish(draft)

    def _draft(self, principal: Principal, channel: ChannelName, item: dict[str, Any], document: bytes) -> Draft:
        return self._publishing.draft(
            {**item, "channel": channel.text},
            scope=f"user:{principal.user_id}",
            size=len(document),
            document=document,
        )
