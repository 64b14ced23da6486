"""Refusals as HTTP responses: the status of each code, and the body, which a dialect may shape below its paths. Pure."""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NotRequired, TypedDict

import attrs

from relay.ground.clock import iso_ms
from relay.ground.errors import RETRY_AFTER, Code, RequestError

STATUS: Mapping[Code, int] = {
    Code.INVALID_REQUEST: 400,
    Code.UNAUTHORIZED: 401,
    Code.FORBIDDEN: 403,
    Code.NOT_FOUND: 404,
    Code.METHOD_NOT_ALLOWED: 405,
    Code.CONFLICT: 409,
    Code.TOO_LARGE: 413,
    Code.UNSUPPORTED_MEDIA_TYPE: 415,
    Code.RATE_LIMITED: 429,
    Code.UNKNOWN_CHANNEL: 400,
    Code.TOO_MANY_SUBSCRIPTIONS: 403,
    Code.UNAVAILABLE: 503,
    Code.INTERNAL_ERROR: 500,
}


class FieldRefusal(TypedDict):
    """One field that is missing or wrong."""

    field: str
    message: str


class RefusalMeta(TypedDict):
    """The time of a refusal, and the id by which the log names it."""

    timestamp: str
    version: str
    errorId: str


class Refusal(TypedDict):
    """The body of a refused request. `error` repeats `message`."""

    success: Literal[False]
    status: int
    message: str
    error: str
    errorId: str
    meta: RefusalMeta
    reason: NotRequired[str]
    errors: NotRequired[list[FieldRefusal]]


@attrs.frozen
class ErrorBody:
    """A dialect's own shape of error bodies, for paths that start with `prefix`."""

    prefix: str
    make: Callable[[RequestError], Mapping[str, Any]]
    """Returns the body. Called synchronously; must not raise."""


@attrs.frozen
class ErrorAnswer:
    """The HTTP response to a refusal. The log has the error id too."""

    status: int
    body: Mapping[str, Any]
    headers: Mapping[str, str]
    error_id: str


def error_answer(
    refusal: RequestError,
    path: str,
    now_ms: int,
    *,
    status: int | None = None,
    bodies: Sequence[ErrorBody] = (),
    spread: float = 0.0,
) -> ErrorAnswer:
    """Return the response to a refused request.

    `status` overrides the status of the code. The first of `bodies` for the path shapes the body. `spread` is added,
    in seconds, to the Retry-After of a 503.
    """
    error_id = str(uuid.uuid4())
    status = status or STATUS[refusal.code]
    headers = {}
    if status in (429, 503):
        wait = RETRY_AFTER if refusal.retry_after is None else refusal.retry_after
        wait += spread if status == 503 else 0.0
        headers["Retry-After"] = str(max(1, math.ceil(wait)))
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    for shaped in bodies:
        if path.startswith(shaped.prefix):
            return ErrorAnswer(status, shaped.make(refusal), headers, error_id)
    body: Refusal = {
        "success": False,
        "status": status,
        "message": refusal.message,
        "error": refusal.message,
        "errorId": error_id,
        "meta": {"timestamp": iso_ms(now_ms), "version": "v1", "errorId": error_id},
    }
    if refusal.reason is not None:
        body["reason"] = refusal.reason.value
    if refusal.fields:
        body["errors"] = [{"field": problem.field, "message": problem.message} for problem in refusal.fields]
    return ErrorAnswer(status, body, headers, error_id)
