"""The REST routes of the `sse` dialect: tickets, and the answer to requests at the path of the streams that begin none."""

from __future__ import annotations

from typing import TypedDict

import attrs
from quart import Blueprint, Response, request

from relay.api.app import json_body, success
from relay.api.authentication import user_of
from relay.api.bodies import field, structured
from relay.api.operation import PERSON, STREAM, describe
from relay.core import Core
from relay.dialects import wire
from relay.dialects.request_fields import MAX_LAST
from relay.dialects.sse import protocol
from relay.dialects.sse.stream import check_channels, check_user, granted
from relay.ground.clock import iso_ms
from relay.ground.errors import Code, RequestError
from relay.ground.schema import Fields, Param, Schema, reference, shaped

PATH = "/v1/sse"
TICKETS = "/v1/tickets"
CONTENT_TYPE = "text/event-stream"

_CHANNELS: Schema = {"type": "array", "items": reference("Channel"), "minItems": 1, "uniqueItems": True}
_QUERY: Fields = {
    "channel": Param(_CHANNELS, required=True),
    "last": Param({"type": "integer", "minimum": 0, "maximum": MAX_LAST, "default": 0}),
    "last_event_id": Param({"type": "string"}),
    "ticket": Param({"type": "string"}),
}
"""The query of a stream. See `protocol.read_query`."""


class TicketView(TypedDict):
    """A ticket for streams, and the time until which it may begin one."""

    ticket: str
    expiresAt: str


@shaped(_CHANNELS)
def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ValueError("must be an array of texts")
    return tuple(value)


@attrs.frozen
class TicketRequest:
    """The body of a request for a ticket."""

    channels: tuple[str, ...] = field(_texts)


def blueprint(core: Core) -> Blueprint:
    """Return the REST routes."""
    settings = core.config.dialects.sse
    routes = Blueprint("sse", __name__)

    @routes.post(TICKETS)
    @describe(
        "Issue a ticket for a stream.",
        PERSON,
        body=TicketRequest,
        answer=TicketView,
        status=201,
        errors=[Code.UNKNOWN_CHANNEL, Code.NOT_FOUND],
    )
    async def issue_ticket() -> Response:
        principal = check_user(await user_of(core, request))
        names = list(structured(await json_body(), TicketRequest).channels)
        channels = wire.read(protocol.read_channels, names, core.namespaces, settings.max_channels)
        await check_channels(core, principal, channels)
        texts = [channel.text for channel in channels]
        ticket, until_ms = await core.auth.tickets.issue(
            principal, texts, granted(principal, channels), settings.ticket_period
        )
        return success(protocol.issued(ticket, iso_ms(until_ms)), 201)

    @routes.get(PATH)
    @describe(
        "Stream publications and signals of channels as events.",
        STREAM,
        query=_QUERY,
        headers={"Last-Event-ID": str},
        media={CONTENT_TYPE: str},
        errors=[Code.UNKNOWN_CHANNEL, Code.NOT_FOUND],
    )
    async def stream() -> Response:
        # The server takes every GET without a body before Quart sees it. This is one with a body, or a HEAD.
        if request.method == "HEAD":
            return Response(b"", 200, {"Content-Type": CONTENT_TYPE, "Cache-Control": "no-store"})
        raise RequestError(Code.INVALID_REQUEST, "The request for a stream has no body.")

    return routes
