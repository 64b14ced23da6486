"""`/healthz` and `/readyz`: whether the process is alive, and whether it accepts work.

Public, so reasons are general.
"""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

from quart import Blueprint, Response

from relay.api.draining import Draining
from relay.api.operation import PUBLIC, describe
from relay.auth.jwks import Jwks
from relay.cluster.cluster import Cluster
from relay.ground import strictjson
from relay.store.database import Database

SHUTTING_DOWN = "The server is shutting down."
"""Why a server that drains is not ready, and lets no session begin."""
CUT_OFF = "The node is cut off from the database, and the other nodes may take it for dead."
"""Why a node is not ready whose lease has ended, and lets no session begin."""


class AliveView(TypedDict):
    """The answer of a process that is alive."""

    status: Literal["ok"]


class ReadyView(TypedDict):
    """Whether the server accepts work, and why not. `node` names one of several nodes."""

    status: Literal["ready", "not ready"]
    reason: NotRequired[str]
    node: NotRequired[str]


class Readiness:
    """The conditions of readiness."""

    def __init__(self, database: Database, jwks: Jwks | None = None, cluster: Cluster | None = None) -> None:
        self._database = database
        self._cluster = cluster
        self._jwks = jwks
        self.draining = Draining()

    def why_closed(self, *, hands_over: bool) -> str | None:
        """Return why no session may begin; None if sessions may. `hands_over`: another process takes those of a drain."""
        if self.draining.begun and not hands_over:
            return SHUTTING_DOWN
        return CUT_OFF if self._cluster is not None and self._cluster.node.cut_off else None

    @property
    def reason(self) -> str | None:
        """Why the server is not ready; None if it is ready."""
        if self.draining.begun:
            return SHUTTING_DOWN
        if not self._database.healthy:
            return f"The database cannot be written: {self._database.cause}."
        if (closed := self.why_closed(hands_over=True)) is not None:
            return closed
        if self._cluster is not None and not self._cluster.bus.connected:
            return "The node cannot hear the other nodes."
        return None if self._jwks is None else self._jwks.reason

    @property
    def node(self) -> dict[str, str]:
        """The name of this node, as a field of the answer; empty if one server has the database."""
        return {} if self._cluster is None else {"node": self._cluster.node.name}


def blueprint(readiness: Readiness) -> Blueprint:
    """Return the routes for load balancers and service managers."""
    routes = Blueprint("health", __name__)

    @routes.get("/healthz")
    @describe("Say whether the process is alive.", PUBLIC, media={"application/json": AliveView})
    async def healthz() -> Response:
        return _json({"status": "ok"}, 200)

    @routes.get("/readyz")
    @describe(
        "Say whether the server accepts work.",
        PUBLIC,
        media={"application/json": ReadyView},
        others={503: {"application/json": ReadyView}},
    )
    async def readyz() -> Response:
        reason = readiness.reason
        if reason is None:
            return _json({"status": "ready", **readiness.node}, 200)
        return _json({"status": "not ready", "reason": reason, **readiness.node}, 503)

    return routes


def _json(body: dict[str, str], status: int) -> Response:
    return Response(strictjson.dumps(body), status, content_type="application/json")
