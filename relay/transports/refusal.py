"""Refuses a connection outside of the HTTP server: sends one short response and ends it."""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterable, Sequence
from http import HTTPStatus

import trio

from relay.ground import logs, strictjson
from relay.ground.clock import Clock
from relay.ground.errors import RequestError
from relay.transports.http_errors import ErrorBody, error_answer
from relay.transports.stream import ByteStream

SEND_TIMEOUT = 5.0
"""Seconds that the client may take to receive the response."""
LINGER_TIMEOUT = 1.0
"""Seconds for which further bytes of the client are discarded. A reset would destroy the response."""

RETRY_SPREAD = 5.0
"""Seconds over which the Retry-After of a 503 is spread, so that the clients of a crowd do not all come back at one moment."""

log = logs.get("relay.http")
_clock = Clock()


async def refuse(
    stream: ByteStream,
    refusal: RequestError,
    *,
    path: str = "",
    address: str = "",
    status: int | None = None,
    bodies: Sequence[ErrorBody] = (),
    headers: Iterable[tuple[str, str]] = (),
) -> None:
    """Answer a connection with an error. The stream's owner closes it. Errors of the connection are not raised.

    `status` and `bodies`: as for `error_answer`. `headers` are sent besides those of every refusal.
    """
    spread = random.uniform(0, RETRY_SPREAD)  # noqa: S311 - not a secret
    answer = error_answer(refusal, path, _clock.now_ms(), status=status, bodies=bodies, spread=spread)
    log_refusal(path, address, answer.status, refusal.message, error_id=answer.error_id)
    body = strictjson.dumps(answer.body)
    lines = [
        f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *(f"{name}: {value}" for name, value in (*answer.headers.items(), *headers)),
        "Connection: close",
        "",
        "",
    ]
    await send_last(stream, "\r\n".join(lines).encode("latin-1") + body)


def log_refusal(path: str, address: str, status: int, cause: str, *, error_id: str | None = None) -> None:
    """Log one refused request of a client at this address. `error_id` is that of the answer; None: the answer has none."""
    log.info("refused", path=path, address=address, status=status, cause=cause, errorId=error_id or str(uuid.uuid4()))


async def send_last(stream: ByteStream, data: bytes) -> None:
    """Send the last bytes of a connection, within SEND_TIMEOUT. The stream's owner closes it. Errors of the connection are not raised."""
    try:
        with trio.move_on_after(SEND_TIMEOUT):
            await stream.send_all(data)
            await stream.send_eof()
            with trio.move_on_after(LINGER_TIMEOUT):
                while await stream.receive_some():
                    pass
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return
