"""What the tests of the HTTP interface have in common: an application of its own on the core of a real server, and API keys."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from quart import Blueprint

from relay.api import publish
from relay.api.app import create_app
from relay.api.health import Readiness
from relay.core import Core
from relay.store import keys
from relay.store.database import running_database
from relay.store.keys import ApiKey, Tier
from relay.transports.http import open_http_server
from relay.transports.listener import Listener, open_listeners
from tests.running import config_for, running

import trio
from quart_trio import QuartTrio


class FakeDatabase:
    """A database of which only its health is asked."""

    def __init__(self, last_error: str | None = None) -> None:
        self.last_error = last_error

    @property
    def healthy(self) -> bool:
        """Whether it is well."""
        return self.last_error is None
