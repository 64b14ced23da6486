"""Requests and answers of the `live` REST API: what fields must be, and how rooms and messages look. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs

from relay.auth.verifier import is_user_id
from relay.chat.notifications import PRIORITIES
from relay.chat.rooms import MAX_CLIENT_MESSAGE_ID_CHARACTERS, MAX_MESSAGE_CHARACTERS, ROOM_ID_RULE, is_room_id
from relay.ground.clock import iso_ms
from relay.ground.errors import Code, FieldError, RequestError
from relay.store.messages import Message
from relay.store.notifications import Notification
from relay.store.rooms import ROOM_TYPES, Member, Room, RoomType

MAX_NAME_CHARACTERS = 100
MAX_DESCRIPTION_CHARACTERS = 2000
MAX_TITLE_CHARACTERS = 200
MAX_NOTIFICATION_CHARACTERS = 4000
MAX_LIMIT = 100
MAX_PAGE = 1_000_000_000

Check = Callable[[Any], Any]
"""Returns a field's value as it is used, or raises ValueError that says what it must be."""


def text(max_characters: int) -> Check:
    """A text that is not empty, without the space around it."""

    def check(value: Any) -> str:
        if not isinstance(value, str) or not 0 < len(value.strip()) <= max_characters:
            raise ValueError(f"must be a text of 1 to {max_characters} characters")
        return value.strip()

    return check


def text_or_null(max_characters: int) -> Check:
    """A text, which may be empty, or null."""

    def check(value: Any) -> str | None:
        if value is not None and (not isinstance(value, str) or len(value) > max_characters):
            raise ValueError(f"must be null or a text of at most {max_characters} characters")
        return value

    return check


def one_of(*values: str) -> Check:
    """One of these texts."""

    def check(value: Any) -> str:
        if value not in values or not isinstance(value, str):
            raise ValueError(f"must be one of {', '.join(values)}")
        return value

    return check


def user_id(value: Any) -> str:
    """A user's id."""
    if not is_user_id(value):
        raise ValueError("must be a user's id")
    return str(value)


def _room_id_or_null(value: Any) -> str | None:
    if value is not None and (not isinstance(value, str) or not is_room_id(value)):
        raise ValueError(ROOM_ID_RULE)
    return value


def _client_message_id_or_null(value: Any) -> str | None:
    # Not trimmed: it is opaque, and the same over the WebSocket.
    if value is not None and (not isinstance(value, str) or not 0 < len(value) <= MAX_CLIENT_MESSAGE_ID_CHARACTERS):
        raise ValueError(f"must be a text of 1 to {MAX_CLIENT_MESSAGE_ID_CHARACTERS} characters")
    return value


def _page(value: str) -> int:
    return min(_positive(value), MAX_PAGE)


def _limit(value: str) -> int:
    return min(_positive(value), MAX_LIMIT)


def _positive(value: str) -> int:
    digits = value.lstrip("0")
    if not digits or not value.isascii() or not value.isdecimal():
        raise ValueError("must be an integer from 1")
    return int(digits[:18])  # one with more digits is past every bound anyway


ROOM_FIELDS: Mapping[str, Check] = {
    "name": text(MAX_NAME_CHARACTERS),
    "description": text_or_null(MAX_DESCRIPTION_CHARACTERS),
    "type": one_of(*ROOM_TYPES),
}
NEW_ROOM_FIELDS: Mapping[str, Check] = {**ROOM_FIELDS, "id": _room_id_or_null}
MESSAGE_FIELDS: Mapping[str, Check] = {
    "message": text(MAX_MESSAGE_CHARACTERS),
    "clientMessageId": _client_message_id_or_null,
}
MEMBER_FIELDS: Mapping[str, Check] = {"userId": user_id}
NOTIFICATION_FIELDS: Mapping[str, Check] = {
    "userId": user_id,
    "title": text(MAX_TITLE_CHARACTERS),
    "message": text(MAX_NOTIFICATION_CHARACTERS),
    "priority": one_of(*PRIORITIES),
}
PAGE_FIELDS: Mapping[str, Check] = {"page": _page, "limit": _limit}
ROOMS_PAGE_FIELDS: Mapping[str, Check] = {**PAGE_FIELDS, "type": one_of(*ROOM_TYPES)}


def fields_of(
    body: Mapping[str, Any], fields: Mapping[str, Check], *, required: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Return those of `fields` that a body, or a query, has, checked; others are passed over.

    Raises:
        RequestError: with every field that is missing or wrong.
    """
    values: dict[str, Any] = {}
    problems = [FieldError(name, "is required") for name in required if name not in body]
    for name, check in fields.items():
        if name in body:
            try:
                values[name] = check(body[name])
            except ValueError as error:
                problems.append(FieldError(name, str(error)))
    if problems:
        summary = "; ".join(f"{problem.field} {problem.message}" for problem in problems)
        raise RequestError(Code.INVALID_REQUEST, summary, fields=problems)
    return values


@attrs.frozen
class Page:
    """Which part of a list a request wants."""

    page: int
    limit: int

    @property
    def offset(self) -> int:
        """How many entries come before it."""
        return (self.page - 1) * self.limit

    def pagination(self, total: int) -> dict[str, int]:
        """Return what the answer says about the list."""
        return {"page": self.page, "limit": self.limit, "total": total, "pages": -(-total // self.limit)}


def page_of(query: Mapping[str, str], default_limit: int) -> Page:
    """Return the page that a query asks for; a limit over MAX_LIMIT is MAX_LIMIT. Raises as `fields_of`."""
    fields = fields_of(query, PAGE_FIELDS)
    return Page(fields.get("page", 1), fields.get("limit", default_limit))


def rooms_page_of(query: Mapping[str, str], default_limit: int) -> tuple[Page, RoomType | None]:
    """Return the page of rooms that a query asks for, and of which type (None: all). Raises as `fields_of`."""
    fields = fields_of(query, ROOMS_PAGE_FIELDS)
    return Page(fields.get("page", 1), fields.get("limit", default_limit)), fields.get("type")


def room(stored: Room, active_now: int) -> dict[str, Any]:
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


def message(stored: Message) -> dict[str, Any]:
    """Return a message as lists show it, with its author."""
    author = {"firstName": stored.first_name, "lastName": stored.last_name, "avatar": stored.avatar}
    return {
        "id": stored.id,
        "chatroomId": stored.room_id,
        "userId": stored.user_id,
        "user": author,
        "message": stored.text,
        "createdAt": iso_ms(stored.created_at),
    }


def posted(stored: Message) -> dict[str, Any]:
    """Return a message as the answer to posting it: its author knows who it is."""
    shown = message(stored)
    del shown["user"]
    return shown


def member(stored: Member) -> dict[str, Any]:
    """Return a member as answers show it."""
    return {
        "userId": stored.user_id,
        "firstName": stored.first_name,
        "lastName": stored.last_name,
        "avatar": stored.avatar,
        "joinedAt": iso_ms(stored.joined_at),
    }


def notification(stored: Notification) -> dict[str, Any]:
    """Return a notification as lists show it."""
    data = {"title": None, **stored.data}
    return {**data, "id": stored.id, "read": stored.read_at is not None, "createdAt": iso_ms(stored.created_at)}
