"""Notifications: published to their user, and stored. A notification that was read stays in the list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from relay.broker.broker import Broker
from relay.chat.ids import new_id
from relay.ground.clock import Clock
from relay.ground.errors import Code, FieldError, RequestError, invalid_field
from relay.model.namespaces import Namespaces, complete
from relay.model.publication import Draft, Prepared
from relay.store import notifications as store
from relay.store.database import Database
from relay.store.notifications import Notification
from relay.store.transaction import Transaction

Priority = Literal["low", "medium", "high", "urgent"]
PRIORITIES: tuple[Priority, ...] = ("low", "medium", "high", "urgent")
DEFAULT_PRIORITY: Priority = "medium"
MAX_ID_CHARACTERS = 64
"""Length of the id that a backend gives a notification."""


class Notifications:
    """Every user's notifications."""

    def __init__(self, database: Database, broker: Broker, namespaces: Namespaces, clock: Clock) -> None:
        self._database = database
        self._broker = broker
        self._namespace = namespaces["user"]
        self._clock = clock

    async def send(
        self, user_id: str, *, title: str | None, message: str, priority: str = DEFAULT_PRIORITY
    ) -> dict[str, Any]:
        """Store a notification and publish it. Return its data as it was published.

        Raises:
            RequestError: a field is not valid, or the store cannot write.
        """
        channel = self._namespace.channel(user_id)
        type_, data = complete(channel, None, {"title": title, "message": message, "priority": priority})
        draft = Draft(channel, type_, data, self._clock.now_ms())
        self.prepare_published(draft)
        await self._broker.publish(draft)
        published: dict[str, Any] = draft.data
        return published

    def prepare_published(self, draft: Draft) -> None:
        """Complete a `notification:new`, and store it when its publication is committed.

        Raises:
            RequestError: the id, title or priority is not valid.
        """
        data = draft.data
        id_ = data.get("id", new_id("notif"))
        if not isinstance(id_, str) or not 0 < len(id_) <= MAX_ID_CHARACTERS:
            raise invalid_field("id", f"must be a text of 1 to {MAX_ID_CHARACTERS} characters")
        title = data.get("title")
        if title is not None and not isinstance(title, str):
            raise invalid_field("title", "must be a text")
        if data.setdefault("priority", DEFAULT_PRIORITY) not in PRIORITIES:
            raise invalid_field("priority", f"must be one of {', '.join(PRIORITIES)}")
        data = {"id": id_, **data}
        draft.store_with(_insert_published, data)

    async def list(self, user_id: str, *, limit: int, offset: int) -> tuple[list[Notification], int]:
        """Return one page of a user's notifications, newest first, and their total number."""
        return await self._database.read(lambda connection: store.list_page(connection, user_id, limit, offset))

    async def mark_read(self, user_id: str, id_: str) -> Notification:
        """Mark one notification as read, and return it. Idempotent.

        Raises:
            RequestError: `NOT_FOUND`; the user has no notification with this id.
        """
        now_ms = self._clock.now_ms()
        found = await self._database.write(lambda connection: store.mark_read(connection, user_id, id_, now_ms))
        if found is None:
            raise RequestError(Code.NOT_FOUND, "There is no such notification.")
        return found

    async def mark_all_read(self, user_id: str) -> int:
        """Mark all of a user's notifications as read. Return the number that were not."""
        now_ms = self._clock.now_ms()
        return await self._database.write(lambda connection: store.mark_all_read(connection, user_id, now_ms))


def _insert_published(connection: Transaction, drafts: Sequence[Draft]) -> list[Prepared]:
    """Store published notifications. See `Prepare`."""
    return [_insert(connection, draft) for draft in drafts]


def _insert(connection: Transaction, draft: Draft) -> Prepared:
    id_: str = draft.data["id"]
    if store.insert(connection, id_, draft.channel.id, draft.encode().decode(), draft.published_ms):
        return id_
    taken = FieldError("id", "is taken")
    return RequestError(Code.CONFLICT, "There is a notification with this id already.", fields=[taken])
