"""API keys in use: finds the principal of a key, and notifies connections when their key changes or is revoked."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Literal

import trio

from relay.auth.verifier import principal_of_key
from relay.ground import logs
from relay.ground.errors import Code, RequestError
from relay.ground.wakeup import Wakeup
from relay.model.principal import Principal
from relay.store import api_keys as store
from relay.store.api_keys import ApiKey, Tier
from relay.store.database import Database

CACHE_PERIOD = 1.0
"""Seconds for which a key that was found is not looked up again: the maximum delay of a revocation."""
MAX_CACHED = 10_000
"""Keys in the cache. Beyond it the oldest are forgotten, and looked up again when needed."""
POLL_INTERVAL = 1.0
"""Seconds between two checks of the keys that connections use."""

OnChange = Callable[[ApiKey | None], None]
"""Called synchronously with a key that changed, or None once it is revoked. Must not raise."""

log = logs.get("relay.keys")


class ApiKeys:
    """Looks keys up, and watches the keys in use."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # By hash, as in the database, so that no secret is kept. In a plain dict, finding the first gets slower with each deletion.
        self._cache: OrderedDict[bytes, tuple[float, ApiKey, Principal]] = OrderedDict()
        self._watchers: dict[str, dict[Watch, OnChange]] = {}
        self._last: dict[str, ApiKey | None] = {}  # the state of each key that its watchers were last called with
        self._changed = Wakeup()
        self._version: str | None = ""  # of the keys, when all were last checked

    @property
    def cached_count(self) -> int:
        """How many keys are cached."""
        return len(self._cache)

    @property
    def watched_count(self) -> int:
        """How many keys connections use."""
        return len(self._watchers)

    async def find(self, secret: str) -> ApiKey:
        """Return the key of this secret. A checkpoint and errors as `authenticate`."""
        return (await self._find(secret))[0]

    async def authenticate(self, secret: str) -> Principal:
        """Return the principal of a key. A key with scope `admin` acts as an admin. A checkpoint unless the key is cached.

        Raises:
            RequestError: `UNAUTHORIZED`, if no such key exists or it was revoked; `UNAVAILABLE`, if the database cannot be read.
        """
        return (await self._find(secret))[1]

    async def _find(self, secret: str) -> tuple[ApiKey, Principal]:
        now = trio.current_time()
        digest = hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
        cached = self._cache.get(digest)
        if cached is not None and cached[0] > now:
            return cached[1], cached[2]
        key = await self._database.read(lambda connection: store.find(connection, secret))
        self._cache.pop(digest, None)
        if key is None:
            raise RequestError(Code.UNAUTHORIZED, "The API key is not valid.")
        if len(self._cache) >= MAX_CACHED:
            self._cache.popitem(last=False)
        principal = principal_of_key(key)
        self._cache[digest] = (now + CACHE_PERIOD, key, principal)
        return key, principal

    async def page(self, *, after: str | None, limit: int) -> list[ApiKey]:
        """Return at most `limit` keys that follow the key with the id `after`, the oldest first. Always a checkpoint.

        Raises:
            RequestError: `UNAVAILABLE`; the database cannot be read.
        """
        return await self._database.read(lambda connection: store.list_after(connection, after, limit))

    async def get(self, key_id: str) -> ApiKey | None:
        """Return the key with this id, also a revoked one; None if there is none. A checkpoint and errors as `page`."""
        found = await self._database.read(lambda connection: store.get(connection, [key_id]))
        return found.get(key_id)

    async def create(
        self,
        *,
        prefix: str,
        mode: Literal["live", "test"],
        user_id: str,
        tier: Tier,
        scopes: Iterable[str],
        now_ms: int,
    ) -> tuple[ApiKey, str]:
        """Create a key, and return it with its secret, which is not kept. Always a checkpoint.

        Raises:
            RequestError: `UNAVAILABLE`; the database cannot be written.
        """
        return await self._database.write(
            lambda connection: store.create(
                connection, prefix=prefix, mode=mode, user_id=user_id, tier=tier, scopes=scopes, now_ms=now_ms
            )
        )

    async def revoke(self, key_id: str, now_ms: int) -> bool:
        """Revoke a key for good. Return False if no key has this id. A checkpoint and errors as `create`.

        Its connections end within POLL_INTERVAL, and the cache forgets it within CACHE_PERIOD.
        """
        return await self._database.write(lambda connection: store.revoke(connection, key_id, now_ms))

    async def set_tier(self, key_id: str, tier: Tier) -> bool:
        """Move a key to a tier. Return False if no key has this id. A checkpoint and errors as `create`."""
        return await self._database.write(lambda connection: store.set_tier(connection, key_id, tier))

    def watch(self, key_id: str, on_change: OnChange) -> Watch:
        """Call `on_change` with the key's current state, then on every change until the watch is closed. None means revoked."""
        watch = Watch(self, key_id)
        self._watchers.setdefault(key_id, {})[watch] = on_change
        # The key may have changed since the caller found it, so every new watcher is called once.
        self._last.pop(key_id, None)
        return watch

    def changed(self) -> None:
        """Look up cached keys again, and check the keys in use at once, because some key has changed."""
        self._cache.clear()
        self._changed.set()

    def unwatch(self, watch: Watch) -> None:
        """End a watch. Idempotent."""
        watchers = self._watchers.get(watch.key_id, {})
        if watch in watchers:
            del watchers[watch]
            if not watchers:
                del self._watchers[watch.key_id]
                self._last.pop(watch.key_id, None)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Check the keys in use every POLL_INTERVAL until cancelled. While the database cannot be read, no change is noticed."""
        task_status.started()
        while True:
            with trio.move_on_after(POLL_INTERVAL):
                await self._changed.wait()
            if self._watchers:
                try:
                    await self._check()
                except RequestError as refusal:
                    log.warning("cannot check for revoked keys", cause=refusal.message)

    async def _check(self) -> None:
        every = list(self._watchers)
        new = [key_id for key_id in every if key_id not in self._last]
        seen = self._version

        version, ids, found = await self._database.read(
            lambda connection: (
                version := store.version(connection),
                ids := new if version == seen else every,
                store.get(connection, ids),
            )
        )
        self._version = version
        for key_id in ids:
            key = found.get(key_id)
            self._notify(key_id, key if key is not None and key.revoked_at is None else None)

    def _notify(self, key_id: str, key: ApiKey | None) -> None:
        watchers = self._watchers.get(key_id)
        if watchers is None or (key_id in self._last and self._last[key_id] == key):
            return
        self._last[key_id] = key
        for watch, on_change in list(watchers.items()):
            if watch in watchers:  # else the callback of another watcher ended it
                on_change(key)


class Watch:
    """One connection's interest in a key. It begins when it is made; as a context manager it is closed on exit."""

    __slots__ = ("_keys", "key_id")

    def __init__(self, keys: ApiKeys, key_id: str) -> None:
        self._keys = keys
        self.key_id = key_id

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Call back no more. Idempotent."""
        self._keys.unwatch(self)
