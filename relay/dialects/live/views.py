"""Rooms, members, messages and notifications as the REST answers of `live` show them. Pure."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict

from relay.chat.notifications import Priority
from relay.ground.clock import iso_ms
from relay.store.messages import Message
from relay.store.notifications import Notification
from relay.store.rooms import Member, Room, RoomType


class RoomView(TypedDict):
    """A chat room. `activeNow` counts the users that are subscribed now."""

    id: str
    name: str
    description: str | None
    type: RoomType
    memberCount: int
    activeNow: int
    lastMessageAt: str | None
    createdBy: str
    createdAt: str


class AuthorView(TypedDict):
    """The profile of a message's author. Fields are null until the user was seen."""

    firstName: str | None
    lastName: str | None
    avatar: str | None


class PostedView(TypedDict):
    """A message as the answer to its author."""

    id: str
    chatroomId: str
    userId: str
    message: str
    createdAt: str


class MessageView(PostedView):
    """A message of a room, with its author."""

    user: AuthorView


class MemberView(AuthorView):
    """A member of a room."""

    userId: str
    joinedAt: str


class SentView(TypedDict):
    """A notification as it was published."""

    id: str
    title: str | None
    message: str
    priority: Priority


class NotificationView(TypedDict):
    """A stored notification. It has every other field that was published, too."""

    id: str
    title: str | None
    message: str
    priority: NotRequired[str]
    read: bool
    createdAt: str


class UpdatedView(TypedDict):
    """The number of notifications that were not read before."""

    updated: int


def room(stored: Room, active_now: int) -> RoomView:
    """Return a room as answers show it."""
    return {
        "id": stored.id,
        "name": stored.name,
        "description": stored.description,
        "type": stored.type,
        "memberCount": stored.member_count,
        "activeNow": active_now,
        "lastMessageAt": None if stored.last_message_at is None else iso_ms(stored.last_message_at),
        "createdBy": stored.created_by,
        "createdAt": iso_ms(stored.created_at),
    }


def message(stored: Message) -> MessageView:
    """Return a message as lists show it, with its author."""
    author: AuthorView = {"firstName": stored.first_name, "lastName": stored.last_name, "avatar": stored.avatar}
    return {**posted(stored), "user": author}


def posted(stored: Message) -> PostedView:
    """Return a message as the answer to its author, without the author's profile."""
    return {
        "id": stored.id,
        "chatroomId": stored.room_id,
        "userId": stored.user_id,
        "message": stored.text,
        "createdAt": iso_ms(stored.created_at),
    }


def member(stored: Member) -> MemberView:
    """Return a member as answers show it."""
    return {
        "userId": stored.user_id,
        "firstName": stored.first_name,
        "lastName": stored.last_name,
        "avatar": stored.avatar,
        "joinedAt": iso_ms(stored.joined_at),
    }


def notification(stored: Notification) -> dict[str, Any]:
    """Return a notification as lists show it: the fields of `NotificationView`, and all that was published."""
    data = {"title": None, **stored.data}
    return {**data, "id": stored.id, "read": stored.read_at is not None, "createdAt": iso_ms(stored.created_at)}
