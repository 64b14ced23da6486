"""Reads the parameters of a management request, one by one. Each error names the parameter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quart import request

from relay.ground.errors import invalid_field
from relay.ground.schema import MAX_INTEGER, NOT_BLANK, Fields, Param, reference
from relay.model.namespaces import MAX_CHANNEL_CHARACTERS, MAX_ID_CHARACTERS
from relay.model.publication import Position

MAX_LONG_CHARACTERS = 16_384
"""Length of a token."""
MAX_LISTED = 1000
"""Texts in one list."""
MAX_PAGE = 200
"""Entries in one page of a list."""
MAX_LIMIT_DIGITS = 9
"""Digits of `limit`, leading zeros included."""
MAX_CURSOR_DIGITS = 15
"""Digits of a cursor that is a number. A JSON number holds so many exactly."""

TEXT = Param({"type": "string", "minLength": 1, "maxLength": MAX_ID_CHARACTERS}, required=True)
"""The schemas of what the methods of `Params` read: this one of `text`, the next ones in their order."""
USER_OR_CLIENT = Param(
    {"type": ["string", "null"], "maxLength": MAX_ID_CHARACTERS, "description": "`user` or `client` must be given."}
)
"""The schema of `optional`, in a body that must name a user or a connection."""
OPTIONAL = Param({"type": ["string", "null"], "maxLength": MAX_ID_CHARACTERS})
LONG_TEXT = Param({"type": ["string", "null"], "maxLength": MAX_LONG_CHARACTERS})
TEXTS = Param({"type": ["array", "null"], "items": {"type": "string"}, "maxItems": MAX_LISTED})
FLAG = Param({"type": ["boolean", "null"]})
INTEGER = Param({"type": ["integer", "null"], "minimum": -MAX_INTEGER, "maximum": MAX_INTEGER})
POSITION = Param(
    {
        "type": ["object", "null"],
        "properties": {
            "offset": {"type": ["integer", "null"], "minimum": 0, "maximum": MAX_INTEGER},
            "epoch": OPTIONAL.schema,
        },
    }
)
CHANNEL = Param(reference("Channel"), required=True)
"""The schema of the full name of a channel."""
PATTERN = Param({"type": ["string", "null"], "maxLength": MAX_CHANNEL_CHARACTERS})
"""The schema of a pattern of such names."""
PAGE: Fields = {
    "limit": Param({"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": MAX_PAGE}),
    "cursor": Param({"type": "string", "maxLength": MAX_ID_CHARACTERS, "description": "The cursor of the last page."}),
}
"""The query of a list."""
NUMBERED_PAGE: Fields = {
    **PAGE,
    "cursor": Param(
        {
            "type": "string",
            "pattern": f"^[0-9]{{0,{MAX_CURSOR_DIGITS}}}$",
            "description": "The cursor of the last page.",
        }
    ),
}
"""The query of a list whose cursors are numbers."""
NEW_USER = Param({**TEXT.schema, "format": "user-id", "pattern": NOT_BLANK}, required=True)
"""The schema of `new_user`."""


class Params:
    """The parameters of one request. A parameter that is null is missing. Each method raises RequestError."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._given = given

    def text(self, name: str, maximum: int = MAX_ID_CHARACTERS) -> str:
        """Return a text that must be there, with 1 to `maximum` characters."""
        value = self.optional(name, maximum)
        if value is None:
            raise invalid_field(name, "is required and must be a text")
        return value

    def optional(self, name: str, maximum: int = MAX_ID_CHARACTERS) -> str | None:
        """Return a text of at most `maximum` characters; None if it is missing or empty."""
        value = self._given.get(name)
        if value is None or value == "":
            return None
        if not isinstance(value, str) or len(value) > maximum:
            raise invalid_field(name, f"must be a text of at most {maximum} characters")
        return value

    def new_user(self, name: str) -> str:
        """Return the id of a user, which must be printable and more than spaces."""
        user = self.text(name)
        if not user.isprintable() or not user.strip():
            raise invalid_field(name, f"must be 1 to {MAX_ID_CHARACTERS} printable characters")
        return user

    def long_text(self, name: str) -> str | None:
        """Return a text of at most MAX_LONG_CHARACTERS, such as a token; None if it is missing."""
        value = self._given.get(name)
        if not isinstance(value, str | None) or len(value or "") > MAX_LONG_CHARACTERS:
            raise invalid_field(name, f"must be a text of at most {MAX_LONG_CHARACTERS} characters")
        return value or None

    def texts(self, name: str) -> list[str]:
        """Return a list of texts; empty if it is missing."""
        value = self._given.get(name)
        if value is None:
            return []
        if not isinstance(value, list) or len(value) > MAX_LISTED or not all(isinstance(one, str) for one in value):
            raise invalid_field(name, f"must be a list of at most {MAX_LISTED} texts")
        return value

    def flag(self, name: str) -> bool:
        """Return true or false; false if it is missing."""
        value = self._given.get(name)
        if not isinstance(value, bool | None):
            raise invalid_field(name, "must be true or false")
        return bool(value)

    def integer(self, name: str, default: int) -> int:
        """Return an integer; `default` if it is missing."""
        value = self._given.get(name)
        if value is None:
            return default
        if isinstance(value, float) and value.is_integer():  # JSON has one kind of number, and 1.0 is an integer in it
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or abs(value) > MAX_INTEGER:
            raise invalid_field(name, "must be an integer of 64 bits")
        return value

    def object(self, name: str) -> Params:
        """Return the parameters inside of an object; none if it is missing."""
        value = self._given.get(name)
        if value is None:
            return Params({})
        if not isinstance(value, dict):
            raise invalid_field(name, "must be an object")
        return Params(value)

    def position(self, name: str) -> Position | None:
        """Return a position; None if it is missing. Without an epoch it is one of any epoch."""
        if self._given.get(name) is None:
            return None
        given = self.object(name)
        offset = given.integer("offset", 0)
        if offset < 0:
            raise invalid_field(name, "must have an offset of at least 0")
        return Position(offset, given.optional("epoch") or "")

    def refuse(self, *names: str) -> None:
        """Raise if a parameter is given that Relay does not support and must not ignore."""
        for name in names:
            if self._given.get(name):
                raise invalid_field(name, "is not supported")


def page_query() -> tuple[Params, int]:
    """Return the query of Quart's request, and how many entries its page may have. Raises RequestError."""
    given = request.args.get("limit", str(MAX_PAGE))
    is_number = given.isascii() and given.isdigit() and len(given) <= MAX_LIMIT_DIGITS
    if not (is_number and 1 <= int(given) <= MAX_PAGE):
        raise invalid_field("limit", f"must be 1 to {MAX_PAGE}")
    return Params(request.args), int(given)


def number_cursor(query: Params) -> int:
    """Return the cursor of a list whose cursors are numbers; 0 without one. Raises RequestError."""
    after = query.optional("cursor") or "0"
    if not (after.isascii() and after.isdigit() and len(after) <= MAX_CURSOR_DIGITS):
        raise invalid_field("cursor", "must be the cursor of the last page")
    return int(after)
