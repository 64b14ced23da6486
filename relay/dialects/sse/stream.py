"""One event stream: the request that begins it, and its session."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from relay.access.rules import Basis, basis_to_subscribe
from relay.admission.rate_limits import ConnectionCounter
from relay.api.authentication import Caller, authenticate
from relay.auth.tickets import proves
from relay.broker.store_follower import LOST
from relay.broker.subscription import Subscriber
from relay.core import Core
from relay.dialects import wire
from relay.dialects.base import Handle
from relay.dialects.sse import cursor, protocol
from relay.dialects.sse.cursor import Cursor
from relay.dialects.sse.protocol import StreamRequest
from relay.dialects.sse.sink import CursorSink
from relay.dialects.user_session import identify
from relay.ground.errors import Code, Disconnect, Reason, RequestError
from relay.model.namespaces import ChannelName
from relay.model.principal import Principal
from relay.model.publication import Position
from relay.model.subscription_proof import SubscriptionProof
from relay.sessions.outbox import Outbox
from relay.sessions.session import Session
from relay.transports.request_head import RequestHead


class Streams:
    """Begins event streams."""

    def __init__(self, core: Core, anonymous: ConnectionCounter) -> None:
        """`anonymous` has the places for streams without a user."""
        self._core = core
        self._anonymous = anonymous

    async def begin(self, head: RequestHead, address: str) -> Handle:
        """Check the request for a stream: all its channels or none. See `base.BeginStream`.

        Raises:
            RequestError: the query is not valid, the token or the ticket is not, or the right to a channel is missing.
        """
        core = self._core
        asked = wire.read(protocol.read_query, head.query, core.namespaces, core.config.dialects.sse.max_channels)
        last_event_id = _text(head.first(b"last-event-id")) or asked.last_event_id
        principal, key = await self._identify(head, address, asked, last_event_id)
        proofs = await check_channels(core, principal, asked.channels)
        if principal is None and self._anonymous.count >= self._anonymous.maximum:
            raise RequestError(Code.UNAVAILABLE, "There are too many streams without a user.")
        positions = cursor.parse(last_event_id, asked.names)
        return Stream(core, self._anonymous, asked, principal, key, proofs, positions).run

    async def _identify(
        self, head: RequestHead, address: str, asked: StreamRequest, last_event_id: str | None
    ) -> tuple[Principal | None, str | None]:
        """Return the user, None without one, and the key of the ticket that named it."""
        core = self._core
        caller = Caller(address, _text(head.first(b"authorization")) or "", _text(head.first(b"x-api-key")))
        if caller.authorization or caller.api_key is not None:
            return check_user(await authenticate(core, caller)), None
        if asked.ticket is None:
            return None, None
        with core.limits.auth_failures.counted(address):
            ticket = await core.auth.tickets.verify(asked.ticket, asked.names)
            if not proves(ticket, None if last_event_id is None else cursor.key_of(last_event_id)):
                core.auth.tickets.use(ticket)
        return ticket.principal, ticket.key


def check_user(principal: Principal) -> Principal:
    """Return the principal of a token.

    Raises:
        RequestError: `FORBIDDEN`; it is that of an API key.
    """
    if principal.key_id is not None:
        raise RequestError(Code.FORBIDDEN, "Streams are for the tokens of users, not for API keys.")
    return principal


async def check_channels(
    core: Core, principal: Principal | None, channels: Sequence[ChannelName]
) -> list[SubscriptionProof | None]:
    """Raise unless the principal may subscribe to each of these channels; return the answers of backend hooks.

    The answer is None for a channel to which the principal has the right without a hook. A refusal names the channel.

    Raises:
        RequestError: as `Rights.check_subscribe`.
    """
    proofs: list[SubscriptionProof | None] = []
    for channel in channels:
        try:
            proofs.append(await core.rights.check_subscribe(principal, channel))
        except RequestError as refusal:
            message = f"{channel.text}: {refusal.message}"
            raise RequestError(
                refusal.code, message, retry_after=refusal.retry_after, reason=refusal.reason
            ) from refusal
    return proofs


def granted(principal: Principal, channels: Sequence[ChannelName]) -> list[str]:
    """Return the names of those channels to which a grant gives the right. The principal has the right to all."""

    def is_granted(channel: ChannelName) -> bool:
        try:
            return not channel.namespace.built_in and basis_to_subscribe(principal, channel) is Basis.GRANT
        except RequestError:
            return False  # a backend hook said yes, and is asked again

    return [channel.text for channel in channels if is_granted(channel)]


@attrs.frozen(eq=False)
class Stream:
    """One stream whose request was checked."""

    core: Core
    anonymous: ConnectionCounter
    asked: StreamRequest
    principal: Principal | None
    key: str | None
    proofs: Sequence[SubscriptionProof | None]
    """The answer of a backend hook for each channel, None without one. See `check_channels`."""
    positions: Sequence[Position | None]

    async def run(self, session: Session) -> None:
        """Subscribe to the channels in order, and wait until the client is gone.

        Raises:
            Disconnect: a right was lost, or the store cannot read.
        """
        if self.principal is not None:
            await self._serve(session)
            return
        try:
            self.anonymous.take()
        except RequestError as refusal:
            raise Disconnect(Reason.OVERLOADED) from refusal
        try:
            await self._serve(session)
        finally:
            self.anonymous.give_back()

    async def _serve(self, session: Session) -> None:
        subscriptions = self.core.subscriptions
        place = Cursor(self.asked.names, self.positions, self.key)
        # Streams of one channel, without a key, share their events. Others have ids of their own.
        shared = len(self.asked.channels) == 1 and self.key is None
        sink: Outbox | CursorSink = session.outbox if shared else CursorSink(session.outbox, place)
        with subscriptions.attach(sink, protocol.encode if shared else protocol.encode_part, session) as subscriber:
            subscriber.has_fixed_channels = True

            def revoked(channel: ChannelName, reason: str) -> None:
                if reason == LOST:  # the right is there: the client comes back with its id, and is told of the loss
                    session.disconnect(Reason.RECONNECT)
                    return
                sink.push(protocol.unsubscribed(channel, reason))
                if not subscriber.subscriptions:
                    session.disconnect(Reason.UNAUTHORIZED)

            subscriber.call_when_revoked(revoked)
            if self.principal is not None:
                await identify(self.core, session, subscriber, self.principal)
            for channel, since, proof in zip(self.asked.channels, self.positions, self.proofs, strict=True):
                await self._subscribe(subscriber, sink, place, channel, since, proof)
            await session.receive()

    async def _subscribe(
        self,
        subscriber: Subscriber,
        sink: Outbox | CursorSink,
        place: Cursor,
        channel: ChannelName,
        since: Position | None,
        proof: SubscriptionProof | None,
    ) -> None:
        def answer(position: Position, recovered: bool | None) -> bytes:
            place.move(channel.text, position)
            return protocol.subscribed(channel, position, recovered, place.text())

        try:
            await self.core.subscriptions.subscribe(
                subscriber,
                channel,
                self.principal,
                outbox=sink,
                since=since,
                last=self.asked.last,
                answer=answer,
                proof=proof,
            )
        except RequestError as refusal:
            # The right was lost since the request was checked, or the store cannot read.
            await sink.wait_for_room()
            sink.send_nowait(protocol.error(channel, refusal))
            raise wire.end_of(refusal) from refusal


def _text(value: bytes | None) -> str | None:
    return value.decode("latin-1") if value else None
