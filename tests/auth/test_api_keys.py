"""Keys work at once and stop working within seconds, whichever process changed them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import trio

from relay.auth import api_keys as keys
from relay.auth.api_keys import ApiKeys
from relay.ground.errors import Code, RequestError
from relay.model.principal import Principal
from relay.store import api_keys as store
from relay.store.api_keys import ApiKey, Tier
from relay.store.database import Database
from relay.store.meta import set_meta
from relay.store.sqlite.database import running_database

INTERVAL = 0.05


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "POLL_INTERVAL", INTERVAL)


@asynccontextmanager
async def open_keys(folder: Path) -> AsyncIterator[tuple[ApiKeys, Database]]:
    """Open keys on a database, with another connection to it as another process has one. Their service is running."""
    with trio.fail_after(20):
        async with (
            running_database(folder / "relay.db") as database,
            running_database(folder / "relay.db") as other,
            trio.open_nursery() as nursery,
        ):
            api_keys = ApiKeys(database)
            await nursery.start(api_keys.run)
            yield api_keys, other
            nursery.cancel_scope.cancel()


async def create(database: Database, *scopes: str, tier: Tier = "free") -> tuple[ApiKey, str]:
    """Make a key; returns it and its secret."""
    return await database.write(
        lambda connection: store.create(
            connection, prefix="rk", mode="live", user_id="ops", tier=tier, scopes=scopes, now_ms=1
        )
    )


async def revoke(database: Database, key: ApiKey) -> None:
    """Revoke a key."""
    await database.write(lambda connection: store.revoke(connection, key.id, 2))


async def refused(api_keys: ApiKeys, secret: str) -> bool:
    """Tell whether a secret is refused."""
    try:
        await api_keys.authenticate(secret)
    except RequestError as refusal:
        assert refusal.code is Code.UNAUTHORIZED
        assert secret not in refusal.message or not secret
        return True
    return False


async def test_a_key_stands_for_its_user(tmp_path: Path) -> None:
    async with open_keys(tmp_path) as (api_keys, database):
        key, secret = await create(database, "publish", "connect")
        principal = await api_keys.authenticate(secret)
    assert principal == Principal("ops", scopes=frozenset({"publish", "connect"}), key_id=key.id)


async def test_a_key_with_scope_admin_acts_as_an_admin(tmp_path: Path) -> None:
    async with open_keys(tmp_path) as (api_keys, database):
        _, secret = await create(database, "admin")
        assert (await api_keys.authenticate(secret)).is_admin


async def test_a_key_works_as_soon_as_it_is_made_even_if_it_was_tried_before(tmp_path: Path) -> None:
    async with open_keys(tmp_path) as (api_keys, database):
        for secret in ("", "nothing", "x" * 1000, "\ud800"):
            assert await refused(api_keys, secret)
        _, secret = await create(database)
        assert not await refused(api_keys, secret)
        assert await refused(api_keys, secret[:-1])


@pytest.mark.slow
async def test_a_revoked_key_is_refused_once_it_is_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "CACHE_PERIOD", 0.2)
    async with open_keys(tmp_path) as (api_keys, database):
        key, secret = await create(database)
        first = await api_keys.find(secret)
        await revoke(database, key)
        assert await api_keys.find(secret) is first, "a key that is in use is not looked up at every request"
        await trio.sleep(0.25)
        assert await refused(api_keys, secret)


async def test_what_is_remembered_is_bounded_and_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "MAX_CACHED", 2)
    async with open_keys(tmp_path) as (api_keys, database):
        secrets = [(await create(database))[1] for _ in range(4)]
        for secret in (*secrets, *secrets):
            await api_keys.find(secret)
            assert len(api_keys._cache) <= 2
        assert not any(secret in repr(vars(api_keys)) for secret in secrets)


class Heard:
    """What a watcher was told."""

    def __init__(self) -> None:
        self.keys: list[ApiKey | None] = []
        self._told = trio.Event()

    def __call__(self, key: ApiKey | None) -> None:
        self.keys.append(key)
        self._told.set()
        self._told = trio.Event()

    async def until(self, count: int) -> None:
        """Wait until that much was told."""
        while len(self.keys) < count:
            await self._told.wait()


@pytest.mark.slow
async def test_a_watcher_hears_of_each_change_and_of_nothing_else(tmp_path: Path) -> None:
    async with open_keys(tmp_path) as (api_keys, database):
        key, _ = await create(database, "connect")
        heard = Heard()
        with api_keys.watch(key.id, heard):
            await heard.until(1)
            assert heard.keys == [key], "it may have changed before it was watched"
            for number in range(5):
                await database.write(lambda connection, text=str(number): set_meta(connection, "test", text))  # type: ignore[misc]
                await trio.sleep(INTERVAL)
            assert len(heard.keys) == 1
            await database.write(lambda connection: store.set_tier(connection, key.id, "pro"))
            await heard.until(2)
            assert heard.keys[1] is not None
            assert heard.keys[1].tier == "pro"
            await revoke(database, key)
            await heard.until(3)
            assert heard.keys[2] is None


@pytest.mark.slow
async def test_a_change_between_looking_a_key_up_and_watching_it_is_not_missed(tmp_path: Path) -> None:
    async with open_keys(tmp_path) as (api_keys, database):
        key, secret = await create(database)
        other, _ = await create(database)
        with api_keys.watch(other.id, Heard()):
            await trio.sleep(3 * INTERVAL)
            await api_keys.find(secret)
            await revoke(database, key)
            await trio.sleep(3 * INTERVAL)  # the commit was seen, while nobody watched the key
            heard = Heard()
            with api_keys.watch(key.id, heard):
                await heard.until(1)
    assert heard.keys == [None]


async def test_a_key_that_was_deleted_counts_as_revoked(tmp_path: Path) -> None:
    async with open_keys(tmp_path) as (api_keys, _):
        heard = Heard()
        with api_keys.watch("key_none", heard):
            await heard.until(1)
    assert heard.keys == [None]


async def test_every_watcher_of_a_key_hears_and_none_after_its_block(tmp_path: Path) -> None:
    async with open_keys(tmp_path) as (api_keys, database):
        key, _ = await create(database)
        first, second = Heard(), Heard()
        with api_keys.watch(key.id, first):
            with api_keys.watch(key.id, second):
                await first.until(1)
                await second.until(1)
            await revoke(database, key)
            await first.until(2)
    assert first.keys == [key, None]
    assert second.keys == [key]
    assert not api_keys._watchers
    assert not api_keys._last


async def test_who_watches_later_is_told_too(tmp_path: Path) -> None:
    async with open_keys(tmp_path) as (api_keys, database):
        key, _ = await create(database)
        first, second = Heard(), Heard()
        with api_keys.watch(key.id, first):
            await first.until(1)
            with api_keys.watch(key.id, second):
                await second.until(1)
    assert second.keys == [key]


async def test_a_watcher_may_end_others_when_it_hears(tmp_path: Path) -> None:
    async with open_keys(tmp_path) as (api_keys, database):
        key, _ = await create(database)
        heard: list[str] = []
        with ExitStack() as ended, api_keys.watch(key.id, lambda key: ended.close()):
            ended.enter_context(api_keys.watch(key.id, lambda key: heard.append("a watcher that is gone")))
            last = Heard()
            with api_keys.watch(key.id, last):
                await last.until(1)
    assert not heard


class FailingDatabase:
    """A database that cannot be read for a while, and then can."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.failures = 3

    async def read(self, query: Any) -> Any:
        """Fail, or read."""
        await trio.lowlevel.checkpoint()
        if self.failures:
            self.failures -= 1
            raise RequestError(Code.UNAVAILABLE, "The database is not available.")
        return await self._database.read(query)


@pytest.mark.slow
async def test_looking_goes_on_when_the_database_can_be_read_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with trio.fail_after(20):
        async with running_database(tmp_path / "relay.db") as database, trio.open_nursery() as nursery:
            key, _ = await create(database)
            failing = FailingDatabase(database)
            api_keys = ApiKeys(cast(Database, failing))
            await nursery.start(api_keys.run)
            heard = Heard()
            with api_keys.watch(key.id, heard):
                await heard.until(1)
            nursery.cancel_scope.cancel()
    assert heard.keys == [key]
    assert failing.failures == 0
    assert sum(record.name == "relay.keys" for record in caplog.records) == 3
