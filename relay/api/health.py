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

    @property
    def reason(self) -> str | None:
        """Why the server is not ready; None if it is ready."""
        if self.draining.begun:
            return "The server is shutting down."
        if not self._database.healthy:
            return f"The database cannot be written: {self._database.cause}."
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
