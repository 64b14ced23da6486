"""One session of the `channels` dialect: its user is known from the start, and commands are handled one by one."""

from __future__ import annotations

from collections.abc import Mapping

from relay.api import views
from relay.broker.subscription import Subscriber
from relay.core import Core
from relay.dialects import request_fields, wire
from relay.dialects.channels import protocol
from relay.dialects.user_session import UserSession
from relay.ground import strictjson
from relay.ground.errors import Code, Reason, RequestError
from relay.model.namespaces import ChannelName
from relay.model.principal import Principal
from relay.model.publication import Position
from relay.sessions.frames import text_frame
from relay.sessions.session import Session


class ChannelsSession:
    """One connection of an authenticated user: what its client asks for, and the answers."""

    __slots__ = ("_core", "_principal", "_session", "_user")

    def __init__(self, core: Core, session: Session, subscriber: Subscriber, principal: Principal) -> None:
        self._core = core
        self._session = session
        self._principal = principal
        own = core.namespaces["user"].channel(principal.user_id)
        self._user = UserSession(core, session, subscriber, own)

    async def run(self) -> None:
        """Handle commands until the client closes."""
        await self._user.run(
            self._take, on_revoked=self._revoked, make_last_message=self._last_message, principal=self._principal
        )

    async def _take(self, message: str) -> None:
        """Handle one command. A refusal is answered, and the session continues."""
        try:
            self._user.frame_rate.spend()
            await self._handle(wire.read(protocol.decode, message, self._core.namespaces), message)
        except RequestError as refusal:
            await self._session.send(protocol.error(refusal, self._core.clock.now_ms()))

    async def _handle(self, command: protocol.Command, message: str) -> None:
        if not isinstance(command, protocol.Subscribe):
            await self._user.begin_server_side()
        match command:
            case protocol.Ping():
                await self._session.send(self._answer("pong", {}))
            case protocol.Subscribe(channel, text, since, last, token):

                def answer(position: Position, recovered: bool | None) -> bytes:
                    data = wire.subscribed({"channel": text}, position, recovered)
                    return text_frame(self._answer("subscribed", data))

                await self._user.subscribe(channel, since=since, last=last, token=token, answer=answer)
            case request_fields.Publish(_, text):
                published = await self._user.publish(command, strictjson.member(message.encode(), "data"))
                await self._session.send(self._answer("published", views.published(text, published)))
            case protocol.Unsubscribe(channel, text):
                self._user.unsubscribe(channel)
                await self._session.send(self._answer("unsubscribed", {"channel": text}))

    def _answer(self, type_: str, data: Mapping[str, object]) -> bytes:
        return protocol.answer(type_, data, self._core.clock.now_ms())

    def _revoked(self, channel: ChannelName, reason: str) -> None:
        data = {"channel": protocol.name_of(channel), "reason": reason}
        self._session.outbox.push(text_frame(self._answer("unsubscribed", data)))

    def _last_message(self, reason: Reason) -> bytes | None:
        if reason is not Reason.TOKEN_EXPIRED:
            return None
        return protocol.error(RequestError(Code.UNAUTHORIZED, "The token has expired."), self._core.clock.now_ms())
