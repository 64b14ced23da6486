"""The `sse` dialect on the wire: the query of a stream, and its events. Pure.

One whole exchange: `<` from the server, `!` published by a backend. A test runs it as it stands here. Each event is shown as an
object with its fields; an event without `event` is a publication.

    /v1/sse?channel=market:BTC&channel=trades
    < {"event": "relay:subscribed", "data": {"channel": "market:BTC", "offset": 0, "epoch": "a41b"},
       "id": "1407eb31~a41b~0.0,-"}
    < {"event": "relay:subscribed", "data": {"channel": "trades", "offset": 0, "epoch": "a41b"},
       "id": "1407eb31~a41b~0.0,0.0"}
    ! {"channel": "market:BTC", "data": {"price": 98500.5}}
    < {"id": "1407eb31~a41b~0.1,0.0", "data": {"type": "market:price", "channel": "market:BTC", "offset": 1,
       "data": {"price": 98500.5, "symbol": "BTC"}}}
    ! {"channel": "trades", "data": {"amount": 5}}
    < {"id": "1407eb31~a41b~0.1,0.1", "data": {"type": "trade:created", "channel": "trades", "offset": 1, "data": {"amount": 5}}}
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qsl

import attrs

from relay.dialects import wire
from relay.dialects.request_fields import MAX_LAST
from relay.dialects.sse import cursor
from relay.ground import strictjson
from relay.ground.errors import ProtocolError, RequestError
from relay.model.namespaces import ChannelName, Namespaces
from relay.model.publication import Position, Publication
from relay.transports.event_stream import block

MAX_FIELDS = 200
"""Fields of a query that are read: more than a stream may have channels."""


@attrs.frozen
class StreamRequest:
    """The query of a stream's URL, read."""

    channels: tuple[ChannelName, ...]
    last: int
    """The number of kept publications that each channel begins with, unless it resumes."""
    last_event_id: str | None
    """A cursor in the query; the one in the header Last-Event-ID counts before it."""
    ticket: str | None

    @property
    def names(self) -> list[str]:
        """The full names of the channels, in order."""
        return [channel.text for channel in self.channels]


def read_query(query: str, namespaces: Namespaces, max_channels: int) -> StreamRequest:
    """Read the query of a stream. Unknown fields are ignored.

    Raises:
        ProtocolError: a field is missing, wrong or given twice.
        RequestError: the name of a channel is not valid.
    """
    try:
        fields = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
    except ValueError as error:
        raise ProtocolError(f"The query must be UTF-8, with at most {MAX_FIELDS} fields.") from error
    channels = read_channels([value for name, value in fields if name == "channel"], namespaces, max_channels)
    last = _single(fields, "last")
    if last is not None and not (last.isascii() and last.isdigit() and len(last) < 6 and int(last) <= MAX_LAST):
        raise ProtocolError(f"last must be a number from 0 to {MAX_LAST}.")
    return StreamRequest(
        channels,
        0 if last is None else int(last),
        _single(fields, "last_event_id") or None,
        _single(fields, "ticket") or None,
    )


def read_channels(names: list[str], namespaces: Namespaces, max_channels: int) -> tuple[ChannelName, ...]:
    """Return the channels that these names name. Raises as `read_query`."""
    if not names:
        raise ProtocolError("Name at least one channel: /v1/sse?channel=NAME.")
    if len(names) > max_channels:
        raise ProtocolError(f"A stream may have at most {max_channels} channels, not {len(names)}.")
    channels = {channel.text: channel for channel in map(namespaces.parse, names)}
    if len(channels) < len(names):
        raise ProtocolError("A channel is named twice.")
    return tuple(channels.values())


def _single(fields: list[tuple[str, str]], name: str) -> str | None:
    values = [value for key, value in fields if key == name]
    if len(values) > 1:
        raise ProtocolError(f"{name} is given twice.")
    return values[0] if values else None


class Part(bytes):
    """A publication without its `id`, for streams of several channels: each has an id of its own."""

    channel: str
    position: Position


def encode(publication: Publication) -> bytes:
    """Return a publication for a stream of one channel. All such streams share it. A signal has no id."""
    id_ = cursor.text_of(publication) if publication.offset else None
    return block(wire.published(publication), id_=id_)


def encode_part(publication: Publication) -> bytes:
    """Return a publication for streams of several channels: a Part, or a whole event if it has no position."""
    event = block(wire.published(publication))
    if not publication.offset:
        return event
    part = Part(event)
    part.channel = publication.channel.text
    part.position = Position(publication.offset, publication.epoch)
    return part


def with_id(part: bytes, id_: bytes) -> bytes:
    """Return a publication with its id."""
    return b"id: %b\n%b" % (id_, part)


def subscribed(channel: ChannelName, position: Position, recovered: bool | None, id_: bytes) -> bytes:
    """Return the event that a channel begins with. Without a resume, `recovered` is None."""
    data = wire.subscribed({"channel": channel.text}, position, recovered)
    return block(strictjson.dumps(data), event=b"relay:subscribed", id_=id_)


def unsubscribed(channel: ChannelName, reason: str) -> bytes:
    """Return the event of a channel that ends, because the right to it was lost."""
    data = strictjson.dumps({"channel": channel.text, "reason": reason})
    return block(data, event=b"relay:unsubscribed")


def error(channel: ChannelName, refusal: RequestError) -> bytes:
    """Return the event of a channel that could not begin. The stream ends after it."""
    data: dict[str, object] = {"channel": channel.text, "code": refusal.code.value, "message": refusal.message}
    if refusal.reason is not None:
        data["reason"] = refusal.reason.value
    return block(strictjson.dumps(data), event=b"relay:error")


def issued(ticket: str, expires_at: str) -> Mapping[str, object]:
    """Return the data of the answer to a request for a ticket."""
    return {"ticket": ticket, "expiresAt": expires_at}
