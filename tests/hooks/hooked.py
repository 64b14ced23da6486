"""A server with a backend that decides: which channels and users it allows is read from their names."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio

from relay.server.server import Server
from tests.backend import Answer, Backend, Received, Reply, backend, result
from tests.running import bearer, config_for, running

KEY = b"k" * 32
SECRET = f"whsec_{base64.b64encode(KEY).decode()}"
SETTINGS = {
    "auth.connect_hook": "backend",
    "namespaces.orders.subscribe_hook": "backend",
    "namespaces.orders.presence": True,
    "namespaces.notes.subscribe": "users",
    "namespaces.notes.publish_hook": "backend",
    "namespaces.plain.subscribe": "users",
    "namespaces.plain.publish": "users",
}


async def decide(request: Received) -> Reply | bytes | None:
    """Answer by the name of the channel: `orders:no` is refused, `orders:500` is answered with that status, and so on."""
    _, _, word = request.json.get("channel", "").partition(":")
    answer = ANSWERS.get(word, {"result": {}})
    if word == "hang":
        await trio.sleep_forever()
    return result(answer) if isinstance(answer, dict) else answer


ANSWERS: dict[str, dict[str, Any] | Reply | bytes | None] = {
    "no": {"error": {"code": 403, "message": "Not yours."}},
    "silent-no": {"error": {}},
    "later": {"error": {"message": "The shop is closed.", "temporary": True}},
    "out": {"disconnect": {"code": 4501, "reason": "blocked"}},
    "500": Reply(500, b'{"result": {}}'),
    "201": Reply(201, b'{"result": {}}'),
    "redirect": Reply(302, headers={"Location": "http://169.254.169.254/latest/meta-data/"}),
    "garbage": Reply(200, b"<html>"),
    "nothing": Reply(200, b"{}"),
    "both": {"result": {}, "error": {"message": "no"}},
    "list": {"result": []},
    "info": {"result": {"info": "x" * 2000}},
    "past": {"result": {"expire_at": 1_600_000_000, "cache": 60}},
    "expiry": {"result": {"expire_at": "tomorrow"}},
    "cache": {"result": {"cache": -1}},
    "huge": Reply(200, b'{"result": {"x": "' + b"x" * 300_000 + b'"}}'),
    "end": None,
}
UNCLEAR = ("500", "201", "redirect", "garbage", "nothing", "both", "list", "info", "expiry", "cache", "huge", "end")
"""The answers that count as none."""


@attrs.frozen
class Hooked:
    """The server and its backend."""

    server: Server
    address: str
    backend: Backend

    def outcomes(self) -> dict[tuple[str, str], int]:
        """Return the number of questions by kind and outcome."""
        return {
            (kind.value, outcome): count
            for (kind, outcome), count in self.server.core.hooks["backend"].outcomes.items()
        }

    async def request(self, method: str, path: str, user: str | None = None, **body: Any) -> tuple[int, Any]:
        """Make a REST request as a user; return the status and the answer."""
        from tests.http_client import http_connection

        headers = {} if user is None else bearer(user)
        async with http_connection(self.address, headers) as http:
            status, answer = await http.request_bytes(method, path, body or None)
            return status, json.loads(answer)


@asynccontextmanager
async def hooked(folder: Path, answer: Answer = decide, **more: Any) -> AsyncIterator[Hooked]:
    """Run both. `more` are options of the hook, or settings with `__` for each dot."""
    async with backend(answer) as running_backend:
        options = {"url": running_backend.url(), "secret": SECRET, "timeout": 5.0}
        settings: dict[str, Any] = dict(SETTINGS)
        for name, value in more.items():
            if "__" in name:
                settings[name.replace("__", ".")] = value
            else:
                options[name] = value
        settings |= {f"hooks.backend.{name}": value for name, value in options.items()}
        async with running(config_for(folder, settings)) as (server, address):
            yield Hooked(server, address, running_backend)
