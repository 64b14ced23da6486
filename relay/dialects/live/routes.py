"""The REST routes of the `live` dialect: rooms, members, messages and notifications."""

from __future__ import annotations

from quart import Blueprint, Response, request

from relay.access.rules import is_backend
from relay.api.app import json_body, success
from relay.api.authentication import principal_of, user_of
from relay.api.bodies import structured
from relay.api.operation import BACKEND, USER, Pagination, describe
from relay.core import Core
from relay.dialects.live import rest, views
from relay.ground.errors import Code, RequestError
from relay.store.rooms import Room

DEFAULT_ROOMS = 20
DEFAULT_MESSAGES = 50
DEFAULT_MEMBERS = 50
DEFAULT_NOTIFICATIONS = 50

PAGED = {"pagination": Pagination}
"""The field of every list beside its data."""
HIDDEN = (Code.NOT_FOUND,)
"""The refusal of every route of one room, beside those of `USER`: it does not exist, or it is hidden."""

ROOMS = "/v1/chatrooms"
ROOM = f"{ROOMS}/<room_id>"
NOTIFICATIONS = "/v1/notifications"


def blueprint(core: Core) -> Blueprint:
    """Return the REST routes."""
    routes = Blueprint("live", __name__)
    _add_rooms(routes, core)
    _add_members(routes, core)
    _add_messages(routes, core)
    _add_notifications(routes, core)
    return routes


def _add_rooms(routes: Blueprint, core: Core) -> None:
    @routes.get(ROOMS)
    @describe(
        "List the rooms that the caller may see.", USER, query=rest.RoomsQuery, answer=list[views.RoomView], more=PAGED
    )
    async def list_rooms() -> Response:
        principal = await user_of(core, request)
        page, type_ = rest.rooms_page_of(request.args, DEFAULT_ROOMS)
        rooms, total = await core.rooms.visible(principal, type_=type_, limit=page.limit, offset=page.offset)
        found = [views.room(room, core.rooms.active_now(room.id)) for room in rooms]
        return success(found, pagination=page.pagination(total))

    @routes.post(ROOMS)
    @describe("Create a room.", USER, body=rest.NewRoom, answer=views.RoomView, status=201, errors=[Code.CONFLICT])
    async def create_room() -> Response:
        principal = await user_of(core, request)
        new = structured(await json_body(), rest.NewRoom)
        room = await core.rooms.create(
            principal, name=new.name, description=new.description, type_=new.type, id_=new.id
        )
        return _answer(core, room, 201)

    @routes.get(ROOM)
    @describe("Return a room.", USER, answer=views.RoomView, errors=HIDDEN)
    async def get_room(room_id: str) -> Response:
        return _answer(core, await core.rooms.get(await user_of(core, request), room_id))

    @routes.put(ROOM)
    @describe("Change a room.", USER, body=rest.RoomChange, answer=views.RoomView, errors=HIDDEN)
    async def update_room(room_id: str) -> Response:
        principal = await user_of(core, request)
        change = structured(await json_body(), rest.RoomChange)
        return _answer(core, await core.rooms.update(principal, room_id, change.fields()))

    @routes.delete(ROOM)
    @describe("Delete a room.", USER, answer=None, more={"message": str}, errors=HIDDEN)
    async def delete_room(room_id: str) -> Response:
        await core.rooms.delete(await user_of(core, request), room_id)
        return success(None, message="The chatroom was deleted.")


def _add_members(routes: Blueprint, core: Core) -> None:
    @routes.post(f"{ROOM}/join")
    @describe("Join a room. Idempotent.", USER, answer=views.RoomView, errors=HIDDEN)
    async def join(room_id: str) -> Response:
        return _answer(core, await core.rooms.join(await user_of(core, request), room_id))

    @routes.post(f"{ROOM}/leave")
    @describe("Leave a room. Idempotent.", USER, answer=views.RoomView, errors=HIDDEN)
    async def leave(room_id: str) -> Response:
        return _answer(core, await core.rooms.leave(await user_of(core, request), room_id))

    @routes.post(f"{ROOM}/members")
    @describe("Add a member. Idempotent.", USER, body=rest.NewMember, answer=views.RoomView, errors=HIDDEN)
    async def add_member(room_id: str) -> Response:
        principal = await user_of(core, request)
        member = structured(await json_body(), rest.NewMember)
        return _answer(core, await core.rooms.add_member(principal, room_id, member.user_id))

    @routes.delete(f"{ROOM}/members/<path:user_id>")  # a user id may contain slashes
    @describe("Remove a member.", USER, answer=views.RoomView, errors=[*HIDDEN, Code.CONFLICT])
    async def remove_member(room_id: str, user_id: str) -> Response:
        return _answer(core, await core.rooms.remove_member(await user_of(core, request), room_id, user_id))

    @routes.get(f"{ROOM}/members")
    @describe(
        "List the members, the first to join first.",
        USER,
        query=rest.PageQuery,
        answer=list[views.MemberView],
        more=PAGED,
        errors=HIDDEN,
    )
    async def list_members(room_id: str) -> Response:
        principal = await user_of(core, request)
        page = rest.page_of(request.args, DEFAULT_MEMBERS)
        members, total = await core.rooms.members(principal, room_id, limit=page.limit, offset=page.offset)
        return success([views.member(member) for member in members], pagination=page.pagination(total))


def _add_messages(routes: Blueprint, core: Core) -> None:
    @routes.get(f"{ROOM}/messages")
    @describe(
        "List messages, the newest first.",
        USER,
        query=rest.MessagesQuery,
        answer=list[views.MessageView],
        more=PAGED,
        errors=HIDDEN,
    )
    async def list_messages(room_id: str) -> Response:
        principal = await user_of(core, request)
        page, before = rest.messages_page_of(request.args, DEFAULT_MESSAGES)
        messages, total = await core.messages.page(
            principal, room_id, limit=page.limit, offset=page.offset, before=before
        )
        return success([views.message(message) for message in messages], pagination=page.pagination(total))

    @routes.post(f"{ROOM}/messages")
    @describe("Post a message.", USER, body=rest.NewMessage, answer=views.PostedView, status=201, errors=HIDDEN)
    async def post_message(room_id: str) -> Response:
        principal = await user_of(core, request)
        new = structured(await json_body(), rest.NewMessage)
        posted = await core.messages.post(
            principal,
            room_id,
            new.message,
            limit=lambda: core.limits.messages.spend(principal.user_id),
            client_message_id=new.client_message_id,
        )
        return success(views.posted(posted.message), 201)


def _add_notifications(routes: Blueprint, core: Core) -> None:
    @routes.get(NOTIFICATIONS)
    @describe(
        "List the caller's notifications, the newest first.",
        USER,
        query=rest.PageQuery,
        answer=list[views.NotificationView],
        more=PAGED,
    )
    async def list_notifications() -> Response:
        principal = await user_of(core, request)
        page = rest.page_of(request.args, DEFAULT_NOTIFICATIONS)
        found, total = await core.notifications.list(principal.user_id, limit=page.limit, offset=page.offset)
        return success([views.notification(one) for one in found], pagination=page.pagination(total))

    @routes.post(f"{NOTIFICATIONS}/send")
    @describe("Notify a user.", BACKEND, body=rest.NewNotification, answer=views.SentView, status=201)
    async def send_notification() -> Response:
        principal = await principal_of(core, request)
        if not is_backend(principal):
            raise RequestError(
                Code.FORBIDDEN, "Only an admin, or an API key with scope publish, may send notifications."
            )
        new = structured(await json_body(), rest.NewNotification)
        sent = await core.notifications.send(new.user_id, title=new.title, message=new.message, priority=new.priority)
        return success(sent, 201)

    @routes.put(f"{NOTIFICATIONS}/<notification_id>/read")
    @describe("Mark a notification as read.", USER, answer=views.NotificationView, errors=[Code.NOT_FOUND])
    async def mark_read(notification_id: str) -> Response:
        principal = await user_of(core, request)
        return success(views.notification(await core.notifications.mark_read(principal.user_id, notification_id)))

    @routes.put(f"{NOTIFICATIONS}/read-all")
    @describe("Mark all notifications as read.", USER, answer=views.UpdatedView)
    async def mark_all_read() -> Response:
        principal = await user_of(core, request)
        return success({"updated": await core.notifications.mark_all_read(principal.user_id)})


def _answer(core: Core, room: Room, status: int = 200) -> Response:
    return success(views.room(room, core.rooms.active_now(room.id)), status)
