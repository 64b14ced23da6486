"""API keys at work: who a key stands for, and word when one is revoked or changes while a connection uses it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio

from relay import logs
from relay.errors import Code, RequestError
from relay.principal import Principal
from relay.store import keys as store
from relay.store.database import Database
from relay.store.keys import ApiKey

CACHE_PERIOD = 1.0
"""Seconds for which a key that was found is not looked up again: what a revocation can be late."""
MAX_CACHED = 10_000
POLL_INTERVAL = 1.0
"""Seconds between two looks at the keys that connections use."""

OnChange = Callable[[ApiKey | None], None]

log = logs.get("relay.keys")


class ApiKeys:
    """Looks keys up, and watches those in use."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._cache: dict[str, tuple[float, ApiKey]] = {}
        self._watched: dict[str, dict[object, OnChange]] = {}
        self._version: int | None = None

    async def find(self, secret: str) -> ApiKey:
        """Return the key of this secret. A checkpoint where it is looked up.

        Raises:
            RequestError: `UNAUTHORIZED`; there is no such key, or it was revoked.
        """
        now = trio.current_time()
        cached = self._cache.get(secret)
        if cached is not None and cached[0] > now:
            return cached[1]
        key = await self._database.read(lambda connection: store.find(connection, secret))
        self._cache.pop(secret, None)
        if key is None:
            raise RequestError(Code.UNAUTHORIZED, "The API key is not valid.")
        if len(self._cache) >= MAX_CACHED:
            del self._cache[next(iter(self._cache))]
        self._cache[secret] = (now + CACHE_PERIOD, key)
        return key

    async def authenticate(self, secret: str) -> Principal:
        """Return who a key stands for; with scope `admin` it acts as an admin. Raises as `find`."""
        key = await self.find(secret)
        return Principal(key.user_id, is_admin="admin" in key.scopes, scopes=key.scopes, key_id=key.id)

    @contextmanager
    def watch(self, key_id: str, on_change: OnChange) -> Iterator[None]:
        """Have `on_change` told, for as long as the block lasts, of each look that found the key changed; None: it is revoked."""
        watchers = self._watched.setdefault(key_id, {})
        token = object()
        watchers[token] = on_change
        self._version = None
        try:
            yield
        finally:
            del watchers[token]
            if not watchers and self._watched.get(key_id) is watchers:
                del self._watched[key_id]

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look every POLL_INTERVAL, for ever; while the database cannot be read, nothing is known to have changed."""
        task_status.started()
        while True:
            await trio.sleep(POLL_INTERVAL)
            if not self._watched:
                continue
            ids = list(self._watched)
            try:
                changed = await self._database.read(lambda connection: self._look(connection, ids))  # noqa: B023 - awaited here
            except RequestError as refusal:
                log.warning("cannot look for revoked keys", cause=refusal.message)
                continue
            for key_id, key in changed.items():
                for on_change in list(self._watched.get(key_id, {}).values()):
                    on_change(key)

    def _look(self, connection: sqlite3.Connection, ids: list[str]) -> dict[str, ApiKey | None]:
        # Changes with every commit, whichever process made it; most seconds see none of another's.
        version = int(connection.execute("PRAGMA data_version").fetchone()[0])
        if version == self._version:
            return {}
        self._version = version
        found = store.get(connection, ids)
        keys: dict[str, ApiKey | None] = {}
        for key_id in ids:
            key = found.get(key_id)
            keys[key_id] = key if key is not None and key.revoked_at is None else None
        return keys
