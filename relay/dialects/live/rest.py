"""Requests to the `live` REST API: their fields and the checks of them. Pure."""

# ruff: noqa: RUF009 - field() returns an attrs field

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any

import attrs

from relay.api.bodies import field, structured
from relay.auth.verifier import is_user_id
from relay.chat.messages import MAX_MESSAGE_CHARACTERS
from relay.chat.notifications import DEFAULT_PRIORITY, PRIORITIES, Priority
from relay.chat.rooms import MAX_NAME_CHARACTERS
from relay.ground.schema import NOT_BLANK, Shaped, shaped
from relay.model.namespaces import MAX_ID_CHARACTERS, ROOM_ID_PATTERN, ROOM_ID_RULE, is_room_id
from relay.model.publication import MAX_CLIENT_MESSAGE_ID_CHARACTERS
from relay.store.rooms import ROOM_TYPES, RoomType

MAX_DESCRIPTION_CHARACTERS = 2000
"""Length of a room's description."""
MAX_TITLE_CHARACTERS = 200
"""Length of a notification's title."""
MAX_NOTIFICATION_CHARACTERS = 4000
"""Length of a notification's message."""
MAX_LIMIT = 100
"""Entries of one page."""
MAX_PAGE = 1_000_000_000
"""Number of the last page, so that offsets fit into the 64 bits of SQLite."""
USER_ID = {"type": "string", "format": "user-id", "minLength": 1, "maxLength": MAX_ID_CHARACTERS}
"""The schema of a user's id. The format stands for: every character is printable."""


def text(max_characters: int) -> Shaped:
    """Return the check of a text that is not empty. It removes the space around the text."""

    @shaped({"type": "string", "minLength": 1, "maxLength": max_characters, "pattern": NOT_BLANK})
    def check(value: Any) -> str:
        if not isinstance(value, str) or not 0 < len(value.strip()) <= max_characters:
            raise ValueError(f"must be a text of 1 to {max_characters} characters")
        return value.strip()

    return check


def text_or_null(max_characters: int) -> Shaped:
    """Return the check of a text, which may be empty, or null."""

    @shaped({"type": ["string", "null"], "maxLength": max_characters})
    def check(value: Any) -> str | None:
        if value is not None and (not isinstance(value, str) or len(value) > max_characters):
            raise ValueError(f"must be null or a text of at most {max_characters} characters")
        return value

    return check


def one_of(*values: str) -> Shaped:
    """Return the check of a field that is one of these texts."""

    @shaped({"type": "string", "enum": list(values)})
    def check(value: Any) -> str:
        if value not in values or not isinstance(value, str):
            raise ValueError(f"must be one of {', '.join(values)}")
        return value

    return check


@shaped(USER_ID)
def user_id(value: Any) -> str:
    """Check a user's id."""
    if not is_user_id(value):
        raise ValueError("must be a user's id")
    return str(value)


@shaped({"type": ["string", "null"], "pattern": f"^{ROOM_ID_PATTERN}$"})
def _room_id_or_null(value: Any) -> str | None:
    if value is not None and (not isinstance(value, str) or not is_room_id(value)):
        raise ValueError(ROOM_ID_RULE)
    return value


@shaped({"type": ["string", "null"], "minLength": 1, "maxLength": MAX_CLIENT_MESSAGE_ID_CHARACTERS})
def _client_message_id_or_null(value: Any) -> str | None:
    # Not trimmed: the id is opaque, and the same over the WebSocket.
    if value is not None and (not isinstance(value, str) or not 0 < len(value) <= MAX_CLIENT_MESSAGE_ID_CHARACTERS):
        raise ValueError(f"must be a text of 1 to {MAX_CLIENT_MESSAGE_ID_CHARACTERS} characters")
    return value


@shaped({"type": "integer", "minimum": 1, "description": f"A page past {MAX_PAGE} is that one."})
def _page(value: str) -> int:
    return min(_positive(value), MAX_PAGE)


@shaped(
    {"type": "integer", "minimum": 1, "description": f"Entries of the page. More than {MAX_LIMIT} are {MAX_LIMIT}."}
)
def _limit(value: str) -> int:
    return min(_positive(value), MAX_LIMIT)


@shaped({"type": "string", "description": "The id of a message: the page has the messages before it."})
def _text(value: str) -> str:
    return value


def _positive(value: str) -> int:
    digits = value.lstrip("0")
    if not digits or not value.isascii() or not value.isdecimal():
        raise ValueError("must be an integer from 1")
    return int(digits[:18])  # a number with more digits exceeds every bound


class Unchanged(enum.Enum):
    """The value of a field that a request leaves as it is."""

    UNCHANGED = enum.auto()


@attrs.frozen
class NewRoom:
    """The body of `POST /v1/chatrooms`."""

    name: str = field(text(MAX_NAME_CHARACTERS))
    description: str | None = field(text_or_null(MAX_DESCRIPTION_CHARACTERS), default=None)
    type: RoomType = field(one_of(*ROOM_TYPES), default="public")
    id: str | None = field(_room_id_or_null, default=None)


@attrs.frozen
class RoomChange:
    """The body of `PUT /v1/chatrooms/{id}`."""

    name: str | Unchanged = field(text(MAX_NAME_CHARACTERS), default=Unchanged.UNCHANGED)
    description: str | Unchanged | None = field(text_or_null(MAX_DESCRIPTION_CHARACTERS), default=Unchanged.UNCHANGED)
    type: RoomType | Unchanged = field(one_of(*ROOM_TYPES), default=Unchanged.UNCHANGED)

    def fields(self) -> dict[str, Any]:
        """Return the fields that change."""
        return {name: value for name, value in attrs.asdict(self).items() if value is not Unchanged.UNCHANGED}


@attrs.frozen
class NewMessage:
    """The body of `POST /v1/chatrooms/{id}/messages`."""

    message: str = field(text(MAX_MESSAGE_CHARACTERS))
    client_message_id: str | None = field(_client_message_id_or_null, key="clientMessageId", default=None)


@attrs.frozen
class NewMember:
    """The body of `POST /v1/chatrooms/{id}/members`."""

    user_id: str = field(user_id, key="userId")


@attrs.frozen
class NewNotification:
    """The body of `POST /v1/notifications/send`."""

    user_id: str = field(user_id, key="userId")
    title: str = field(text(MAX_TITLE_CHARACTERS))
    message: str = field(text(MAX_NOTIFICATION_CHARACTERS))
    priority: Priority = field(one_of(*PRIORITIES), default=DEFAULT_PRIORITY)


@attrs.frozen
class PageQuery:
    """The query of a list."""

    page: int = field(_page, default=1)
    limit: int | None = field(_limit, default=None)


@attrs.frozen
class MessagesQuery(PageQuery):
    """The query of the list of messages. `before` replaces `page`."""

    before: str | None = field(_text, default=None)


@attrs.frozen
class RoomsQuery(PageQuery):
    """The query of the list of rooms."""

    type: RoomType | None = field(one_of(*ROOM_TYPES), default=None)


@attrs.frozen
class Page:
    """The part of a list that a request asks for."""

    page: int
    limit: int

    @property
    def offset(self) -> int:
        """The number of entries before the page."""
        return (self.page - 1) * self.limit

    def pagination(self, total: int) -> dict[str, int]:
        """Return the `pagination` of the answer."""
        return {"page": self.page, "limit": self.limit, "total": total, "pages": -(-total // self.limit)}


def page_of(query: Mapping[str, str], default_limit: int) -> Page:
    """Return the page that a query asks for; a limit over MAX_LIMIT becomes MAX_LIMIT. Raises as `structured`."""
    return _page_of(structured(query, PageQuery), default_limit)


def rooms_page_of(query: Mapping[str, str], default_limit: int) -> tuple[Page, RoomType | None]:
    """Return the page of rooms that a query asks for, and their type (None: all types). Raises as `structured`."""
    asked = structured(query, RoomsQuery)
    return _page_of(asked, default_limit), asked.type


def messages_page_of(query: Mapping[str, str], default_limit: int) -> tuple[Page, str | None]:
    """Return the page of messages that a query asks for, and the message before which it ends. Raises as `structured`."""
    asked = structured(query, MessagesQuery)
    return _page_of(asked, default_limit), asked.before


def _page_of(asked: PageQuery, default_limit: int) -> Page:
    return Page(asked.page, default_limit if asked.limit is None else asked.limit)
