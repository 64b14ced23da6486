"""Makes the bodies of responses, with Quart or without it, and logs refusals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from relay.ground import logs, strictjson
from relay.ground.errors import Code, ProtocolError, RequestError
from relay.transports.http_errors import ErrorAnswer, ErrorBody, error_answer

CONTENT_TYPE = "application/json"
NOTHING_HERE = "There is nothing at this path."

log = logs.get("relay.http")


def success_body(data: Any, status: int = 200, **more: Any) -> bytes:
    """Return the body in the shape that every success has."""
    return strictjson.dumps({"success": True, "status": status, "data": data, **more})


def refused(
    error: RequestError,
    method: str,
    path: str,
    now_ms: int,
    *,
    bodies: Sequence[ErrorBody] = (),
    status: int | None = None,
    cause: str | None = None,
) -> ErrorAnswer:
    """Return the answer to a request that was refused, and log it. `status` and `cause` stand in for those of the error."""
    answer = error_answer(error, path, now_ms, status=status, bodies=bodies)
    log.info(
        "refused", method=method, path=path, status=answer.status, cause=cause or error.message, errorId=answer.error_id
    )
    return answer


def failed(error: Exception, method: str, path: str, now_ms: int, *, bodies: Sequence[ErrorBody] = ()) -> ErrorAnswer:
    """Return the answer to a request whose handler had a defect, and log that."""
    refusal = RequestError(Code.INTERNAL_ERROR, "Something went wrong in the server.")
    answer = error_answer(refusal, path, now_ms, bodies=bodies)
    log.exception("request failed", error, method=method, path=path, errorId=answer.error_id)
    return answer


def decode_json(body: bytes, mimetype: str) -> object:
    """Return the value of a JSON body.

    Raises:
        RequestError: the body is not JSON, or not said to be.
    """
    if mimetype != CONTENT_TYPE:
        raise RequestError(Code.UNSUPPORTED_MEDIA_TYPE, "The body must be application/json.")
    try:
        return strictjson.loads(body)
    except ProtocolError as error:
        raise RequestError(Code.INVALID_REQUEST, str(error)) from error


def nothing_here() -> RequestError:
    """Return the refusal of a request for what does not exist, or not for this client."""
    return RequestError(Code.NOT_FOUND, NOTHING_HERE)


def body_too_large(max_bytes: int) -> RequestError:
    """Return the refusal of a body that is too large."""
    return RequestError(Code.TOO_LARGE, f"The body may have at most {max_bytes} bytes.")
