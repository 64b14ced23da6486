"""One session of the `channels` dialect: its user is known from the start, and commands are taken one by one."""

from __future__ import annotations

import attrs

from relay.broker.subscription import MakeAnswer, Subscriber
from relay.core import Core
from relay.dialects.channels import protocol
from relay.ground import logs
from relay.ground.errors import Code, Disconnect, ProtocolError, Reason, RequestError
from relay.model.kinds import ChannelName
from relay.model.principal import Principal
from relay.model.publication import Position
from relay.sessions.frames import text_frame
from relay.sessions.session import Session

log = logs.get("relay.channels")


class ChannelsSession:
    """What one connection of an authenticated user does."""

    __slots__ = ("_core", "_frame_rate", "_own", "_principal", "_server_side", "_session", "_subscriber")

    def __init__(self, core: Core, session: Session, subscriber: Subscriber, principal: Principal) -> None:
        self._core = core
        self._session = session
        self._subscriber = subscriber
        self._principal = principal
        self._own = core.kinds["user"].channel(principal.user_id)
        self._server_side = core.subscriptions.server_side(subscriber, session.outbox, self._own)
        self._frame_rate = core.limits.frames()

    async def run(self) -> None:
        """Handle commands until the client closes."""
        core, session, principal = self._core, self._session, self._principal
        session.last_words = self._last_words
        session.set_deadline(core.auth.deadline_of(principal), Reason.TOKEN_EXPIRED)
        await core.auth.users.seen(principal)
        self._subscriber.call_when_revoked(self._revoked)
        await core.subscriptions.identify(self._subscriber, principal)
        with self._server_side:
            await self._server_side.open()
            while (message := await self._server_side.receive(session.receive)) is not None:
                if isinstance(message, bytes):
                    raise Disconnect(Reason.BINARY)
                await self._take(message)

    async def _take(self, message: str) -> None:
        try:
            self._frame_rate.spend()
            try:
                command = protocol.decode(message, self._core.kinds)
            except ProtocolError as error:
                raise RequestError(Code.INVALID_REQUEST, str(error)) from error
            await self._handle(command)
        except RequestError as refusal:
            await self._session.send(protocol.error(refusal, self._core.clock.now_ms()))

    async def _handle(self, command: protocol.Command) -> None:
        if not isinstance(command, protocol.Subscribe):
            await self._server_side.begin()
        match command:
            case protocol.Ping():
                await self._session.send(protocol.answer("pong", {}, self._core.clock.now_ms()))
            case protocol.Subscribe(channel, text, since):
                await self._subscribe(channel, text, since)
            case protocol.Unsubscribe(channel, text):
                if channel.text != self._own.text:
                    self._core.subscriptions.unsubscribe(
                        self._subscriber, channel
                    )  # a user's own goes on coming unasked
                await self._session.send(protocol.answer("unsubscribed", {"channel": text}, self._core.clock.now_ms()))

    async def _subscribe(self, channel: ChannelName, text: str, since: Position | None) -> None:
        def answer(position: Position, recovered: bool | None) -> bytes:
            data = {"channel": text, **attrs.asdict(position)}
            if recovered is not None:
                data["recovered"] = recovered
            return text_frame(protocol.answer("subscribed", data, self._core.clock.now_ms()))

        make_answer: MakeAnswer = answer
        own = channel.text == self._own.text
        if own:
            make_answer = self._server_side.resume_first(since, answer)
        else:
            await self._server_side.begin()
        await self._core.subscriptions.subscribe(
            self._subscriber,
            channel,
            self._principal,
            outbox=self._session.outbox,
            since=since,
            answer=make_answer,
            counted=not own,
        )

    def _revoked(self, channel: ChannelName, reason: str) -> None:
        data = {"channel": protocol.name_of(channel), "reason": reason}
        self._session.outbox.push(text_frame(protocol.answer("unsubscribed", data, self._core.clock.now_ms())))

    def _last_words(self, reason: Reason) -> bytes | None:
        if reason is not Reason.TOKEN_EXPIRED:
            return None
        return protocol.error(RequestError(Code.UNAUTHORIZED, "The token has expired."), self._core.clock.now_ms())
