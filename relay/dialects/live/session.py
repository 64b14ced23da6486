"""One session of the `live` dialect: authentication, and then each frame in the order in which the client sent it."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import trio

from relay.access.rules import unauthenticated
from relay.admission.rate_limits import ConnectionCounter
from relay.api import views
from relay.broker.subscription import Subscriber
from relay.core import Core
from relay.dialects import request_fields, wire
from relay.dialects.live import protocol
from relay.dialects.live.typing import Typing
from relay.dialects.user_session import UserSession
from relay.ground import logs
from relay.ground.clock import iso_ms
from relay.ground.errors import Code, Reason, RequestError
from relay.model.namespaces import ChannelName, SubscribeRule
from relay.model.principal import Principal
from relay.model.publication import Position, Publication
from relay.sessions.frames import text_frame
from relay.sessions.outbox import Outbox
from relay.sessions.session import Session

log = logs.get("relay.live")


class LiveSession:
    """One connection: what its client asks for, and the answers."""

    __slots__ = ("_anonymous", "_core", "_is_anonymous", "_session", "_typing", "_user")

    def __init__(
        self, core: Core, typing: Typing, anonymous: ConnectionCounter, session: Session, subscriber: Subscriber
    ) -> None:
        """`anonymous` has the places for anonymous clients."""
        self._core = core
        self._anonymous = anonymous
        self._is_anonymous = False
        self._typing = typing
        self._session = session
        broadcast = core.namespaces["broadcast"].channel()
        self._user = UserSession(core, session, subscriber, broadcast)

    async def run(self) -> None:
        """Handle frames until the client closes. The client has `auth_timeout` seconds to authenticate."""
        deadline = trio.current_time() + self._core.config.limits.auth_timeout
        self._session.set_deadline(deadline, Reason.UNAUTHORIZED)
        try:
            await self._user.run(self._take, on_revoked=self._revoked, make_last_message=self._last_message)
        finally:
            self._end_anonymous()

    async def _take(self, message: str) -> None:
        """Handle one frame. A refusal is answered, and the session continues."""
        request: str | None = None
        request_id: protocol.RequestId = None
        principal, frame_rate = self._user.principal, self._user.frame_rate
        try:
            try:
                frame = wire.read(protocol.decode, message)
                request, request_id = frame.type, frame.request_id
                user_id = principal.user_id if principal is not None else None
                command = wire.read(protocol.command, frame, self._core.namespaces, user_id)
            except RequestError:
                frame_rate.spend()
                raise
            if not isinstance(command, protocol.ChatSend) or principal is None:
                frame_rate.spend()
            await self._handle(command, request_id, message)
        except RequestError as refusal:
            await self._session.send(protocol.error(refusal, request, request_id))

    async def _handle(self, command: protocol.Command, request_id: protocol.RequestId, message: str) -> None:
        user = self._user
        if not isinstance(command, protocol.Subscribe):
            await user.begin_server_side()
        match command:
            case protocol.Ping():
                timestamp = iso_ms(self._core.clock.now_ms())
                await self._session.send(protocol.answer("pong", {"timestamp": timestamp}, request_id))
            case protocol.Auth(token):
                if token is None and not self._core.connect_hook.is_set:
                    await self._begin_anonymous(request_id)
                else:
                    await self._authenticate(token, request_id)
            case (
                protocol.Subscribe()
                | protocol.Unsubscribe()
                | request_fields.Publish()
                | protocol.AskHistory()
                | protocol.AskUsers()
            ):
                self._check_named(command)
                await self._handle_named(command, request_id, message)
            case _ if user.principal is None:
                raise unauthenticated()
            case protocol.ChatSend():
                await self._chat(user.principal, command, request_id)
            case protocol.ChatTyping(room, is_typing):
                await self._core.subscriptions.check_publisher(user.subscriber, room, user.principal)
                self._typing.set(room, user.principal.user_id, is_typing=is_typing)
            case protocol.AskPresence(room):
                await self._core.subscriptions.check_reader(user.subscriber, room, user.principal)
                await self._answer_presence(room, request_id)

    async def _handle_named(
        self,
        command: protocol.Subscribe
        | protocol.Unsubscribe
        | request_fields.Publish
        | protocol.AskHistory
        | protocol.AskUsers,
        request_id: protocol.RequestId,
        message: str,
    ) -> None:
        user = self._user
        match command:
            case protocol.Subscribe(target):
                if target.word == "market":
                    await self._subscribe_market(target, request_id)
                else:
                    await self._subscribe(command, request_id)
            case protocol.Unsubscribe(target):
                await self._unsubscribe(target, request_id)
            case request_fields.Publish(_, text):
                published = await user.publish(command, message.encode())
                await self._session.send(protocol.answer("published", views.published(text, published), request_id))
            case protocol.AskHistory(channel, text, limit, before, since):
                page = await self._core.reading.history(
                    user.principal, channel, limit=limit, before=before, since=since, subscriber=user.subscriber
                )
                await self._session.send(protocol.answer("history", views.history(text, page), request_id))
            case protocol.AskUsers(channel, text):
                present = await self._core.reading.presence(user.principal, channel, subscriber=user.subscriber)
                await self._session.send(protocol.answer("presence", views.presence(text, present), request_id))

    # -- authentication -----------------------------------------------------------------------------------------------

    def _check_named(self, command: protocol.Command) -> None:
        """Raise unless the client is authenticated, or anonymous and asks for a channel that it may ask for."""
        if self._user.principal is not None:
            return
        match command:
            case protocol.Subscribe(target) | protocol.Unsubscribe(target):
                channels = target.channels
            case request_fields.Publish(channel) | protocol.AskHistory(channel) | protocol.AskUsers(channel):
                channels = (channel,)
            case _:
                channels = ()
        if not channels or any(channel.namespace.built_in for channel in channels):
            raise unauthenticated()
        if channels[0].namespace.subscribe is SubscribeRule.ANYONE:
            self._enter_anonymous()
        elif not self._is_anonymous:
            raise unauthenticated()

    async def _begin_anonymous(self, request_id: protocol.RequestId) -> None:
        """Answer an `auth` without a token: the client is anonymous, for a time that another one begins anew."""
        core = self._core
        if self._user.principal is not None or not core.namespaces.has_anonymous_readers:
            raise RequestError(Code.INVALID_REQUEST, "token must be a text that is not empty.")
        self._enter_anonymous()
        period = core.config.dialects.live.anonymous_period
        self._session.set_deadline(trio.current_time() + period, Reason.TOKEN_EXPIRED)
        expires = iso_ms(core.clock.now_ms() + int(period * 1000))
        await self._succeed(None, expires, request_id)

    def _enter_anonymous(self) -> None:
        if not self._is_anonymous:
            self._anonymous.take()
            self._is_anonymous = True
            period = self._core.config.dialects.live.anonymous_period
            self._session.set_deadline(trio.current_time() + period, Reason.TOKEN_EXPIRED)

    def _end_anonymous(self) -> None:
        if self._is_anonymous:
            self._is_anonymous = False
            self._anonymous.give_back()

    async def _succeed(self, user_id: str | None, expires: str | None, request_id: protocol.RequestId) -> None:
        data = {
            "userId": user_id,
            "expiresAt": expires,
            "connectionId": self._core.connections.id_of(self._session),
        }
        await self._session.send(protocol.answer("auth:success", data, request_id))

    async def _authenticate(self, token: str | None, request_id: protocol.RequestId) -> None:
        """Authenticate the client by its token; by the connect hook if it has none."""
        core, session, before = self._core, self._session, self._user.principal
        try:
            with core.limits.auth_failures.counted(session.address):
                if token is None:
                    found = await core.connect_hook.ask(session)
                    if found is None:
                        await self._begin_anonymous(request_id)
                        return
                    principal = found
                else:
                    principal = await core.auth.tokens.authenticate(token)
            if before is not None and principal.user_id != before.user_id:
                raise RequestError(Code.FORBIDDEN, "This connection belongs to another user.")
        except RequestError as refusal:
            log.info("authentication refused", address=session.address, cause=refusal.message)
            await session.send(protocol.auth_error(refusal, request_id))
            if refusal.code is Code.FORBIDDEN:
                return
            session.make_last_message = None
            raise wire.end_of(refusal) from refusal
        await self._user.authenticated(principal)
        self._end_anonymous()
        if before is None:
            log.debug(
                "session authenticated",
                dialect=session.dialect,
                connection=core.connections.id_of(session),
                user=principal.user_id,
                address=session.address,
            )
        expires_at = principal.expires_at
        expires = iso_ms(int(expires_at.timestamp() * 1000)) if expires_at is not None else None
        await self._succeed(principal.user_id, expires, request_id)
        if before is None:
            await self._user.open_server_side()
        await self._subscribe_granted(principal)

    async def _subscribe_granted(self, principal: Principal) -> None:
        """Subscribe to the channels that the token names. Each refusal is sent to the client, and ends nothing."""
        for name in principal.channels:
            try:
                channel = self._core.namespaces.parse(name)
                if not self._user.subscriber.has_live(channel):
                    target = protocol.Target(name, (channel,), {})
                    await self._subscribe(protocol.Subscribe(target, None), None, asked=False)
            except RequestError as refusal:
                await self._session.send(protocol.error(refusal, "auth"))

    def _last_message(self, reason: Reason) -> bytes | None:
        if reason is Reason.UNAUTHORIZED:
            return protocol.auth_error(RequestError(Code.UNAUTHORIZED, "No valid token came in time."))
        if reason is Reason.TOKEN_EXPIRED:
            return protocol.auth_error(RequestError(Code.UNAUTHORIZED, "The token has expired."))
        return None

    # -- subscriptions ------------------------------------------------------------------------------------------------

    async def _subscribe(
        self, command: protocol.Subscribe, request_id: protocol.RequestId, *, asked: bool = True
    ) -> None:
        target = command.target

        def answer(position: Position, recovered: bool | None) -> bytes:
            data = wire.subscribed({"channel": target.word, **target.fields}, position, recovered)
            return text_frame(protocol.answer("subscribed", data, request_id))

        [channel] = target.channels
        await self._user.subscribe(
            channel, since=command.since, last=command.last, token=command.token, answer=answer, asked=asked
        )

    async def _subscribe_market(self, target: protocol.Target, request_id: protocol.RequestId) -> None:
        maximum = self._core.config.limits.max_subscriptions
        wanted = {name.text for name in (*self._market(), *target.channels)}
        if len(wanted) > maximum:
            raise RequestError(Code.TOO_MANY_SUBSCRIPTIONS, f"A connection may have at most {maximum} symbols.")

        def first(snapshots: list[tuple[Position, list[Publication]]]) -> list[bytes]:
            positions = {
                name.id: position._asdict() for name, (position, _) in zip(target.channels, snapshots, strict=True)
            }
            data = {"channel": "market", "symbols": [name.id for name in self._market()], "positions": positions}
            frames = [text_frame(protocol.answer("subscribed", data, request_id))]
            frames += [protocol.encode(publication) for _, last in snapshots for publication in last]
            return frames

        await self._user.subscribe_all(target.channels, first)

    async def _unsubscribe(self, target: protocol.Target, request_id: protocol.RequestId) -> None:
        market = target.word == "market"
        for channel in target.channels or self._market():
            self._user.unsubscribe(channel)
        fields = {"symbols": [name.id for name in self._market()]} if market else target.fields
        await self._session.send(protocol.answer("unsubscribed", {"channel": target.word, **fields}, request_id))

    def _market(self) -> list[ChannelName]:
        market = self._core.namespaces["market"]
        return [one.channel for one in self._user.subscriber.subscriptions.values() if one.channel.namespace is market]

    def _revoked(self, channel: ChannelName, reason: str) -> None:
        data = {**protocol.named(channel), "reason": reason}
        self._session.outbox.push(text_frame(protocol.answer("unsubscribed", data)))

    # -- rooms --------------------------------------------------------------------------------------------------------

    async def _chat(self, principal: Principal, command: protocol.ChatSend, request_id: protocol.RequestId) -> None:
        core, user = self._core, self._user
        fields: dict[str, object] = {}
        if command.client_message_id is not None:
            fields["clientMessageId"] = command.client_message_id
        if request_id is not None:
            fields["requestId"] = request_id
        counted = False

        def limit() -> None:
            nonlocal counted
            counted = True
            user.frame_rate.spend_from(core.limits.messages, principal.user_id)

        try:
            posted = await core.messages.post(
                principal,
                command.room.id,
                command.message,
                limit=limit,
                is_reader=user.subscriber.has_live(command.room),
                client_message_id=command.client_message_id,
                origin=_Sender(self._session.outbox, fields),
            )
        except RequestError:
            if not counted:
                user.frame_rate.spend()  # a message that is refused for its own sake costs a frame instead
            raise
        if posted.repeated:
            # The first message reached every subscriber, but this sender may not have received it.
            await self._session.outbox.send(protocol.encode_with(posted.publication, fields))

    async def _answer_presence(self, room: ChannelName, request_id: protocol.RequestId) -> None:
        present = self._core.presence.users(room)
        profiles = await self._core.auth.users.profiles(present)
        users = []
        for user_id in present:
            profile = profiles.get(user_id)
            users.append(
                {
                    "userId": user_id,
                    "firstName": profile.first_name if profile is not None else None,
                    "lastName": profile.last_name if profile is not None else None,
                    "avatar": profile.avatar if profile is not None else None,
                }
            )
        await self._session.send(protocol.answer("presence", {"chatroomId": room.id, "users": users}, request_id))


@attrs.frozen(eq=False)
class _Sender:
    """The connection that sent a message. Its copy carries the ids that it asked to have sent back."""

    sink: Outbox
    fields: Mapping[str, object]

    def receive(self, publication: Publication) -> None:
        """Send the publication at its place in the order. See `publication.Origin`."""
        self.sink.push(protocol.encode_with(publication, self.fields) if self.fields else protocol.encode(publication))
