"""A receiver of webhooks for tests: verifies each request by the library of Standard Webhooks, and keeps the events."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
from standardwebhooks.webhooks import Webhook

from tests.backend import Backend, Received, Reply, backend

SECRET = "whsec_" + "c" * 32
"""The secret that the receivers know."""
Answer = Callable[["Event"], Awaitable[Reply | bytes | None]]


@attrs.frozen
class Event:
    """One delivered event."""

    id: str
    type: str
    data: dict[str, Any]

    @property
    def summary(self) -> tuple[str, str]:
        """The type, and the user or channel."""
        return self.type, str(self.data.get("userId", self.data.get("channel")))


async def accept(_: Event) -> Reply:
    """Accept an event."""
    return Reply(204)


class Receiver:
    """What a receiver was sent, and what it accepted."""

    def __init__(self, answer: Answer = accept) -> None:
        self.answer = answer
        self.requests: list[Event] = []
        """Every request, repeats included."""
        self.events: list[Event] = []
        """The accepted events in order, repeats included."""
        self.backend: Backend

    async def __call__(self, received: Received) -> Reply | bytes | None:
        """Take a request."""
        content = Webhook(SECRET).verify(received.body, received.headers)
        event = Event(received.headers["webhook-id"], content["type"], content["data"])
        self.requests.append(event)
        reply = await self.answer(event)
        if isinstance(reply, Reply) and 200 <= reply.status < 300:
            self.events.append(event)
        return reply

    @property
    def summaries(self) -> list[tuple[str, str]]:
        """The summaries of the accepted events."""
        return [event.summary for event in self.events]

    def once(self) -> list[Event]:
        """Return the accepted events without repeats, in the order in which they came first."""
        return list({event.id: event for event in reversed(self.events)}.values())[::-1]

    def settings(self, **options: Any) -> dict[str, Any]:
        """Return the settings of a webhook that this receiver gets."""
        given = {"url": self.backend.url(), "secret": SECRET, "allow_private": True, "retry_interval": 0.01, **options}
        return {f"webhooks.backend.{name}": value for name, value in given.items()}


@asynccontextmanager
async def receiver(answer: Answer = accept, *, port: int = 0) -> AsyncIterator[Receiver]:
    """Run a receiver on a port of 127.0.0.1."""
    one = Receiver(answer)
    async with backend(one, port=port) as running:
        one.backend = running
        yield one


class Unreliable:
    """Fails half of the time, and no event more than a few times in a row."""

    def __init__(self, seed: int, most: int = 3) -> None:
        self._random = random.Random(seed)
        self._failures: Counter[str] = Counter()
        self._most = most

    async def __call__(self, event: Event) -> Reply | bytes | None:
        """Accept the event, or refuse it, or break the connection before or after the event counts."""
        if self._failures[event.id] >= self._most or self._random.random() < 0.5:
            return Reply(200, b"ok")
        self._failures[event.id] += 1
        return self._random.choice([Reply(500), Reply(404), None, b"nonsense\r\n\r\n"])
