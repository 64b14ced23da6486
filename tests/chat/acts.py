"""The acts of the tests of this folder: a room with members, its messages, publications of a backend."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from relay.ground.errors import Code, RequestError
from relay.model.namespaces import complete
from relay.model.principal import Principal
from relay.model.publication import Draft, Idempotency, Outcome
from relay.store.rooms import Room, RoomType
from tests.parts import Parts, admin, user

CORA, MIA, BOB, ROOT = user("cora"), user("mia"), user("bob"), admin()


async def make(parts: Parts, type_: RoomType = "public", *, name: str = "Room", by: Principal = CORA) -> Room:
    """Create a room with its creator and mia as members."""
    room = await parts.rooms.create(by, name=name, description=None, type_=type_)
    return await parts.rooms.add_member(by, room.id, "mia")


async def code_of(call: Awaitable[Any]) -> Code | None:
    """Return why a call was refused, None if it was not."""
    try:
        await call
    except RequestError as refusal:
        return refusal.code
    return None


async def messages(parts: Parts, room_id: str) -> list[str]:
    """Return the texts of a room's messages, oldest first."""
    found, _ = await parts.messages.page(ROOT, room_id, limit=100, offset=0, before=None)
    return [message.text for message in reversed(found)]


async def publish(parts: Parts, channel: str, *bodies: dict[str, Any], key: str | None = None) -> list[Outcome]:
    """Publish messages or notifications as the publish API does."""
    name = parts.namespaces.parse(channel)
    prepared_by = parts.messages if name.namespace.name == "chatroom" else parts.notifications
    drafts = []
    for body in bodies:
        type_, data = complete(name, None, body)
        idempotency = None if key is None else Idempotency("backend", key, 300.0)
        draft = Draft(name, type_, data, parts.clock.now_ms(), idempotency=idempotency)
        prepared_by.prepare_published(draft)
        drafts.append(draft)
    return await parts.broker.publish_many(drafts)
