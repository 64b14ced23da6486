"""The session of a user, in every dialect that has users: its frames one by one, its rights and its server-side channel.

A dialect's session has one of these. The dialect decodes, answers and names things; what must be the same for every
user, whatever the dialect, is here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from relay.broker.subscription import MakeAnswer, MakeFirst, Subscriber
from relay.core import Core
from relay.dialects.request_fields import Publish
from relay.ground.errors import Disconnect, Reason
from relay.model.namespaces import ChannelName
from relay.model.principal import Principal
from relay.model.publication import Position, Published
from relay.sessions.session import MakeLastMessage, Session

Take = Callable[[str], Awaitable[None]]
"""Handles one text frame. It answers a RequestError itself; a Disconnect ends the session."""


class UserSession:
    """One connection of one user. The user may authenticate later than the connection begins."""

    __slots__ = ("_channel", "_core", "_server_side", "_session", "frame_rate", "principal", "subscriber")

    def __init__(self, core: Core, session: Session, subscriber: Subscriber, channel: ChannelName) -> None:
        """`channel` is the one that the server subscribes the user to."""
        self._core = core
        self._session = session
        self._channel = channel
        self._server_side = core.subscriptions.server_side(subscriber, session.outbox, channel)
        self.subscriber = subscriber
        self.principal: Principal | None = None
        """The user, None until authenticated."""
        self.frame_rate = core.limits.frames()

    async def run(
        self,
        take: Take,
        *,
        on_revoked: Callable[[ChannelName, str], None],
        make_last_message: MakeLastMessage,
        principal: Principal | None = None,
    ) -> None:
        """Take the client's frames in order, until the client closes.

        With a `principal` the session begins authenticated. `on_revoked` is called synchronously when a right was lost;
        it must not raise. `make_last_message` makes the message before the close, for the reason of the close.

        Raises:
            Disconnect: a binary frame came, or `take` raised it.
        """
        session = self._session
        session.make_last_message = make_last_message
        self.subscriber.call_when_revoked(on_revoked)
        with self._server_side:
            if principal is not None:
                await self.authenticated(principal)
                await self.open_server_side()
            while (message := await self._server_side.receive(session.receive)) is not None:
                if isinstance(message, bytes):
                    raise Disconnect(Reason.BINARY)
                await take(message)

    async def authenticated(self, principal: Principal) -> None:
        """Record the user of a valid token, and end the session when the token expires.

        Call it again for each fresh token of the same user: it replaces the deadline, and subscriptions to which the
        user has no right any more end.
        """
        await self._core.auth.users.seen(principal)
        self.principal = principal
        await identify(self._core, self._session, self.subscriber, principal)

    async def open_server_side(self) -> None:
        """Begin the server-side subscription: hold its publications until the client asks for what it missed, or waits."""
        await self._server_side.open()

    async def begin_server_side(self) -> None:
        """Send what is held and go live. Call it before each frame is handled that is not a subscribe."""
        await self._server_side.begin()

    async def publish(self, publication: Publish, document: bytes) -> Published:
        """Publish for the user. `document`: the object that it came in. Raises as `ClientPublishing.publish`."""
        return await self._core.client_publishing.publish(
            self.principal,
            publication.channel,
            publication.item,
            document=document,
            subscriber=self.subscriber,
            echo=publication.echo,
        )

    async def subscribe(
        self,
        channel: ChannelName,
        *,
        since: Position | None,
        last: int = 0,
        token: str | None = None,
        answer: MakeAnswer,
        asked: bool = True,
    ) -> None:
        """Subscribe to one channel. For the server-side one this is the resume. Raises as `Subscriptions.subscribe`.

        `asked=False`: the client did not ask for it, so what is held for the client stays held.
        """
        server_side = self._is_server_side(channel)
        if server_side:
            answer = self._server_side.resume_first(since, last, answer)
        elif asked:
            await self._server_side.begin()
        await self._core.subscriptions.subscribe(
            self.subscriber,
            channel,
            self.principal,
            outbox=self._session.outbox,
            since=since,
            last=last,
            token=token,
            answer=answer,
            counted=not server_side,
        )

    async def subscribe_all(self, channels: tuple[ChannelName, ...], first: MakeFirst) -> None:
        """Subscribe to several channels in one step. Raises as `Subscriptions.subscribe_all`."""
        await self._server_side.begin()
        await self._core.subscriptions.subscribe_all(
            self.subscriber, channels, self.principal, outbox=self._session.outbox, first=first
        )

    def unsubscribe(self, channel: ChannelName) -> None:
        """End a subscription; the server-side one continues. Idempotent."""
        if not self._is_server_side(channel):
            self._core.subscriptions.unsubscribe(self.subscriber, channel)

    def _is_server_side(self, channel: ChannelName) -> bool:
        return channel.text == self._channel.text


async def identify(core: Core, session: Session, subscriber: Subscriber, principal: Principal) -> None:
    """Record the user of a session, and end the session when the token expires."""
    core.connections.identify(session, principal.user_id)
    await core.subscriptions.identify(subscriber, principal)
    session.set_deadline(core.auth.deadline_of(principal), Reason.TOKEN_EXPIRED)
