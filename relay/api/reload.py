"""`POST /v1/admin/reload`: takes up a changed configuration without a restart. Admins only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, TypedDict

import attrs
from quart import Blueprint, Response, request

from relay.api import audit
from relay.api.app import success
from relay.api.authentication import admin_of, caller_of
from relay.api.operation import ADMIN, describe
from relay.config.loading import ConfigError, Problem
from relay.config.reloading import Reloaded
from relay.core import Core
from relay.ground.errors import Code, FieldError, RequestError

PATH = "/v1/admin/reload"
MAX_SHOWN = 50
"""Mistakes of one configuration that an answer names."""


class ReloadedView(TypedDict):
    """The outcome of a reload: the key paths of changes that are in force, and of those that need a restart."""

    file: str | None
    taken: list[str]
    waiting: list[str]


class Reloads(Protocol):
    """The part of the server that reloads. See `server.reloading.Reloader`."""

    @property
    def file(self) -> Path | None:
        """The file that is loaded, if there is one."""

    async def reload(self) -> Reloaded:
        """Take up the configuration and return the outcome. Raises ConfigError."""


def blueprint(core: Core, reloader: Reloads) -> Blueprint:
    """Return the route."""
    routes = Blueprint("reload", __name__)

    @routes.post(PATH)
    @describe("Take up the changed configuration.", ADMIN, answer=ReloadedView, errors=[Code.CONFLICT])
    async def reload() -> Response:
        principal = await admin_of(core, request)
        audit.record(principal, caller_of(core, request), "reload")
        try:
            reloaded = await reloader.reload()
        except ConfigError as error:
            raise _refusal(error.problems) from error
        return success({"file": None if reloader.file is None else str(reloader.file), **attrs.asdict(reloaded)})

    return routes


def _refusal(problems: Sequence[Problem]) -> RequestError:
    how_many = "a mistake" if len(problems) == 1 else f"{len(problems)} mistakes"
    shown = problems[:MAX_SHOWN]
    return RequestError(
        Code.CONFLICT,
        f"The configuration has {how_many}, so nothing changed. {'; '.join(map(str, shown))}",
        fields=[FieldError(problem.key_path, problem.message) for problem in shown],
    )
