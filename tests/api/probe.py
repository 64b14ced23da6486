"""Routes that do what a test needs to see, on the application alone or on a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from quart import Blueprint
from quart_trio import QuartTrio

from relay.admission.origins import OriginPolicy
from relay.api.app import create_app
from relay.api.health import Readiness
from relay.config.tree import Config
from relay.core import Core
from relay.dialects.base import Dialect
from relay.server.server import Server
from relay.store import api_keys as keys
from relay.store.api_keys import ApiKey, Tier
from relay.store.database import Database
from relay.store.opening import running_database
from relay.store.sqlite.error_texts import meaning
from tests.parts import SetClock
from tests.running import config_for, running
from tests.stores import config_for as store_config_for

Routes = Callable[[Blueprint], None]


class FakeDatabase:
    """A database of which only its health is asked."""

    def __init__(self, last_error: str | None = None) -> None:
        self.last_error = last_error

    @property
    def healthy(self) -> bool:
        """Whether it is well."""
        return self.last_error is None

    @property
    def cause(self) -> str:
        """Why not, in general words."""
        return meaning(self.last_error or "")


def readiness_of(database: FakeDatabase) -> Readiness:
    """Return the readiness of a server on that database."""
    return Readiness(cast(Database, database))


def app_with(add: Routes | None = None) -> QuartTrio:
    """Return the application with these routes, and with no core but what the application itself needs."""
    core = cast(Core, SimpleNamespace(config=Config(), clock=SetClock(), origins=OriginPolicy(["*"])))
    return create_app(core, [_blueprint(add)] if add else [], readiness_of(FakeDatabase()))


def _blueprint(add: Routes) -> Blueprint:
    routes = Blueprint("probe", __name__)
    add(routes)
    return routes


def probe_dialect(add: Callable[[Blueprint, Core], None], core: Core) -> Dialect:
    """Return a dialect that is nothing but routes. They get the core."""
    return Dialect("probe", blueprints=[_blueprint(lambda routes: add(routes, core))])


def nothing(routes: Blueprint, core: Core) -> None:
    """Add no routes."""


@asynccontextmanager
async def serving(
    folder: Path, add: Callable[[Blueprint, Core], None] = nothing, *, overrides: Mapping[str, Any] | None = None
) -> AsyncIterator[tuple[Server, str]]:
    """Run a real server that has these routes and those of no dialect; yields it and its address."""
    async with running(
        config_for(folder, overrides), dialects=[lambda core: probe_dialect(add, core)]
    ) as running_server:
        yield running_server


async def create_key(folder: Path, *scopes: str, user_id: str = "ops", tier: Tier = "free") -> tuple[ApiKey, str]:
    """Make a key as the command line does, from outside the server; returns it and its secret."""
    async with running_database(store_config_for(folder)) as database:
        return await database.write(
            lambda connection: keys.create(
                connection, prefix="rk", mode="test", user_id=user_id, tier=tier, scopes=scopes, now_ms=1
            )
        )


async def revoke_key(folder: Path, key_ids: Iterable[str]) -> None:
    """Revoke keys, as `create_key` makes them."""
    async with running_database(store_config_for(folder)) as database:
        for key_id in key_ids:
            await database.write(lambda connection, id_=key_id: keys.revoke(connection, id_, 2))  # type: ignore[misc]
