"""Values on the wire that several dialects share: positions, timestamps, and frames that cannot be read. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, ParamSpec, TypeVar

from relay.ground import strictjson
from relay.ground.errors import Code, Disconnect, ProtocolError, Reason, RequestError
from relay.model.publication import Position, Publication

P = ParamSpec("P")
T = TypeVar("T")


def read(decode: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what `decode` makes of a frame.

    Raises:
        RequestError: as `decode`; `INVALID_REQUEST` in place of its ProtocolError.
    """
    try:
        return decode(*args, **kwargs)
    except ProtocolError as error:
        raise RequestError(Code.INVALID_REQUEST, str(error)) from error


def end_of(refusal: RequestError) -> Disconnect:
    """Return the end of a connection whose client was refused. The client may come back as it is if the cause is temporary."""
    return Disconnect(Reason.OVERLOADED if refusal.code is Code.UNAVAILABLE else Reason.UNAUTHORIZED)


def since(body: Mapping[str, Any], named: str = "since") -> Position | None:
    """Return the position that `body["since"]` holds, None without one. `named` is the field's name in errors.

    Raises:
        ProtocolError: the value is not a position.
    """
    value = body.get("since")
    if value is None:
        return None
    position = Position.parse(value)
    if position is None:
        raise ProtocolError(f"{named} must have offset, an integer from 0, and epoch, a text.")
    return position


def subscribed(named: Mapping[str, object], position: Position, recovered: bool | None) -> dict[str, object]:
    """Return the data of the answer to a subscribe; `named` names the channel. Without a resume, `recovered` is None."""
    data: dict[str, object] = {**named}
    if position.epoch:  # a channel that keeps nothing has no positions
        data |= {"offset": position.offset, "epoch": position.epoch}
    if recovered is not None:
        data["recovered"] = recovered
    return data


def published(publication: Publication) -> bytes:
    """Return a publication as a JSON object on one line. A signal has no offset."""
    head = b'{"type":' + strictjson.dumps(publication.type)
    head += b',"channel":' + strictjson.dumps(publication.channel.text)
    if publication.offset:
        head += b',"offset":%d' % publication.offset
    if publication.publisher is not None:
        head += b',"publisher":' + publication.publisher
    return head + b',"data":' + publication.json + b"}"


def timestamp(milliseconds: int) -> str:
    """Return Unix milliseconds as `2023-08-15T10:30:00Z`, the form of APIs that show whole seconds."""
    return f"{datetime.fromtimestamp(milliseconds // 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"
