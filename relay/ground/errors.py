"""What can go wrong with a request or a connection: two closed registers and the errors that carry them.

A `RequestError` answers one request and the session goes on; a `Disconnect` ends the connection. How a code looks on the
wire is each dialect's own table; this module knows no dialect.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

import attrs

RETRY_AFTER = 5.0
"""Seconds after which a client may try again, if the refusal is temporary and nothing better is known."""


class Code(enum.Enum):
    """Why a request was refused; the value is the name that goes to logs."""

    INVALID_REQUEST = "invalid_request"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    CONFLICT = "conflict"
    TOO_LARGE = "too_large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    RATE_LIMITED = "rate_limited"
    UNKNOWN_CHANNEL = "unknown_channel"
    TOO_MANY_SUBSCRIPTIONS = "too_many_subscriptions"
    UNAVAILABLE = "unavailable"
    INTERNAL_ERROR = "internal_error"


@attrs.frozen
class FieldError:
    """One field of a request that is wrong, and what would be right."""

    field: str
    message: str


class RequestError(Exception):
    """One request is refused; the message is written for the client and may be sent to it as it is."""

    def __init__(
        self, code: Code, message: str, *, retry_after: float | None = None, fields: Sequence[FieldError] = ()
    ) -> None:
        """`retry_after` is in seconds; `fields` names each wrong field where the request had several."""
        super().__init__(message)
        self.code = code
        self.message = message
        self.retry_after = retry_after
        self.fields = tuple(fields)


class ProtocolError(Exception):
    """What came over the wire cannot be read. The only error that leaves a decoder; the message may go to the client."""


class Reason(enum.Enum):
    """Why the server ends a connection: the WebSocket close code (RFC 6455, 7.4.1) and its text."""

    NORMAL = (1000, "")
    SHUTTING_DOWN = (1001, "shutting down")
    IDLE = (1001, "idle")
    PROTOCOL_ERROR = (1002, "protocol error")
    BINARY = (1003, "text expected")
    NOT_UTF8 = (1007, "invalid UTF-8")
    UNAUTHORIZED = (1008, "unauthorized")
    TOKEN_EXPIRED = (1008, "token expired")
    KEY_REVOKED = (1008, "key revoked")
    FLOOD = (1008, "too many messages")
    TOO_LARGE = (1009, "message too big")
    INTERNAL_ERROR = (1011, "internal error")
    TOO_SLOW = (1013, "too slow")
    OVERLOADED = (1013, "overloaded")

    @property
    def close_code(self) -> int:
        """The close code that goes over the wire."""
        return self.value[0]

    @property
    def text(self) -> str:
        """The close reason that goes over the wire; at most 123 bytes."""
        return self.value[1]


class Disconnect(Exception):
    """The connection ends, for this reason."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.text)
        self.reason = reason
