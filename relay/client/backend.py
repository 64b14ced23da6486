"""A backend that publishes over HTTP, with an API key."""

from __future__ import annotations

import json
import secrets
import ssl
from collections.abc import Iterable, Iterator
from itertools import count
from types import TracebackType
from typing import Any, Self

import anyio

from relay.client.address import Address
from relay.client.backoff import Backoff
from relay.client.errors import RelayError
from relay.client.http import Answer, Http
from relay.client.values import Draft, Json, Position, Receipt

PUBLISH = "/v1/publish"
TIMEOUT = 30.0
"""Seconds for a publication with all its attempts, by default. The server knows an idempotency key for 300 s."""
ATTEMPT_TIMEOUT = 10.0
"""Seconds for one attempt, by default."""
MIN_DELAY = 0.1
MAX_DELAY = 5.0
"""Seconds before the next attempt, at least and at most, unless the server names more."""
MAX_ITEMS = 1000
"""Items of one request: the server's default of `limits.max_publish_items`."""
MAX_BODY_BYTES = 8_000_000
"""Bytes of one request, below the server's default of `limits.max_publish_bytes`."""
RETRIED = frozenset({"unavailable", "internal_error", "rate_limited"})
"""Codes of an item of an array that is sent again."""


class Backend:
    """Publishes with an API key. Enter it; it has no task of its own, and its requests share a few connections.

    A publication that gets no answer, or that the server cannot take now, is sent again with the same idempotency key
    until `timeout`. So it counts once, also if an answer was lost or the server was killed.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        token: str | None = None,
        tls: ssl.SSLContext | None = None,
        timeout: float = TIMEOUT,
        attempt_timeout: float = ATTEMPT_TIMEOUT,
    ) -> None:
        """`api_key` has the scope `publish` or `admin`; `token` is that of an admin, and comes in its place.

        Raises:
            ValueError: the URL is not that of a server, there is not one credential, or a duration is not positive.
        """
        if (api_key is None) == (token is None):
            raise ValueError("give an API key or a token of an admin, and not both")
        for name, value in {"timeout": timeout, "attempt_timeout": attempt_timeout}.items():
            if not value > 0:
                raise ValueError(f"{name} must be positive, and is {value}")
        self._http = Http(Address.of(url, tls))
        self._headers = {"X-API-Key": api_key} if api_key is not None else {"Authorization": f"Bearer {token}"}
        self._timeout = timeout
        self._attempt_timeout = attempt_timeout
        self._backoff = Backoff(MIN_DELAY, MAX_DELAY)

    async def __aenter__(self) -> Self:
        """Return the backend. Nothing is connected yet."""
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the connections."""
        with anyio.CancelScope(shield=True):
            await self._http.aclose()

    async def publish(
        self,
        channel: str,
        data: Json,
        *,
        type: str | None = None,
        idempotency_key: str | None = None,
        exclude: str | None = None,
        version: int | None = None,
    ) -> Receipt:
        """Publish, and return the position once it is committed or delivered. The options are the fields of `Draft`.

        Cancelled, it may have been published: publish again with the same `idempotency_key`.

        Raises:
            RelayError: the server refused; or it could not take the publication within `timeout` seconds, and then the
                error is `temporary`, and that of the last attempt that had its time.
            ValueError: the data cannot be written as JSON.
        """
        item = _item(Draft(channel, data, type, idempotency_key, exclude, version))
        [result] = await self._send(PUBLISH, item)
        return _receipt(result)

    async def publish_many(self, drafts: Iterable[Draft]) -> list[Receipt | RelayError]:
        """Publish many, in requests of at most 1,000 items, one after the other. Return what became of each, in their order.

        An item that is refused is its error, and stops no other. Items that the server could not take are sent again by
        themselves, so they may come behind later items of their channel. `timeout` is for each request, and its items.

        Raises:
            RelayError: a request was refused, or got no answer in time. Earlier requests were published: publish again
                with keys of your own, and these count once.
            ValueError: the data of an item cannot be written as JSON.
        """
        results: list[Receipt | RelayError] = []
        for batch in _batches(map(_item, drafts)):
            results += await self._publish_batch(batch)
        return results

    async def rest(self, method: str, path: str, body: object = None) -> Any:
        """Call a REST route; return the `data` of the answer. It is sent once. Cancelled, the server may have acted.

        Raises:
            RelayError: the server refused, cannot be reached (`disconnected`), or did not answer in time (`timeout`).
        """
        content = None if body is None else json.dumps(body, allow_nan=False).encode()
        return _data(await self._attempt(method, path, content, self._attempt_timeout))

    async def _publish_batch(self, batch: list[str]) -> list[Receipt | RelayError]:
        deadline = anyio.current_time() + self._timeout
        results: dict[int, Receipt | RelayError] = {}
        waiting = list(range(len(batch)))
        for failures in count():
            answers = await self._send(PUBLISH, f"[{','.join(batch[number] for number in waiting)}]")
            for number, answer in zip(waiting, answers, strict=True):
                results[number] = _error(answer["error"]) if "error" in answer else _receipt(answer)
            waiting = [number for number in waiting if _is_retried(results[number])]
            delay = self._backoff.delay(failures)
            if not waiting or anyio.current_time() + delay >= deadline:
                break
            await anyio.sleep(delay)
        return [results[number] for number in range(len(batch))]

    async def _send(self, path: str, body: str) -> Any:
        """Send a request until it is answered. Its items have idempotency keys."""
        content = body.encode()
        deadline = anyio.current_time() + self._timeout
        failures = 0
        last: RelayError | None = None
        while True:
            left = deadline - anyio.current_time()
            try:
                return _data(await self._attempt("POST", path, content, min(left, self._attempt_timeout)))
            except RelayError as error:
                # An attempt that the deadline cut short does not say what is wrong. The one before it does.
                is_cut = error.code == "timeout" and left < self._attempt_timeout
                last = last if is_cut and last is not None else error
            delay = max(self._backoff.delay(failures), last.retry_after or 0.0)
            if not last.temporary or anyio.current_time() + delay >= deadline:
                raise last
            failures += 1
            await anyio.sleep(delay)

    async def _attempt(self, method: str, path: str, content: bytes | None, timeout: float) -> Answer:
        try:
            with anyio.fail_after(timeout):
                return await self._http.request(method, path, self._headers, content)
        except TimeoutError:
            raise RelayError("timeout", "The server did not answer in time.") from None


def _item(draft: Draft) -> str:
    fields = {
        "channel": draft.channel,
        "type": draft.type,
        "idempotencyKey": draft.idempotency_key or secrets.token_hex(16),
        "exclude": draft.exclude,
        "version": draft.version,
    }
    given = {name: value for name, value in fields.items() if value is not None}
    return json.dumps({**given, "data": draft.data}, allow_nan=False)


def _batches(items: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for item in items:
        # Everything but ASCII is escaped, so that a character is a byte.
        if batch and (len(batch) == MAX_ITEMS or size + len(item) > MAX_BODY_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += len(item) + 1
    if batch:
        yield batch


def _data(answer: Answer) -> Any:
    if 200 <= answer.status < 300 and isinstance(answer.body, dict) and "data" in answer.body:
        return answer.body["data"]
    raise answer.refusal()


def _receipt(result: dict[str, Any]) -> Receipt:
    return Receipt(result["channel"], Position.of(result), result.get("skipped", False))


def _error(data: dict[str, Any]) -> RelayError:
    return RelayError(data["code"], data["message"], reason=data.get("reason"))


def _is_retried(result: Receipt | RelayError) -> bool:
    return isinstance(result, RelayError) and result.code in RETRIED
