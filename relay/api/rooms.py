"""`/v1/admin/rooms`: rooms and their members, for the console."""

from __future__ import annotations

from typing import TypedDict

import attrs
from quart import Blueprint, Response, request

from relay.api import audit
from relay.api.admin import PREFIX
from relay.api.app import json_body, success
from relay.api.authentication import caller_of, operator_of, reader_of
from relay.api.operation import CONSOLE_OPERATOR, CONSOLE_READER, describe
from relay.api.params import MAX_CURSOR_DIGITS, NEW_USER, NUMBERED_PAGE, PAGE, Params, number_cursor, page_query
from relay.chat.rooms import MAX_NAME_CHARACTERS
from relay.core import Core
from relay.ground.clock import iso_ms
from relay.ground.errors import Code, invalid_field
from relay.ground.schema import NOT_BLANK, Param
from relay.model.namespaces import MAX_ID_CHARACTERS
from relay.model.principal import Principal
from relay.store.rooms import ROOM_TYPES, Member, Room, RoomType

ROOM = "/rooms/<room_id>"
_TYPE = Param({"enum": [*ROOM_TYPES, "", None]})
_MEMBER_CURSOR = Param(
    {
        "type": "string",
        "pattern": f"^([0-9]{{1,{MAX_CURSOR_DIGITS}}}-.{{1,{MAX_ID_CHARACTERS}}})?$",
        "description": "The cursor of the last page.",
    }
)


class AdminRoomView(TypedDict):
    """A room, with the numbers of its members, of its messages, and of the users that are present."""

    id: str
    name: str
    type: RoomType
    createdBy: str
    createdAt: str
    members: int
    messages: int
    present: int


class AdminRoomsView(TypedDict):
    """A page of rooms. The cursor is null on the last page."""

    rooms: list[AdminRoomView]
    cursor: str | None
    total: int


class AdminMemberView(TypedDict):
    """A member of a room."""

    userId: str
    joinedAt: str
    firstName: str | None
    lastName: str | None


class AdminMembersView(TypedDict):
    """A room, and a page of its members. The cursor is null on the last page."""

    room: AdminRoomView
    members: list[AdminMemberView]
    cursor: str | None
    total: int


def blueprint(core: Core) -> Blueprint:
    """Return the routes. Each checks the right of the caller before it reads a parameter."""
    routes = Blueprint("rooms", __name__, url_prefix=PREFIX)
    _add_views(routes, core)
    _add_changes(routes, core)
    return routes


def _add_views(routes: Blueprint, core: Core) -> None:
    @routes.get("/rooms")
    @describe(
        "List the rooms.",
        CONSOLE_READER,
        query={**NUMBERED_PAGE, "type": Param({"enum": [*ROOM_TYPES, ""]})},
        answer=AdminRoomsView,
    )
    async def rooms() -> Response:
        await reader_of(core, request)
        query, limit = page_query()
        before, type_ = number_cursor(query) or None, _type(query.optional("type"))
        found, total = await core.rooms.page(before=before, type_=type_, limit=limit + 1)
        cursor = str(found[limit - 1][0]) if len(found) > limit else None
        shown = [_room_entry(core, room) for _, room in found[:limit]]
        return success({"rooms": shown, "cursor": cursor, "total": total})

    @routes.get(f"{ROOM}/members")
    @describe(
        "List the members of a room.",
        CONSOLE_READER,
        query={**PAGE, "cursor": _MEMBER_CURSOR},
        answer=AdminMembersView,
        errors=[Code.NOT_FOUND],
    )
    async def members(room_id: str) -> Response:
        await reader_of(core, request)
        query, limit = page_query()
        room, found = await core.rooms.members_page(room_id, after=_member_cursor(query), limit=limit + 1)
        last = found[limit - 1] if len(found) > limit else None
        cursor = None if last is None else f"{last.joined_at}-{last.user_id}"
        shown, total = [_member_entry(one) for one in found[:limit]], room.member_count
        return success({"room": _room_entry(core, room), "members": shown, "cursor": cursor, "total": total})


def _add_changes(routes: Blueprint, core: Core) -> None:
    @routes.post("/rooms")
    @describe(
        "Create a room.",
        CONSOLE_OPERATOR,
        body={
            "name": Param(
                {
                    "type": "string",
                    "format": "user-id",
                    "pattern": NOT_BLANK,
                    "minLength": 1,
                    "maxLength": MAX_NAME_CHARACTERS,
                },
                required=True,
            ),
            "type": _TYPE,
        },
        answer=AdminRoomView,
        status=201,
    )
    async def create_room() -> Response:
        principal, caller = await operator_of(core, request), caller_of(core, request)
        params = Params(await json_body())
        name, type_ = params.text("name"), _type(params.optional("type")) or "group"
        if len(name) > MAX_NAME_CHARACTERS or not name.isprintable() or not name.strip():
            raise invalid_field("name", f"must be 1 to {MAX_NAME_CHARACTERS} printable characters")
        audit.record(principal, caller, "room created", type=type_)
        room = await core.rooms.create(_as_admin(principal), name=name.strip(), description=None, type_=type_)
        return success(_room_entry(core, room), 201)

    @routes.post(f"{ROOM}/members")
    @describe(
        "Add a user to the members of a room.",
        CONSOLE_OPERATOR,
        body={"user": NEW_USER},
        answer=AdminRoomView,
        errors=[Code.NOT_FOUND, Code.CONFLICT],
    )
    async def add_member(room_id: str) -> Response:
        principal, caller = await operator_of(core, request), caller_of(core, request)
        params = Params(await json_body())
        user = params.new_user("user")
        audit.record(principal, caller, "member added", room=room_id[:MAX_ID_CHARACTERS], user=user)
        return success(_room_entry(core, await core.rooms.add_member(_as_admin(principal), room_id, user)))

    @routes.delete(f"{ROOM}/members/<path:user_id>")  # a user id may contain slashes
    @describe(
        "Remove a user from the members of a room.",
        CONSOLE_OPERATOR,
        answer=AdminRoomView,
        errors=[Code.NOT_FOUND, Code.CONFLICT],
    )
    async def remove_member(room_id: str, user_id: str) -> Response:
        principal, caller = await operator_of(core, request), caller_of(core, request)
        room, user = room_id[:MAX_ID_CHARACTERS], user_id[:MAX_ID_CHARACTERS]
        audit.record(principal, caller, "member removed", room=room, user=user)
        return success(_room_entry(core, await core.rooms.remove_member(_as_admin(principal), room_id, user_id)))


def _as_admin(principal: Principal) -> Principal:
    """Return the principal with every right to rooms: the right to the console was checked already."""
    return attrs.evolve(principal, is_admin=True)


def _type(given: str | None) -> RoomType | None:
    if given is not None and given not in ROOM_TYPES:
        raise invalid_field("type", f"must be one of {', '.join(ROOM_TYPES)}")
    return given


def _member_cursor(query: Params) -> tuple[int, str] | None:
    cursor = query.long_text("cursor")
    if cursor is None:
        return None
    joined_at, _, user_id = cursor.partition("-")
    is_number = joined_at.isascii() and joined_at.isdigit() and len(joined_at) <= MAX_CURSOR_DIGITS
    if not (is_number and 0 < len(user_id) <= MAX_ID_CHARACTERS):
        raise invalid_field("cursor", "must be the cursor of the last page")
    return int(joined_at), user_id


def _room_entry(core: Core, room: Room) -> AdminRoomView:
    return {
        "id": room.id,
        "name": room.name,
        "type": room.type,
        "createdBy": room.created_by,
        "createdAt": iso_ms(room.created_at),
        "members": room.member_count,
        "messages": room.message_count,
        "present": core.rooms.active_now(room.id),
    }


def _member_entry(member: Member) -> AdminMemberView:
    return {
        "userId": member.user_id,
        "joinedAt": iso_ms(member.joined_at),
        "firstName": member.first_name,
        "lastName": member.last_name,
    }
