"""API keys at work: who a key stands for, and word when one is revoked or changes while a connection uses it."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio

from relay.auth.verifier import principal_of_key
from relay.ground import logs
from relay.ground.errors import Code, RequestError
from relay.model.principal import Principal
from relay.store import api_keys as store
from relay.store.api_keys import ApiKey
from relay.store.database import Database

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
        # By hash, as in the database: secrets are not kept. In a plain dict, finding the first gets slower with each deleted.
        self._cache: OrderedDict[bytes, tuple[float, ApiKey]] = OrderedDict()
        self._watchers: dict[str, dict[object, OnChange]] = {}
        self._told: dict[str, ApiKey | None] = {}  # what the watchers of a key know
        self._version = 0  # of the database, when all of them were looked at last

    @property
    def cached_count(self) -> int:
        """How many keys are remembered."""
        return len(self._cache)

    @property
    def watched_count(self) -> int:
        """How many keys are in use by connections."""
        return len(self._watchers)

    async def find(self, secret: str) -> ApiKey:
        """Return the key of this secret. A checkpoint where it is looked up.

        Raises:
            RequestError: `UNAUTHORIZED`; there is no such key, or it was revoked.
        """
        now = trio.current_time()
        digest = hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
        cached = self._cache.get(digest)
        if cached is not None and cached[0] > now:
            return cached[1]
        key = await self._database.read(lambda connection: store.find(connection, secret))
        self._cache.pop(digest, None)
        if key is None:
            raise RequestError(Code.UNAUTHORIZED, "The API key is not valid.")
        if len(self._cache) >= MAX_CACHED:
            self._cache.popitem(last=False)
        self._cache[digest] = (now + CACHE_PERIOD, key)
        return key

    async def authenticate(self, secret: str) -> Principal:
        """Return who a key stands for; with scope `admin` it acts as an admin. Raises as `find`."""
        return principal_of_key(await self.find(secret))

    @contextmanager
    def watch(self, key_id: str, on_change: OnChange) -> Iterator[None]:
        """Have `on_change` told what the next look finds, and then of every change, while the block lasts; None: it is revoked."""
        watchers = self._watchers.setdefault(key_id, {})
        token = object()
        watchers[token] = on_change
        # It may have changed since the caller found it: whoever comes is told once in any case.
        self._told.pop(key_id, None)
        try:
            yield
        finally:
            del watchers[token]
            if not watchers:
                del self._watchers[key_id]
                self._told.pop(key_id, None)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look every POLL_INTERVAL, for ever; while the database cannot be read, nothing is known to have changed."""
        task_status.started()
        while True:
            await trio.sleep(POLL_INTERVAL)
            if self._watchers:
                try:
                    await self._look()
                except RequestError as refusal:
                    log.warning("cannot look for revoked keys", cause=refusal.message)

    async def _look(self) -> None:
        every = list(self._watchers)
        new = [key_id for key_id in every if key_id not in self._told]
        seen = self._version

        # The version changes with every commit of another connection, in whichever process.
        version, ids, found = await self._database.read(
            lambda connection: (
                version := connection.execute("PRAGMA data_version").fetchone()[0],
                ids := new if version == seen else every,
                store.get(connection, ids),
            )
        )
        self._version = version
        for key_id in ids:
            key = found.get(key_id)
            self._tell(key_id, key if key is not None and key.revoked_at is None else None)

    def _tell(self, key_id: str, key: ApiKey | None) -> None:
        watchers = self._watchers.get(key_id)
        if watchers is None or (key_id in self._told and self._told[key_id] == key):
            return
        self._told[key_id] = key
        for token, on_change in list(watchers.items()):
            if token in watchers:  # else another one's change ended it
                on_change(key)
