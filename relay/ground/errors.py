"""The errors of requests and connections: closed registers, and the exceptions that carry their members.

A `RequestError` refuses one request and the session continues. A `Disconnect` ends the connection. A dialect
decides how a code goes over the wire; this module knows no dialect.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

import attrs

RETRY_AFTER = 5.0
"""Seconds after which a client may try again, if the refusal is temporary and nothing better is known."""


class Code(enum.Enum):
    """Why a request was refused. The value is the name in logs and in the errors of event streams."""

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


class RefusalReason(enum.Enum):
    """Why a name or a right was refused, more exactly than by the code. The value goes over the wire and never changes."""

    INVALID_CHANNEL = "invalid_channel"
    UNKNOWN_NAMESPACE = "unknown_namespace"
    NOT_AUTHENTICATED = "not_authenticated"
    NOT_OWNER = "not_owner"
    NOT_MEMBER = "not_member"
    NOT_FOUND = "not_found"
    NO_GRANT = "no_grant"
    CLOSED = "closed"
    PUBLISH_NOT_ALLOWED = "publish_not_allowed"
    NOT_SUBSCRIBED = "not_subscribed"
    NO_PRESENCE = "no_presence"
    TOKEN_INVALID = "token_invalid"  # noqa: S105 - not a secret
    TOKEN_EXPIRED = "token_expired"  # noqa: S105 - not a secret
    TOKEN_OTHER_USER = "token_other_user"  # noqa: S105 - not a secret
    TOKEN_OTHER_CHANNEL = "token_other_channel"  # noqa: S105 - not a secret
    WRONG_TOKEN = "wrong_token"  # noqa: S105 - not a secret
    GRANTS_INVALID = "grants_invalid"
    REVOKED = "revoked"
    BACKEND_REFUSED = "backend_refused"
    BACKEND_UNREACHABLE = "backend_unreachable"
    BACKEND_BUSY = "backend_busy"
    BACKEND_EXPIRED = "backend_expired"


@attrs.frozen
class FieldError:
    """One invalid field of a request. The message says which values are valid."""

    field: str
    message: str


class RequestError(Exception):
    """One request is refused. The message is written for the client and may be sent unchanged."""

    def __init__(
        self,
        code: Code,
        message: str,
        *,
        retry_after: float | None = None,
        fields: Sequence[FieldError] = (),
        reason: RefusalReason | None = None,
    ) -> None:
        """`retry_after` is in seconds. `fields` lists the invalid fields, and `message` says as much without them.

        `reason` is set if a channel's name or a right was refused.
        """
        super().__init__(message)
        self.code = code
        self.message = message
        self.retry_after = retry_after
        self.fields = tuple(fields)
        self.reason = reason


def invalid_field(field: str, message: str) -> RequestError:
    """Return the refusal of a request for one field; `message` follows the field's name, as in "must be a text"."""
    return RequestError(Code.INVALID_REQUEST, f"{field} {message}", fields=[FieldError(field, message)])


class ProtocolError(Exception):
    """A message from the client cannot be decoded. Decoders raise no other error. The message may be sent to the client."""


class Reason(enum.Enum):
    """Why the server ends a connection: the WebSocket close code (RFC 6455, 7.4.1) and the close reason."""

    NORMAL = (1000, "")
    SHUTTING_DOWN = (1001, "shutting down")
    IDLE = (1001, "idle")
    PROTOCOL_ERROR = (1002, "protocol error")
    BINARY = (1003, "text expected")
    NOT_UTF8 = (1007, "invalid UTF-8")
    UNAUTHORIZED = (1008, "unauthorized")
    TOKEN_EXPIRED = (1008, "token expired")
    DISCONNECTED = (1008, "disconnected")
    FLOOD = (1008, "too many messages")
    TOO_LARGE = (1009, "message too big")
    INTERNAL_ERROR = (1011, "internal error")
    CUT_OFF = (1012, "cut off from the database")
    RECONNECT = (1012, "reconnect")
    TOO_SLOW = (1013, "too slow")
    OVERLOADED = (1013, "overloaded")

    @property
    def close_code(self) -> int:
        """The close code on the wire."""
        return self.value[0]

    @property
    def text(self) -> str:
        """The close reason on the wire, at most 123 bytes."""
        return self.value[1]


BY_CLIENT = "closed_by_client"
"""The name of the end of a connection that the server did not end: the client closed it, or disappeared."""


def name_of_end(reason: Reason | None) -> str:
    """Return the name of the end of a connection in metrics and webhooks. `reason` is None if the client ended it."""
    return BY_CLIENT if reason in (None, Reason.NORMAL) else reason.name.lower()


class Disconnect(Exception):
    """Ends the connection for a reason."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.text)
        self.reason = reason
