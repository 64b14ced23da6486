"""Decides on rights by the rules, and by a backend hook where a namespace has one. Every request to subscribe or publish asks here."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from relay.access.rules import check_publish, check_subscribe, is_backend
from relay.broker.subscription import Subscriber
from relay.chat.rooms import Rooms
from relay.ground.clock import Clock
from relay.ground.errors import Code, RefusalReason, RequestError
from relay.hooks.answers import Question, QuestionKind, read_data, read_subscription
from relay.hooks.backend import BackendHook
from relay.model.namespaces import ChannelName
from relay.model.principal import Principal
from relay.model.publication import Draft
from relay.model.subscription_proof import SubscriptionProof
from relay.sessions.connections import Connections

ASKED = (RefusalReason.NO_GRANT, RefusalReason.NOT_OWNER)
"""The refusals of the rules that a backend hook may turn into a yes."""


def asked_to_subscribe(
    principal: Principal | None, channel: ChannelName, proof: SubscriptionProof | None, refusal: RequestError
) -> str | None:
    """Return the name of the hook that decides after the rules refused a subscriber; None if the refusal stands."""
    may_ask = principal is not None and proof is None and refusal.reason in ASKED
    return channel.namespace.subscribe_hook if may_ask else None


def asked_to_publish(principal: Principal | None, channel: ChannelName) -> str | None:
    """Return the name of the hook that decides on a publication, in place of the rule; None if the rule decides."""
    return None if principal is None or is_backend(principal) else channel.namespace.publish_hook


class Rights:
    """The rights of all callers."""

    def __init__(self, rooms: Rooms, connections: Connections, hooks: Mapping[str, BackendHook], clock: Clock) -> None:
        self._rooms = rooms
        self._connections = connections
        self._hooks = hooks
        self._clock = clock

    async def check_subscribe(
        self,
        principal: Principal | None,
        channel: ChannelName,
        proof: SubscriptionProof | None = None,
        *,
        subscriber: Subscriber | None = None,
        explaining: bool = False,
    ) -> SubscriptionProof | None:
        """Raise unless the principal may subscribe to the channel, and return what the right rests on.

        That is `proof`, or the answer of the backend hook; None for a rule, a grant or the members of a room. The hook
        is asked only where the rules say no. `subscriber` is the connection; None over REST. `explaining` tells the hook that
        the answer is for an explanation. A checkpoint only if the store or the backend is asked.

        Raises:
            RequestError: as `rules.check_subscribe` and `BackendHook.ask`; the backend's yes has expired already.
            Disconnect: the backend ends the connection.
        """
        try:
            await check_subscribe(self._rooms, principal, channel, proof)
        except RequestError as refusal:
            name = asked_to_subscribe(principal, channel, proof, refusal)
            if name is None or principal is None:
                raise
        else:
            return proof
        question = attrs.evolve(
            self._question(QuestionKind.SUBSCRIBE, principal, channel, subscriber), explaining=explaining
        )
        right = read_subscription(channel.text, principal.user_id)
        found = await self._hook(name).ask(question, right, connected=subscriber is not None)
        if found.expires_at is not None and found.expires_at <= self._clock.now():
            message = "The yes of the backend has expired: its expire_at is in the past."
            raise RequestError(Code.FORBIDDEN, message, reason=RefusalReason.BACKEND_EXPIRED)
        return found

    async def check_publish(
        self, principal: Principal | None, channel: ChannelName, *, subscribed: bool = False
    ) -> BackendHook | None:
        """Raise unless the principal may publish to the channel; return the hook that must allow each publication.

        The hook stands in the place of the rule; None if the rule has said yes. `subscribed` and errors as for
        `rules.check_publish`.
        """
        name = asked_to_publish(principal, channel)
        if name is None:
            await check_publish(self._rooms, principal, channel, subscribed=subscribed)
            return None
        return self._hook(name)

    async def allow_publication(
        self,
        hook: BackendHook,
        principal: Principal,
        draft: Draft,
        subscriber: Subscriber | None,
        *,
        explaining: bool = False,
    ) -> bytes | None:
        """Raise unless the hook allows a publication; return the data to publish in the place of the draft's, as JSON.

        None leaves the data as it is. Always a checkpoint. `subscriber`, `explaining` and errors as for `check_subscribe`.
        """
        question = attrs.evolve(
            self._question(QuestionKind.PUBLISH, principal, draft.channel, subscriber),
            type=draft.type,
            data=draft.encode(),
            explaining=explaining,
        )
        return await hook.ask(question, read_data, connected=subscriber is not None)

    def _hook(self, name: str) -> BackendHook:
        """Return a hook. Raises `UNKNOWN_CHANNEL` if it is gone: a reload has removed it with the namespace that named it."""
        hook = self._hooks.get(name)
        if hook is None:
            message = "There is no such namespace any more."
            raise RequestError(Code.UNKNOWN_CHANNEL, message, reason=RefusalReason.UNKNOWN_NAMESPACE)
        return hook

    def _question(
        self, kind: QuestionKind, principal: Principal, channel: ChannelName, subscriber: Subscriber | None
    ) -> Question:
        question = Question(kind, user=principal.user_id, channel=channel.text)
        if subscriber is None:
            return question
        connection = subscriber.connection
        if connection is None:
            return question
        return attrs.evolve(
            question, client=self._connections.id_of(connection), dialect=connection.dialect, address=connection.address
        )
