"""The questions that a backend hook is asked, and the meaning of its answers. Pure.

Questions and answers have the form of Centrifugo's proxy, so that backends that are written for it work:

    > {"client": "0b6f...", "transport": "websocket", "protocol": "json", "encoding": "json", "user": "u1", "channel": "orders:42"}
    < {"result": {"info": {"name": "Ada"}, "expire_at": 1795000000}}
    < {"error": {"code": 403, "message": "This is not your order."}}
    < {"disconnect": {"code": 4501, "reason": "blocked"}}
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypeVar

import attrs

from relay.ground import strictjson
from relay.ground.errors import ProtocolError
from relay.model.grants import ClaimsError, read_info
from relay.model.subscription_proof import SubscriptionProof

MAX_MESSAGE_CHARACTERS = 256
"""Characters of a backend's message that a client is sent."""
MAX_CACHE_PERIOD = 3600.0
"""Seconds for which an answer is kept at most, whatever it asks for."""

T = TypeVar("T")


class QuestionKind(StrEnum):
    """The action that a backend decides on: the header `relay-hook` of the request."""

    CONNECT = "connect"
    SUBSCRIBE = "subscribe"
    PUBLISH = "publish"


@attrs.frozen
class Question:
    """One question. Absent fields are left out of the request."""

    kind: QuestionKind
    user: str | None = None
    channel: str | None = None
    client: str | None = None
    """The id of the connection; None over REST, and before the client has one."""
    dialect: str | None = None
    """The dialect of the connection; None over REST."""
    address: str | None = None
    headers: Mapping[str, str] | None = None
    """The headers of the upgrade that the configuration names."""
    type: str | None = None
    """The type of a publication."""
    data: bytes | None = None
    """The data of a publication, as JSON."""
    explaining: bool = False
    """Whether an operator asks for an explanation, so that nothing happens after a yes."""

    def encode(self) -> bytes:
        """Return the body of the request."""
        body: dict[str, object] = {
            "transport": "http" if self.dialect is None else "websocket",
            "protocol": "json",
            "encoding": "json",
        }
        for name in ("client", "dialect", "address", "headers", "user", "channel", "type"):
            value = getattr(self, name)
            if value is not None:
                body[name] = value
        if self.data is not None:
            body["data"] = strictjson.embedded(self.data)
        if self.explaining:
            body["why"] = True
        return strictjson.dumps(body)


@attrs.frozen
class Yes:
    """The backend allows the action."""

    result: Mapping[str, Any]
    document: bytes
    """The result as it is written."""
    cache: float
    """Seconds for which the same question need not be asked again."""


@attrs.frozen
class No:
    """The backend refuses the action."""

    message: str
    """For the client."""
    temporary: bool = False
    """Whether the client may try again later."""
    disconnect: bool = False
    """Whether the connection ends."""


def read(body: bytes) -> Yes | No:
    """Return the meaning of the body of a response.

    Raises:
        ProtocolError: it has none, so it counts as a failure. The message is for the log.
    """
    try:
        answer = strictjson.loads_object(body)
    except ProtocolError as error:
        raise ProtocolError("the response is not a JSON object") from error
    given = {name for name in ("result", "error", "disconnect") if answer.get(name) is not None}
    if len(given) != 1 or not isinstance(answer[name := given.pop()], dict):
        raise ProtocolError(
            "the response is not an object with one of result, error and disconnect, which is an object"
        )
    value: dict[str, Any] = answer[name]  # type: ignore[assignment]
    if name == "result":
        # A yes that changes the data is for this data alone.
        cache = 0.0 if "data" in value else _cache(value.get("cache"))
        return Yes(value, strictjson.member(body, "result"), cache)
    text = value.get("message" if name == "error" else "reason")
    message = text[:MAX_MESSAGE_CHARACTERS] if isinstance(text, str) and text else "The backend refused this."
    return No(message, temporary=value.get("temporary") is True, disconnect=name == "disconnect")


def _cache(value: object) -> float:
    if value is None:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ProtocolError("result.cache is not a number of seconds")
    return min(float(value), MAX_CACHE_PERIOD)


def read_subscription(channel: str, user: str) -> Callable[[Yes], SubscriptionProof]:
    """Return the function that turns a yes to `subscribe` into the right of this user to this channel. It raises as `read`."""

    def right(yes: Yes) -> SubscriptionProof:
        try:
            info = read_info(yes.result.get("info"))
        except ClaimsError as error:
            raise ProtocolError(f"result.{error}") from error
        return SubscriptionProof(channel, user, expires_at(yes.result), info, by_backend=True)

    return right


def read_data(yes: Yes) -> bytes | None:
    """Return the data that a yes to `publish` puts in the place of the client's, as it is written; None if it has none."""
    return strictjson.member(yes.document, "data") if "data" in yes.result else None


def expires_at(result: Mapping[str, Any]) -> datetime | None:
    """Return the time until which a yes holds, aware and in UTC; None if it has no end. Raises as `read`."""
    value = result.get("expire_at")
    if value in (None, 0):
        return None
    try:
        return datetime.fromtimestamp(float("nan") if isinstance(value, bool | str) else value, UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        raise ProtocolError("result.expire_at is not a time in seconds since 1970") from None
