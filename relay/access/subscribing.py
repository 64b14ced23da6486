"""The one way to subscribe: reserve a place, check the right, subscribe. Dialects are handed this and never the broker.

A place is reserved before the right is looked up. If the right is lost while the store is asked, the reserved
subscription ends like any other. So a client never keeps a subscription that it may not have.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from functools import partial

import trio

from relay.access.rights import Rights
from relay.access.rules import basis_to_subscribe, check_publish, check_subscribe
from relay.admission.limits import Limits
from relay.auth.auth import Auth
from relay.broker.broker import Broker
from relay.broker.server_side import ServerSideSubscription
from relay.broker.subscription import MakeAnswer, MakeFirst, Subscriber, Subscription
from relay.chat.rooms import Rooms
from relay.ground.errors import Code, RefusalReason, RequestError
from relay.ground.timers import Timers
from relay.model.namespaces import ChannelName, Namespaces
from relay.model.principal import Principal
from relay.model.publication import Encoder, Position
from relay.model.subscription_proof import SubscriptionProof
from relay.sessions.audience import PatientSink, RoomySink
from relay.sessions.connections import ClientConnection
from relay.sessions.outbox import Outbox

RECHECKED_PER_TURN = 200
"""Subscriptions that are checked again, and ended, before other tasks run: a few milliseconds."""


class Subscriptions:
    """Every subscription of every connection: the part of the core that dialects subscribe with."""

    def __init__(
        self,
        broker: Broker,
        rooms: Rooms,
        rights: Rights,
        timers: Timers,
        auth: Auth,
        namespaces: Namespaces,
        limits: Limits,
    ) -> None:
        self._auth = auth
        self._namespaces = namespaces
        self._broker = broker
        self._rights = rights
        self._rooms = rooms
        self._timers = timers
        self._limits = limits

    def attach(self, sink: PatientSink, encode: Encoder, connection: ClientConnection | None = None) -> Subscriber:
        """Return a new subscriber for a `with` block, whose end ends all its subscriptions.

        Frames go to `sink`, made by `encode`. A dialect without authentication never calls `identify`. `connection` is
        None for a subscriber that several connections share.
        """
        return self._broker.attach(sink, encode, connection)

    def detach(self, subscriber: Subscriber) -> None:
        """End every subscription of a subscriber that is not in a `with` block. Idempotent."""
        self._broker.detach(subscriber)

    async def identify(self, subscriber: Subscriber, principal: Principal) -> None:
        """Record whose connection this is. Call it again for each fresh token of the same user.

        If the fresh token grants less than the last one, each subscription without a right ends and is reported as
        revoked. Cancelled meanwhile, the rest of them stay; the connection is ending then.
        """
        before = subscriber.principal
        self._broker.identify(subscriber, principal)
        if before is not None and (before.is_admin > principal.is_admin or before.grants != principal.grants):
            await self.recheck(subscriber, principal)

    async def subscribe(
        self,
        subscriber: Subscriber,
        channel: ChannelName,
        principal: Principal | None,
        *,
        outbox: RoomySink,
        since: Position | None = None,
        last: int = 0,
        answer: MakeAnswer,
        counted: bool = True,
        token: str | None = None,
        proof: SubscriptionProof | None = None,
    ) -> None:
        """Check the right to a channel, answer, replay what was missed since a position, and go live.

        `token` is a subscription token. In a namespace of the configuration it decides alone. When it expires, the
        subscription ends with the reason `token_expired`, unless a later call brought a fresh one. The answer of a
        backend hook counts like a token, with the reason `backend_expired`. `proof` is such an answer that the caller has got
        already, for this principal: the hook is not asked again.

        `principal` is None for a client that is not authenticated. `answer` is called synchronously, once, and makes
        the first frame; see `Broker.subscribe`, also for `last`. `counted=False` exempts the subscription from the maximum.
        Cancelled, or refused, it leaves no subscription behind; one that the subscriber already had stays.

        Raises:
            RequestError: there are too many subscriptions, the right is missing or lost meanwhile, or the store cannot
                read.
            Disconnect: the reader is so slow that the history went past its position, or a backend hook ends the
                connection.
        """
        maximum = self._limits.max_subscriptions
        with self._broker.reserved(subscriber, [channel], maximum=maximum, counted=counted) as [subscription]:
            self._namespaces.check(channel)
            if token is not None and not channel.namespace.built_in:
                proof = await self._auth.tokens.subscription(token)
            proof = await self._rights.check_subscribe(principal, channel, proof, subscriber=subscriber)
            self._rest_on(proof, subscriber, subscription)
            await self._broker.subscribe(subscriber, subscription, outbox=outbox, since=since, last=last, answer=answer)

    async def subscribe_all(
        self,
        subscriber: Subscriber,
        channels: Sequence[ChannelName],
        principal: Principal | None,
        *,
        outbox: PatientSink,
        first: MakeFirst,
    ) -> None:
        """Check the right to each of several channels, send what is kept of them and go live in one synchronous step.

        The subscriptions are not counted. `first` is called synchronously, once, and makes the frames that go before
        everything else. Cancelled, or refused, it leaves none of the new subscriptions behind.

        Raises:
            RequestError: a right is missing or lost meanwhile, or the store cannot read.
            Disconnect: a backend hook ends the connection.
        """
        with self._broker.reserved(subscriber, channels, maximum=0, counted=False) as subscriptions:
            for channel, subscription in zip(channels, subscriptions, strict=True):
                self._namespaces.check(channel)
                proof = await self._rights.check_subscribe(principal, channel, subscriber=subscriber)
                self._rest_on(proof, subscriber, subscription)
            await self._broker.subscribe_from_history(subscriber, subscriptions, outbox=outbox, first=first)

    async def check_reader(self, subscriber: Subscriber, channel: ChannelName, principal: Principal | None) -> None:
        """Raise unless the principal may subscribe to the channel. Raises as `check_subscribe`.

        A live subscription proves the right without a look at the store, because losing the right ends it.
        """
        if not subscriber.has_live(channel):
            await check_subscribe(self._rooms, principal, channel)

    async def check_publisher(self, subscriber: Subscriber, channel: ChannelName, principal: Principal | None) -> None:
        """Raise unless the principal may publish to the channel. Raises as `check_publish`.

        If subscribers may publish to it, the principal must have a live subscription, or the right to one in a room.
        """
        await check_publish(self._rooms, principal, channel, subscribed=subscriber.has_live(channel))

    async def recheck(self, subscriber: Subscriber, principal: Principal) -> None:
        """End each subscription that the principal may not have any more, and report it as revoked.

        A subscription with a subscription token stays until that expires. One whose right cannot be looked up ends too.
        """
        for subscription in list(subscriber.subscriptions.values()):
            if subscription.proof is not None:
                continue
            channel = subscription.channel
            try:
                await check_subscribe(self._rooms, principal, channel)
            except RequestError as refusal:
                reason = None if channel.namespace.built_in else refusal.reason
                self._end(subscriber, channel, "no longer an admin" if reason is None else reason.value)

    def _rest_on(self, proof: SubscriptionProof | None, subscriber: Subscriber, subscription: Subscription) -> None:
        """Make a subscription rest on a proof, and end with it; None: it rests on a rule, a grant or a room."""
        if proof is not subscription.proof:
            subscription.proof = proof
            expires_at = None if proof is None else proof.expires_at
            subscription.deadline = math.inf if expires_at is None else self._auth.deadline_at(expires_at)
            self._expect_end(subscriber)

    def _expect_end(self, subscriber: Subscriber) -> None:
        """Set the subscriber's one timer to the earliest end of a proof."""
        deadline = min((one.deadline for one in subscriber.subscriptions.values()), default=math.inf)
        subscriber.expect(None)
        if deadline < math.inf:
            subscriber.expect(self._timers.call_at(deadline, partial(self._end_expired, subscriber)))

    def _end_expired(self, subscriber: Subscriber) -> None:
        now = trio.current_time()
        for subscription in list(subscriber.subscriptions.values()):
            if subscription.deadline <= now:
                proof = subscription.proof
                reason = RefusalReason.TOKEN_EXPIRED if proof is None else proof.end_reason
                self._end(subscriber, subscription.channel, reason.value)
        self._expect_end(subscriber)

    def _end(self, subscriber: Subscriber, channel: ChannelName, reason: str) -> None:
        self._broker.unsubscribe(subscriber, channel)
        subscriber.revoked(channel, reason)

    async def recheck_channel(self, channel: ChannelName, reason: str, user_id: str | None = None) -> None:
        """End each subscription to a channel whose principal may not have it any more: of one user, or of all.

        Raises:
            RequestError: `UNAVAILABLE`; the store cannot read. Subscriptions that were not checked stay.
        """
        for subscriber in self._broker.subscribers(channel):
            principal = subscriber.principal
            subscription = subscriber.subscriptions.get(channel.text)
            if principal is None or user_id not in (None, principal.user_id):
                continue
            if subscription is not None and subscription.proof is not None:
                continue  # as for `recheck`
            try:
                await check_subscribe(self._rooms, principal, channel)
            except RequestError as refusal:
                if refusal.code is Code.UNAVAILABLE:
                    raise
                self._broker.revoke(channel, reason, where=partial(operator.is_, subscriber))

    async def recheck_all(self) -> None:
        """End each subscription that the present namespaces do not allow any more, and report it as revoked.

        Its channel may belong to no namespace now, or to another one. A client without a user is looked at, too. Rights
        to rooms are not, because no configuration changes them. Other tasks run between slices.
        """
        looked_at = 0
        for name in self._broker.subscribed_channels():
            stays = self._namespaces.of(name.text) is name.namespace
            if stays and name.namespace.built_in:
                continue
            for subscriber in self._broker.subscribers(name):
                subscription = subscriber.subscriptions.get(name.text)
                if subscription is None:
                    continue
                if not stays:
                    self._end(subscriber, name, RefusalReason.UNKNOWN_NAMESPACE.value)
                else:
                    proof = subscription.proof
                    if proof is not None and proof.by_backend and name.namespace.subscribe_hook is None:
                        proof = None  # the backend decides no more
                    try:
                        basis_to_subscribe(subscriber.principal, name, proof)
                    except RequestError as refusal:
                        reason = refusal.reason or RefusalReason.REVOKED
                        self._end(subscriber, name, reason.value)
                looked_at += 1
                if looked_at % RECHECKED_PER_TURN == 0:
                    await trio.lowlevel.checkpoint()

    def unsubscribe(self, subscriber: Subscriber, channel: ChannelName) -> None:
        """End a subscription. Idempotent."""
        self._broker.unsubscribe(subscriber, channel)

    def server_side(self, subscriber: Subscriber, outbox: Outbox, channel: ChannelName) -> ServerSideSubscription:
        """Return a server-side subscription to a channel, for a `with` block.

        It begins only if the principal of `subscriber` has the right to the channel at that moment.
        """

        async def load(held: Subscriber, answer: MakeAnswer) -> None:
            await self.subscribe(held, channel, subscriber.principal, outbox=outbox, answer=answer, counted=False)

        return ServerSideSubscription(self._broker, self._timers, subscriber, outbox, channel, load)
