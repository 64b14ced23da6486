"""`/v1/admin/server` and `/v1/admin/nodes`: this server, and the nodes of its database."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from quart import Blueprint, Response, request

from relay.api.admin import PREFIX
from relay.api.app import success
from relay.api.authentication import reader_of
from relay.api.health import Readiness
from relay.cluster.cluster import Cluster
from relay.cluster.node import default_name
from relay.core import Core


def blueprint(core: Core, readiness: Readiness, cluster: Cluster | None, *, signs_tokens: bool) -> Blueprint:
    """Return the routes. `cluster` is this node, if several share the database."""
    routes = Blueprint("nodes", __name__, url_prefix=PREFIX)
    report = reporter(core)

    @routes.get("/server")
    async def server() -> Response:
        await reader_of(core, request)
        data = {
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
    async def nodes() -> Response:
        await reader_of(core, request)
        if cluster is None:
            name = core.config.server.node_name or default_name()
            return success(
                {"nodes": [{"id": core.connections.node, "name": name, "self": True, **report()}], "bus": None}
            )
        return success({"nodes": _nodes(cluster, report()), "bus": _bus(cluster)})

    return routes


def reporter(core: Core) -> Callable[[], dict[str, Any]]:
    """Return a function that says what this node tells of itself. It looks at counts alone."""

    def report() -> dict[str, Any]:
        return {
            "version": version_,
            "uptime": int(core.connections.uptime),
            "connections": len(core.connections),
            "users": core.connections.user_count,
        }

    version_ = version("relay-server")
    return report


def _nodes(cluster: Cluster, own: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the nodes whose lease holds. A node that has just started has told nothing yet."""
    node = cluster.node
    return [
        {"id": id_, "name": name, "self": id_ == node.id, **(own if id_ == node.id else node.reports.get(id_, {}))}
        for id_, name in node.names.items()
    ]


def _bus(cluster: Cluster) -> dict[str, Any]:
    bus = cluster.bus
    return {
        "connected": bus.connected,
        "lag": round(bus.last_lag, 4),
        "reconnects": bus.reconnects,
        "lease": round(cluster.node.lease_left, 1),
    }
