"""The two documents of a server with every dialect, and its routes, read once by a process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import attrs

from relay.api import management
from tests.hooks import receiver
from tests.http_client import http_client
from tests.running import config_for, running

SETTINGS = {
    **{
        f"namespaces.orders.{name}": value
        for name, value in {"subscribe": "users", "publish": "users", "presence": True}.items()
    },
    **{
        f"limits.{kind}_per_minute": 1_000_000
        for kind in ("frames", "messages", "handshakes", "requests", "publications", "auth_failures")
    },
    "webhooks.backend.url": "http://127.0.0.1:9/",
    "webhooks.backend.secret": receiver.SECRET,
    "webhooks.backend.allow_private": True,
}
"""A namespace and a webhook of the configuration, and no limits on rates. Nothing listens at the URL of the webhook."""


@attrs.frozen
class Documents:
    """What a server answers, and what it has."""

    openapi: dict[str, Any]
    asyncapi: dict[str, Any]
    views: Mapping[str, Any]
    """The functions of Quart's routes, by method and path as the router writes it."""
    direct: frozenset[str]
    """The requests that are answered without Quart, by method and path."""
    streams: Mapping[str, Any]
    """The functions of those that are answered with a stream."""


_read: list[Documents] = []


async def documents(folder: Path) -> Documents:
    """Return the documents. The first call starts a server for them, in `folder`."""
    if not _read:
        async with (
            running(config_for(folder, SETTINGS)) as (server, address),
            http_client(address) as client,
        ):
            app = cast(Any, server.http).asgi._app.app
            views = {
                f"{method} {rule.rule}": app.view_functions[rule.endpoint]
                for rule in app.url_map.iter_rules()
                for method in rule.methods - {"HEAD", "OPTIONS"}
            }
            direct_routes = cast(Any, server.http.find_route).__self__
            streams = {f"{method} {path}": stream for (method, path), stream in direct_routes._streams.items()}
            direct = {f"{method} {path}" for method, path in management.direct_routes()} | streams.keys()
            openapi, asyncapi = await client.get("/openapi.json"), await client.get("/asyncapi.json")
            _read.append(Documents(openapi.json(), asyncapi.json(), views, frozenset(direct), streams))
    return _read[0]
