"""`/v1/admin/server` and `/v1/admin/nodes`: this server, and the nodes of its database."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import TypedDict, cast

from quart import Blueprint, Response, request

from relay.api.admin import PREFIX
from relay.api.app import success
from relay.api.authentication import reader_of
from relay.api.health import Readiness
from relay.api.operation import CONSOLE_READER, describe
from relay.cluster.cluster import Cluster
from relay.cluster.node import default_name
from relay.core import Core


class ServerView(TypedDict):
    """This server. `uptime` is in seconds; `reason` says why it is not ready."""

    version: str
    uptime: int
    ready: bool
    reason: str | None
    node: str
    store: str
    dialects: list[str]
    namespaces: list[str]
    signsTokens: bool


class ReportView(TypedDict, total=False):
    """A node as it tells of itself. One that has just started has told nothing yet."""

    version: str
    uptime: int
    connections: int
    users: int


class LiveNodeView(ReportView):
    """A node whose lease holds, and its report."""

    id: str
    name: str
    self: bool


class BusView(TypedDict):
    """The bus of this node. `lag` and `lease`, which is left, are in seconds."""

    connected: bool
    lag: float
    reconnects: int
    lease: float


class NodesView(TypedDict):
    """The nodes that share a database. `bus` is null on a server that shares none."""

    nodes: list[LiveNodeView]
    bus: BusView | None


def blueprint(core: Core, readiness: Readiness, cluster: Cluster | None, *, signs_tokens: bool) -> Blueprint:
    """Return the routes. `cluster` is this node, if several share the database."""
    routes = Blueprint("nodes", __name__, url_prefix=PREFIX)
    report = reporter(core)

    @routes.get("/server")
    @describe("Describe this server.", CONSOLE_READER, answer=ServerView)
    async def server() -> Response:
        await reader_of(core, request)
        data: ServerView = {
            "version": version("relay-server"),
            "uptime": int(core.connections.uptime),
            "ready": readiness.reason is None,
            "reason": readiness.reason,
            "node": core.config.server.node_name or default_name() if cluster is None else cluster.node.name,
            "store": "sqlite" if core.config.store.url is None else "postgresql",
            "dialects": list(core.metrics.places),
            "namespaces": [row.name for row in core.namespaces],
            "signsTokens": signs_tokens,
        }
        return success(data)

    @routes.get("/nodes")
    @describe("List the nodes that share the database.", CONSOLE_READER, answer=NodesView)
    async def nodes() -> Response:
        await reader_of(core, request)
        if cluster is None:
            name = core.config.server.node_name or default_name()
            return success(
                {"nodes": [{"id": core.connections.run_id, "name": name, "self": True, **report()}], "bus": None}
            )
        return success({"nodes": _nodes(cluster, report()), "bus": _bus(cluster)})

    return routes


def reporter(core: Core) -> Callable[[], ReportView]:
    """Return a function that returns the report of this node. It reads counters alone."""

    def report() -> ReportView:
        return {
            "version": version_,
            "uptime": int(core.connections.uptime),
            "connections": len(core.connections),
            "users": core.connections.user_count,
        }

    version_ = version("relay-server")
    return report


def _nodes(cluster: Cluster, own: ReportView) -> list[LiveNodeView]:
    """Return the nodes whose lease holds. A node that has just started has sent no report yet."""
    node = cluster.node
    told = {**cast(dict[str, ReportView], node.reports), node.id: own}
    nothing: ReportView = {}
    return [
        {"id": id_, "name": name, "self": id_ == node.id, **told.get(id_, nothing)} for id_, name in node.names.items()
    ]


def _bus(cluster: Cluster) -> BusView:
    bus = cluster.bus
    return {
        "connected": bus.connected,
        "lag": round(bus.last_lag, 4),
        "reconnects": bus.reconnects,
        "lease": round(cluster.node.lease_left, 1),
    }
