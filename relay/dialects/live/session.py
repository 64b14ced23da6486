"""One session of the `live` dialect: authentication, and then each frame in the order in which it was sent."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import trio

from relay.broker.subscription import MakeAnswer, Subscriber
from relay.core import Core
from relay.dialects.live import protocol
from relay.dialects.live.typing import Typing
from relay.ground import logs
from relay.ground.clock import iso_ms
from relay.ground.errors import Code, Disconnect, ProtocolError, Reason, RequestError
from relay.model.kinds import ChannelName
from relay.model.principal import Principal
from relay.model.publication import Position, Publication
from relay.sessions.frames import text_frame
from relay.sessions.outbox import Outbox
from relay.sessions.session import Session

log = logs.get("relay.live")


class LiveSession:
    """What one connection may do, and does."""

    __slots__ = ("_core", "_frame_rate", "_principal", "_server_side", "_session", "_subscriber", "_typing")

    def __init__(self, core: Core, typing: Typing, session: Session, subscriber: Subscriber) -> None:
        self._core = core
        self._typing = typing
        self._session = session
        self._subscriber = subscriber
        self._principal: Principal | None = None
        self._server_side = core.subscriptions.server_side(
            subscriber, session.outbox, core.kinds["broadcast"].channel()
        )
        self._frame_rate = core.limits.frames()

    async def run(self) -> None:
        """Handle frames until the client closes."""
        session = self._session
        session.last_words = self._last_words
        session.set_deadline(trio.current_time() + self._core.config.limits.auth_timeout, Reason.UNAUTHORIZED)
        self._subscriber.call_when_revoked(self._revoked)
        with self._server_side:
            while (message := await self._server_side.receive(session.receive)) is not None:
                if isinstance(message, bytes):
                    raise Disconnect(Reason.BINARY)
                await self._take(message)

    async def _take(self, message: str) -> None:
        """Handle one frame; a refusal is answered and the session goes on."""
        request: str | None = None
        request_id: protocol.RequestId = None
        try:
            try:
                frame = protocol.decode(message)
                request, request_id = frame.type, frame.request_id
                user_id = self._principal.user_id if self._principal is not None else None
                command = protocol.command(frame, self._core.kinds, user_id)
            except RequestError:
                self._frame_rate.spend()
                raise
            except ProtocolError as error:
                self._frame_rate.spend()
                raise RequestError(Code.INVALID_REQUEST, str(error)) from error
            if not isinstance(command, protocol.ChatSend) or self._principal is None:
                self._frame_rate.spend()
            await self._handle(command, request_id)
        except RequestError as refusal:
            await self._session.send(protocol.error(refusal, request, request_id))

    async def _handle(self, command: protocol.Command, request_id: protocol.RequestId) -> None:
        if not isinstance(command, protocol.Subscribe):
            await self._server_side.begin()
        match command:
            case protocol.Ping():
                timestamp = iso_ms(self._core.clock.now_ms())
                await self._session.send(protocol.answer("pong", {"timestamp": timestamp}, request_id))
            case protocol.Auth():
                await self._authenticate(command, request_id)
            case _ if self._principal is None:
                raise RequestError(Code.UNAUTHORIZED, "Authenticate first.")
            case protocol.Subscribe(target, since) if target.word == "market":
                await self._server_side.begin()
                await self._subscribe_market(self._principal, target, request_id)
            case protocol.Subscribe(target, since):
                await self._subscribe(self._principal, target, since, request_id)
            case protocol.Unsubscribe(target):
                await self._unsubscribe(target, request_id)
            case protocol.ChatSend():
                await self._chat(self._principal, command, request_id)
            case protocol.ChatTyping(room, is_typing):
                await self._core.subscriptions.check_publisher(self._subscriber, room, self._principal)
                self._typing.set(room, self._principal.user_id, is_typing=is_typing)
            case protocol.AskPresence(room):
                await self._core.subscriptions.check_reader(self._subscriber, room, self._principal)
                await self._answer_presence(room, request_id)

    # -- authentication -----------------------------------------------------------------------------------------------

    async def _authenticate(self, command: protocol.Auth, request_id: protocol.RequestId) -> None:
        core, session = self._core, self._session
        try:
            with core.limits.auth_failures.counted(session.address):
                principal = await core.auth.tokens.authenticate(command.token)
            if self._principal is not None and principal.user_id != self._principal.user_id:
                raise RequestError(Code.FORBIDDEN, "This connection belongs to another user.")
        except RequestError as refusal:
            log.info("authentication refused", address=session.address, cause=refusal.message)
            await session.send(protocol.auth_error(refusal, request_id))
            if refusal.code is Code.FORBIDDEN:
                return
            session.last_words = None
            raise Disconnect(Reason.UNAUTHORIZED) from refusal
        await core.auth.users.seen(principal)
        first = self._principal is None
        self._principal = principal
        await core.subscriptions.identify(self._subscriber, principal)
        expires_at = principal.expires_at
        session.set_deadline(core.auth.deadline_of(principal), Reason.TOKEN_EXPIRED)
        if first:
            log.info("session authenticated", dialect=session.dialect, user=principal.user_id, address=session.address)
        expires = iso_ms(int(expires_at.timestamp() * 1000)) if expires_at is not None else None
        answer = protocol.answer("auth:success", {"userId": principal.user_id, "expiresAt": expires}, request_id)
        await session.send(answer)
        if first:
            await self._server_side.open()

    def _last_words(self, reason: Reason) -> bytes | None:
        if reason is Reason.UNAUTHORIZED:
            return protocol.auth_error(RequestError(Code.UNAUTHORIZED, "No valid token came in time."))
        if reason is Reason.TOKEN_EXPIRED:
            return protocol.auth_error(RequestError(Code.UNAUTHORIZED, "The token has expired."))
        return None

    # -- subscriptions ------------------------------------------------------------------------------------------------

    async def _subscribe(
        self, principal: Principal, target: protocol.Target, since: Position | None, request_id: protocol.RequestId
    ) -> None:
        [channel] = target.channels

        def answer(position: Position, recovered: bool | None) -> bytes:
            data = {"channel": target.word, **target.fields, **attrs.asdict(position)}
            if recovered is not None:
                data["recovered"] = recovered
            return text_frame(protocol.answer("subscribed", data, request_id))

        make_answer: MakeAnswer = answer
        unasked = target.word == "broadcast"
        if unasked:
            make_answer = self._server_side.resume_first(since, answer)
        else:
            await self._server_side.begin()
        await self._core.subscriptions.subscribe(
            self._subscriber,
            channel,
            principal,
            outbox=self._session.outbox,
            since=since,
            answer=make_answer,
            counted=not unasked,
        )

    async def _subscribe_market(
        self, principal: Principal, target: protocol.Target, request_id: protocol.RequestId
    ) -> None:
        maximum = self._core.config.limits.max_subscriptions
        wanted = {name.text for name in (*self._market(), *target.channels)}
        if len(wanted) > maximum:
            raise RequestError(Code.TOO_MANY_SUBSCRIPTIONS, f"A connection may have at most {maximum} symbols.")

        def first(snapshots: list[tuple[Position, list[Publication]]]) -> list[bytes]:
            positions = {
                name.id: attrs.asdict(position) for name, (position, _) in zip(target.channels, snapshots, strict=True)
            }
            data = {"channel": "market", "symbols": [name.id for name in self._market()], "positions": positions}
            frames = [text_frame(protocol.answer("subscribed", data, request_id))]
            frames += [protocol.encode(publication) for _, last in snapshots for publication in last]
            return frames

        await self._core.subscriptions.subscribe_all(
            self._subscriber, target.channels, principal, outbox=self._session.outbox, first=first
        )

    async def _unsubscribe(self, target: protocol.Target, request_id: protocol.RequestId) -> None:
        channels = target.channels
        fields: Mapping[str, object] = target.fields
        if target.word == "market":
            for name in channels or self._market():
                self._core.subscriptions.unsubscribe(self._subscriber, name)
            fields = {"symbols": [name.id for name in self._market()]}
        elif target.word != "broadcast":  # which goes on coming unasked
            self._core.subscriptions.unsubscribe(self._subscriber, channels[0])
        await self._session.send(protocol.answer("unsubscribed", {"channel": target.word, **fields}, request_id))

    def _market(self) -> list[ChannelName]:
        market = self._core.kinds["market"]
        return [one.channel for one in self._subscriber.subscriptions.values() if one.channel.kind is market]

    def _revoked(self, channel: ChannelName, reason: str) -> None:
        data = {**protocol.named(channel), "reason": reason}
        self._session.outbox.push(text_frame(protocol.answer("unsubscribed", data)))

    # -- rooms --------------------------------------------------------------------------------------------------------

    async def _chat(self, principal: Principal, command: protocol.ChatSend, request_id: protocol.RequestId) -> None:
        core = self._core
        fields: dict[str, object] = {}
        if command.client_message_id is not None:
            fields["clientMessageId"] = command.client_message_id
        if request_id is not None:
            fields["requestId"] = request_id
        origin = _Sender(self._session.outbox, fields)
        counted = False

        def limit() -> None:
            nonlocal counted
            counted = True
            self._frame_rate.spend_from(core.limits.messages, principal.user_id)

        try:
            posted = await core.messages.post(
                principal,
                command.room.id,
                command.message,
                limit=limit,
                is_reader=core.subscriptions.is_reader(self._subscriber, command.room),
                client_message_id=command.client_message_id,
                origin=origin,
            )
        except RequestError:
            if not counted:
                self._frame_rate.spend()  # a message that is refused for its own sake costs a frame instead
            raise
        if posted.repeated:
            # The first one reached everybody; this sender did not hear of it.
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
    """The connection that sent a message: its copy carries what it asked to have sent back."""

    sink: Outbox
    fields: Mapping[str, object]

    def receive(self, publication: Publication) -> None:
        """Take the publication in its place in the order. See `models.Origin`."""
        self.sink.push(protocol.encode_with(publication, self.fields) if self.fields else protocol.encode(publication))
