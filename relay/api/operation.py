"""Describes a REST route by a decorator beside it: its fields, answers and refusals. `/openapi.json` is made from it.

    @routes.get("/v1/things")
    @describe("List the things.", ADMIN, query=ThingsQuery, answer=list[ThingView])
    async def things() -> Response: ...

The decorator changes nothing at run time. A test fails for a route without it, and for a field that it does not name.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict, TypeVar

import attrs

from relay.ground.errors import Code

View = TypeVar("View", bound=Callable[..., Any])

OPENAPI_PATH = "/openapi.json"
ASYNCAPI_PATH = "/asyncapi.json"
_KEY = "described_operation"


class Access(enum.Enum):
    """The callers that a route is for."""

    PUBLIC = "everyone"
    READER = "users, and everyone if a namespace is for anyone"
    USER = "users, and API keys of scope admin"
    BACKEND = "admins, and API keys of scope publish or admin"
    ADMIN = "admins, and API keys of scope admin"
    CONSOLE_READER = "admins, and API keys of scope console, console:write or admin"
    CONSOLE_OPERATOR = "admins, and API keys of scope console:write or admin"
    PERSON = "users; API keys are refused"
    STREAM = "users with a token or a ticket, and everyone if a namespace is for anyone"
    PUBLISHER = "users, and API keys of scope publish or admin"
    OPERATOR = "admins, API keys of scope admin, and everyone at an allowed address"


PUBLIC, READER, USER, BACKEND = Access.PUBLIC, Access.READER, Access.USER, Access.BACKEND
ADMIN, PUBLISHER, OPERATOR = Access.ADMIN, Access.PUBLISHER, Access.OPERATOR
PERSON, STREAM = Access.PERSON, Access.STREAM
CONSOLE_READER, CONSOLE_OPERATOR = Access.CONSOLE_READER, Access.CONSOLE_OPERATOR

_ACCESS_ERRORS = frozenset({Code.UNAUTHORIZED, Code.FORBIDDEN, Code.RATE_LIMITED, Code.UNAVAILABLE})
"""Codes of refusals of every route that is not for everyone."""
_BODY_ERRORS = frozenset({Code.INVALID_REQUEST, Code.TOO_LARGE, Code.UNSUPPORTED_MEDIA_TYPE})


class Pagination(TypedDict):
    """The place of a page in its list."""

    page: int
    limit: int
    total: int
    pages: int


@attrs.frozen
class Success:
    """The shape of every success, with data of this type."""

    data: Any
    more: Mapping[str, Any] = attrs.field(factory=dict)
    """Further fields beside `data`, by name."""
    status: int = 200


@attrs.frozen
class Operation:
    """The description of one route. A type is a class, an annotation or a JSON Schema; see `ground.schema.Schemas`."""

    summary: str
    access: Access
    query: Any = None
    """An attrs class or `Fields`."""
    body: Any = None
    """An attrs class, `Fields` or another type; None: the route reads no body."""
    body_required: bool = True
    bodies: Mapping[str, Any] = attrs.field(factory=dict)
    """Bodies of further content types, by content type."""
    headers: Mapping[str, Any] = attrs.field(factory=dict)
    """Request headers that the route reads, beside those for authentication."""
    answer: Any = None
    """The type of `data` in the answer."""
    status: int = 200
    more: Mapping[str, Any] = attrs.field(factory=dict)
    """Further fields of the answer beside `data`."""
    media: Mapping[str, Any] = attrs.field(factory=dict)
    """The whole answer by content type, for a route whose answer is not `Success` alone."""
    others: Mapping[int, Mapping[str, Any]] = attrs.field(factory=dict)
    """The answers of further statuses, by content type. They replace the common shape of an error."""
    errors: Sequence[Code] = ()
    """Codes of refusals beside those that follow from `access`, `query` and `body`."""

    @property
    def codes(self) -> frozenset[Code]:
        """Every code of a refusal."""
        codes = frozenset({*self.errors, Code.INTERNAL_ERROR})
        if self.access is not PUBLIC:
            codes |= _ACCESS_ERRORS
        if self.query is not None:
            codes |= {Code.INVALID_REQUEST}
        if self.body is not None or self.bodies:
            codes |= _BODY_ERRORS
        return codes


def describe(summary: str, access: Access, **described: Any) -> Callable[[View], View]:
    """Return a decorator that describes a route. `described` are the other fields of `Operation`."""
    operation = Operation(summary, access, **described)

    def decorate(view: View) -> View:
        vars(view)[_KEY] = operation
        return view

    return decorate


def operation_of(view: Any) -> Operation | None:
    """Return the description of a route's function; None if it has none."""
    found = vars(view).get(_KEY)
    return found if isinstance(found, Operation) else None
