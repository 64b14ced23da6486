"""The REST routes of channels by name: history, presence, and publishing for clients without a connection."""

# ruff: noqa: RUF009 - field() returns an attrs field

from __future__ import annotations

from typing import Any

import attrs
from quart import Blueprint, Response, request

from relay.access.publishing import MAX_CONNECTION_ID_CHARACTERS
from relay.access.reading import DEFAULT_PAGE, MAX_PAGE
from relay.admission.addresses import limit_key
from relay.api import views
from relay.api.app import json_body, success
from relay.api.authentication import caller_of, publisher_of, user_of
from relay.api.bodies import field, structured
from relay.api.operation import PUBLISHER, READER, describe
from relay.api.publish import allow_item
from relay.config.namespaces import TYPE_PATTERN
from relay.core import Core
from relay.ground.errors import Code, invalid_field
from relay.ground.schema import Shaped, reference, shaped
from relay.model.namespaces import TYPE_RULE, is_type
from relay.model.principal import Principal
from relay.model.publication import MAX_CLIENT_MESSAGE_ID_CHARACTERS, Position

CHANNEL = "/v1/channels/<path:name>"
"""An id may contain slashes, which arrive decoded."""
MAX_DIGITS = 18
"""Digits of an offset in a query."""
MAX_OFFSET = 10**MAX_DIGITS - 1
"""The highest offset in a query."""


def _integer(value: str) -> int:
    if not value.isascii() or not value.isdecimal() or len(value) > MAX_DIGITS:
        raise ValueError(f"must be an integer from 0, of at most {MAX_DIGITS} digits")
    return int(value)


@shaped(
    {
        "type": "integer",
        "minimum": 0,
        "maximum": MAX_OFFSET,
        "description": "An offset: the page has the publications before it.",
    }
)
def _offset(value: str) -> int:
    return _integer(value)


@shaped(
    {"type": "integer", "minimum": 1, "maximum": MAX_OFFSET, "description": f"More than {MAX_PAGE} are {MAX_PAGE}."}
)
def _limit(value: str) -> int:
    number = _integer(value)
    if number < 1:
        raise ValueError("must be an integer from 1")
    return min(number, MAX_PAGE)


@shaped(
    {
        "type": "string",
        "pattern": f"^[0-9]{{1,{MAX_DIGITS}}},",
        "description": "A position, as `<offset>,<epoch>`: the page has the publications that follow it.",
    }
)
def _position(value: str) -> Position:
    offset, comma, epoch = value.partition(",")
    if not comma:
        raise ValueError("must be a position: <offset>,<epoch>")
    return Position(_integer(offset), epoch)


def _text_or_null(maximum: int) -> Shaped:
    @shaped({"type": ["string", "null"], "minLength": 1, "maxLength": maximum})
    def check(value: Any) -> str | None:
        if value is not None and (not isinstance(value, str) or not 0 < len(value) <= maximum):
            raise ValueError(f"must be a text of 1 to {maximum} characters")
        return value

    return check


@shaped({"type": ["string", "null"], "pattern": f"^{TYPE_PATTERN}$"})
def _type_or_null(value: Any) -> str | None:
    if value is not None and (not isinstance(value, str) or not is_type(value)):
        raise ValueError(f"must be {TYPE_RULE}")
    return value


@shaped(reference("Json"))
def _any(value: Any) -> Any:
    return value


@attrs.frozen
class HistoryQuery:
    """The query of `GET /v1/channels/{name}/history`."""

    limit: int = field(_limit, default=DEFAULT_PAGE)
    before: int | None = field(_offset, default=None)
    since: Position | None = field(_position, default=None)


@attrs.frozen
class NewPublication:
    """The body of `POST /v1/channels/{name}/publish`."""

    data: Any = field(_any)
    type: str | None = field(_type_or_null, default=None)
    client_message_id: str | None = field(
        _text_or_null(MAX_CLIENT_MESSAGE_ID_CHARACTERS), key="clientMessageId", default=None
    )
    exclude: str | None = field(_text_or_null(MAX_CONNECTION_ID_CHARACTERS), default=None)


def blueprint(core: Core) -> Blueprint:
    """Return the routes."""
    routes = Blueprint("channels", __name__)

    @routes.get(f"{CHANNEL}/history")
    @describe(
        "Return a page of a channel's history.",
        READER,
        query=HistoryQuery,
        answer=views.HistoryView,
        errors=[Code.NOT_FOUND],
    )
    async def history(name: str) -> Response:
        principal = await _reader(core)
        query = structured(request.args, HistoryQuery)
        if query.before is not None and query.since is not None:
            raise invalid_field("before", "cannot be given together with since")
        channel = core.namespaces.parse(name)
        page = await core.reading.history(principal, channel, limit=query.limit, before=query.before, since=query.since)
        return success(views.history(name, page))

    @routes.get(f"{CHANNEL}/presence")
    @describe(
        "Return the users that are present.",
        READER,
        answer=views.PresenceView,
        errors=[Code.INVALID_REQUEST, Code.UNKNOWN_CHANNEL, Code.NOT_FOUND],
    )
    async def presence(name: str) -> Response:
        principal = await _reader(core)
        return success(views.presence(name, await core.reading.presence(principal, core.namespaces.parse(name))))

    @routes.post(f"{CHANNEL}/publish")
    @describe(
        "Publish as a user, without a connection.",
        PUBLISHER,
        body=NewPublication,
        answer=views.PublishedView,
        errors=[Code.UNKNOWN_CHANNEL, Code.NOT_FOUND, Code.CONFLICT],
    )
    async def publish(name: str) -> Response:
        principal = await _publisher(core)
        allow_item(core)
        new = structured(await json_body(), NewPublication)
        item = {"data": new.data, "type": new.type, "idempotencyKey": new.client_message_id}
        if new.exclude is not None:
            item["exclude"] = new.exclude
        published = await core.client_publishing.publish(
            principal, core.namespaces.parse(name), item, document=await request.body
        )
        return success(views.published(name, published))

    return routes


async def _publisher(core: Core) -> Principal:
    """Return the principal of a request that publishes: a user, or a key that may publish everywhere.

    Raises:
        RequestError: as `user_of`.
    """
    caller = caller_of(core, request)
    if caller.is_bearer:
        return await user_of(core, request)
    return await publisher_of(core, caller)


async def _reader(core: Core) -> Principal | None:
    """Return the principal of a request; None for one without credentials, if a namespace is for anyone.

    Raises:
        RequestError: as `user_of`.
    """
    caller = caller_of(core, request)
    if not caller.authorization and caller.api_key is None and core.namespaces.has_anonymous_readers:
        core.limits.address_requests.spend(limit_key(caller.address))
        return None
    return await user_of(core, request)
