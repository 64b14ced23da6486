"""Whether the process lives, and whether it should be sent work. Anyone may ask: what is told is in general words."""

from __future__ import annotations

from quart import Blueprint, Response

from relay.api.draining import Draining
from relay.auth.jwks import Jwks
from relay.ground import strictjson
from relay.store.database import Database

_CAUSES = {
    "disk is full": "the disk is full",
    "readonly": "it is read-only",
    "disk I/O error": "the disk reports errors",
    "locked": "another process keeps it locked",
    "malformed": "its file is damaged",
    "not a database": "its file is damaged",
    "unable to open": "its file cannot be opened",
    "no such table": "its file was changed by something else",
}
"""What SQLite says, by a part of it, and what that means."""


class Readiness:
    """What readiness depends on."""

    def __init__(self, database: Database, jwks: Jwks | None = None) -> None:
        self._database = database
        self._jwks = jwks
        self.draining = Draining()

    @property
    def reason(self) -> str | None:
        """Why the server is not ready, None if it is."""
        if self.draining.begun:
            return "The server is shutting down."
        if not self._database.healthy:
            return f"The database cannot be written: {_cause(self._database.last_error or '')}."
        return None if self._jwks is None else self._jwks.reason


def _cause(error: str) -> str:
    """What an error of SQLite means. Its own words may name tables and files: they are in the log, and go no further."""
    return next((meaning for part, meaning in _CAUSES.items() if part in error), "the log says why")


def blueprint(readiness: Readiness) -> Blueprint:
    """Return the routes for load balancers and service managers."""
    routes = Blueprint("health", __name__)

    @routes.get("/healthz")
    async def healthz() -> Response:
        return _json({"status": "ok"}, 200)

    @routes.get("/readyz")
    async def readyz() -> Response:
        reason = readiness.reason
        if reason is None:
            return _json({"status": "ready"}, 200)
        return _json({"status": "not ready", "reason": reason}, 503)

    return routes


def _json(body: dict[str, str], status: int) -> Response:
    return Response(strictjson.dumps(body), status, content_type="application/json")
