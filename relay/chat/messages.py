"""The messages of rooms: posted by users, published by backends, and read page by page. It knows no dialect and no HTTP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs

from relay.auth.verifier import is_user_id
from relay.broker.broker import Broker
from relay.chat.ids import new_id
from relay.chat.rights import not_found, readable
from relay.chat.rooms import Rooms
from relay.ground.clock import Clock, iso_ms
from relay.ground.errors import Code, FieldError, RequestError, invalid_field
from relay.model.namespaces import ChannelName, Namespaces
from relay.model.principal import Principal
from relay.model.publication import (
    MAX_CLIENT_MESSAGE_ID_CHARACTERS,
    Draft,
    Idempotency,
    Origin,
    Prepared,
    Publication,
    Published,
)
from relay.store import messages as store
from relay.store import rooms as rooms_store
from relay.store.database import Database
from relay.store.messages import Message
from relay.store.rooms import message_scope
from relay.store.transaction import Transaction

MAX_MESSAGE_CHARACTERS = 4000
"""Length of a message's text, without the space around it."""
MAX_MESSAGE_ID_CHARACTERS = 64
"""Length of the id that a backend gives a message."""


@attrs.frozen
class Posted:
    """A message that was accepted. If `repeated`, an earlier post with the same client message id was accepted."""

    message: Message
    publication: Publication
    repeated: bool


class Messages:
    """Every message of this server."""

    def __init__(
        self,
        database: Database,
        broker: Broker,
        rooms: Rooms,
        namespaces: Namespaces,
        clock: Clock,
        *,
        idempotency_period: float,
    ) -> None:
        """`idempotency_period`: seconds for which a client message id counts once."""
        self._database = database
        self._broker = broker
        self._rooms = rooms
        self._namespace = namespaces["chatroom"]
        self._clock = clock
        self._idempotency_period = idempotency_period

    async def post(
        self,
        principal: Principal,
        room_id: str,
        text: str,
        *,
        limit: Callable[[], None],
        is_reader: bool = False,
        client_message_id: str | None = None,
        origin: Origin | None = None,
    ) -> Posted:
        """Check a message, spend it from the sender's limit and publish it. Return once it is committed and delivered.

        `limit` is called synchronously, once, between the checks and the publication. It raises if the sender posts too
        fast, so a message that is not valid costs nothing. `is_reader`: a live subscription proves the right,
        which saves a look at the store. The transaction checks the right anyway.

        A client message id counts once for each user and room within the idempotency period: a repeat returns the
        first message. `origin` receives its own copy at its place in the order; it receives none of a repeat.
        Cancelled, the message may have been published all the same.

        Raises:
            RequestError: the text or the client message id is empty or too long, or the principal may not post to the
                room. `limit` raised it, or the store cannot write.
        """
        text = checked_text(text)
        key = self._key(principal, room_id, client_message_id)
        if not is_reader:
            await self._rooms.readable(principal, room_id)
        limit()
        channel = self._namespace.channel(room_id)
        now_ms = self._clock.now_ms()
        message = Message(new_id("msg"), room_id, principal.user_id, text, now_ms)

        def prepare(connection: Transaction, _: Sequence[Draft]) -> list[Prepared]:
            readable(connection, principal, room_id)
            return _insert(connection, [message])

        draft = Draft(
            channel, "chat:message", _message_data(message), now_ms, origin=origin, idempotency=key, prepare=prepare
        )
        published = await self._broker.publish(draft)
        if published.repeated:
            message = await self._first(principal, room_id, str(published.reference))
        return Posted(message, _publication(channel, message, published), published.repeated)

    def _key(self, principal: Principal, room_id: str, client_message_id: str | None) -> Idempotency | None:
        if client_message_id is None:
            return None
        if not 0 < len(client_message_id) <= MAX_CLIENT_MESSAGE_ID_CHARACTERS:
            raise invalid_field("clientMessageId", f"must have 1 to {MAX_CLIENT_MESSAGE_ID_CHARACTERS} characters")
        return Idempotency(message_scope(room_id, principal.user_id), client_message_id, self._idempotency_period)

    async def _first(self, principal: Principal, room_id: str, message_id: str) -> Message:
        """Return the message that a repeat repeats, if the principal may still read it: the key proves no right."""

        def query(connection: Transaction) -> Message:
            readable(connection, principal, room_id)
            message = store.get(connection, message_id)
            if message is None:
                raise not_found()  # deleted with its room, between the commit and now
            return message

        return await self._database.read(query)

    def prepare_published(self, draft: Draft) -> None:
        """Complete a backend's `chat:message`, and store it as a message of its room when it is committed.

        Raises:
            RequestError: the author, the text or the message id is not valid.
        """
        data = draft.data
        if not is_user_id(data["userId"]):
            raise invalid_field("userId", "must be a user's id")
        data["message"] = checked_text(data["message"])
        if "messageId" not in data:
            data["messageId"] = new_id("msg")
        message_id = data["messageId"]
        if not isinstance(message_id, str) or not 0 < len(message_id) <= MAX_MESSAGE_ID_CHARACTERS:
            raise invalid_field("messageId", f"must be a text of 1 to {MAX_MESSAGE_ID_CHARACTERS} characters")
        if "timestamp" not in data:
            data["timestamp"] = iso_ms(draft.published_ms)
        draft.store_with(_insert_published)

    async def page(
        self, principal: Principal, room_id: str, *, limit: int, offset: int, before: str | None
    ) -> tuple[list[Message], int]:
        """Return messages of a room, newest first, and how many it has. `before`, a message id, replaces `offset`.

        Raises:
            RequestError: as `Rooms.readable`; or the room has no message `before`.
        """

        def query(connection: Transaction) -> tuple[list[Message], int]:
            room = readable(connection, principal, room_id)
            if before is None:
                count = room.message_count
                return store.list_page(connection, room_id, limit, offset, count=count), count
            page = store.list_before(connection, room_id, before, limit)
            if page is None:
                raise invalid_field("before", "is not a message of this room")
            return page, room.message_count

        return await self._database.read(query)


def checked_text(text: str) -> str:
    """Return a message's text as it is stored: without the space around it.

    Raises:
        RequestError: nothing is left of it, or it is longer than MAX_MESSAGE_CHARACTERS.
    """
    text = text.strip()
    if not 0 < len(text) <= MAX_MESSAGE_CHARACTERS:
        raise invalid_field("message", f"must have 1 to {MAX_MESSAGE_CHARACTERS} characters")
    return text


def _insert_published(connection: Transaction, drafts: Sequence[Draft]) -> list[Prepared]:
    """Store what backends published as messages of their rooms. See `Prepare`."""
    missing = {
        room_id for room_id in {draft.channel.id for draft in drafts} if rooms_store.get(connection, room_id) is None
    }
    stored = iter(_insert(connection, [_message(draft) for draft in drafts if draft.channel.id not in missing]))
    return [not_found() if draft.channel.id in missing else next(stored) for draft in drafts]


def _message(draft: Draft) -> Message:
    data = draft.data
    return Message(data["messageId"], draft.channel.id, data["userId"], data["message"], draft.published_ms)


def _insert(connection: Transaction, messages: Sequence[Message]) -> list[Prepared]:
    stored = store.insert(connection, messages)
    return [message.id if there else _taken() for message, there in zip(messages, stored, strict=True)]


def _taken() -> RequestError:
    taken = FieldError("messageId", "is taken")
    return RequestError(Code.CONFLICT, "There is a message with this messageId already.", fields=[taken])


def _message_data(message: Message) -> dict[str, Any]:
    return {
        "chatroomId": message.room_id,
        "messageId": message.id,
        "userId": message.user_id,
        "message": message.text,
        "timestamp": iso_ms(message.created_at),
    }


def _publication(channel: ChannelName, message: Message, published: Published) -> Publication:
    position = published.position
    return Publication(
        channel, "chat:message", position.offset, position.epoch, message.created_at, data=_message_data(message)
    )
