"""Whether the process lives, and whether it should be sent work."""

from __future__ import annotations

from typing import Any

from quart import Blueprint

from relay.store.database import Database


class Readiness:
    """What readiness depends on."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.draining = False
        """Whether the server is about to end: nothing new is taken on."""

    @property
    def reason(self) -> str | None:
        """Why the server is not ready, None if it is."""
        if self.draining:
            return "The server is shutting down."
        if not self._database.healthy:
            return f"The database cannot be written: {self._database.last_error}."
        return None


def blueprint(readiness: Readiness) -> Blueprint:
    """Return the routes for load balancers and service managers."""
    routes = Blueprint("health", __name__)

    @routes.get("/healthz")
    async def healthz() -> dict[str, Any]:
        return {"status": "ok"}

    @routes.get("/readyz")
    async def readyz() -> tuple[dict[str, Any], int]:
        reason = readiness.reason
        return ({"status": "ready"}, 200) if reason is None else ({"status": "not ready", "reason": reason}, 503)

    return routes
