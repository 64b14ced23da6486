"""A soak from its start to its verdict: a round to warm up, the round that counts, and what the server holds after each."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import httpx
import trio
from prometheus_client.parser import text_string_to_metric_families

from tests import forks
from tests.running import SECRET, bearer
from tests.soak.behaviours import AUTH_TIMEOUT, BEHAVIOURS, BIG, LISTED, PING_INTERVAL, SYMBOLS
from tests.soak.guest import USERS, Guest, World, token_of

ROOMS = 10
START_TIMEOUT = 20.0
SETTLE_TIMEOUT = 30.0
"""Seconds in which a server must have forgotten its guests."""
GUEST_TIMEOUT = 30.0
"""Seconds that one guest may take: it is answered at once, or the server hangs."""
MAX_SLOW = 0.1
"""Share of the guests that may be slower than the server's deadlines, as on a machine with other work: more, and something hangs."""
MAX_OBJECTS_GROWN = 50
"""Objects of one type that may be more than after the warm-up: less than any guest in a hundred leaves behind."""
MAX_CURSOR_REFERENCES = 400
"""Weak references to cursors that are gone: sqlite3 lets go of them by the two hundred, for each connection."""
MAX_MEMORY_GROWN = 16 << 20
"""Bytes of resident memory that may be more: what the allocator does not give back moves by chance. Blocks are counted exactly."""
MAX_BLOCKS_GROWN = 5000
"""Blocks of memory that Python has given out that may be more, beside a tenth of the guests: pools and caches fill by chance."""
PUBLISH_INTERVAL = 0.1
TYPES_NAMED = 8
"""Types of which there are most more objects than before that the report names."""

_SETTINGS = f"""\
[server]
port = 0
[auth]
jwt_secret = "{SECRET}"
[limits]
handshakes_per_minute = 1000000
messages_per_minute = 6000
auth_timeout = {AUTH_TIMEOUT}
max_outbox_bytes = 200000
[channels]
idempotency_period = 2.0
[log]
format = "json"
level = "warning"
[dialects.live]
offline_grace = 0.5
typing_timeout = 1.0
[dialects.socketio]
ping_interval = {PING_INTERVAL}
ping_timeout = {PING_INTERVAL}
connections_per_user = 1000
"""

_CACHES = {"api_keys", "user_profiles", "channel_names"}
"""Tables that are caches, which keep what comes again and again: it all came once before the warm-up ends."""


@attrs.frozen
class Usage:
    """What a server has in use, with no guest there."""

    memory: int
    files: int
    values: dict[str, float]
    objects: Counter[str]
    blocks: int
    """Blocks of memory that Python has given out: each text, number and object is one or more."""


@attrs.frozen
class Report:
    """What a soak found."""

    sessions: Counter[str]
    """Sessions that were opened, by dialect and transport."""
    connections: int
    """Guests, of whom some had no session at all and others two."""
    seconds: float
    settled_seconds: float
    before: Usage
    after: Usage
    slow: list[str]
    """Guests that were slower than the server's deadlines: what became of them says nothing."""
    failures: list[str]
    """What guests and the server's log say that should not have been."""

    @property
    def leaks(self) -> list[str]:
        """What is more than it was."""
        before, after = self.before, self.after
        found = [
            f"{name}: {before.values.get(name, 0):g} became {value:g}"
            for name, value in after.values.items()
            if value > before.values.get(name, 0)
        ]
        if after.files > before.files:
            found.append(f"open files: {before.files} became {after.files}")
        if after.blocks > before.blocks + MAX_BLOCKS_GROWN + self.connections // 10:
            found.append(f"blocks of memory: {before.blocks} became {after.blocks}")
        if after.memory > before.memory + MAX_MEMORY_GROWN:
            found.append(f"memory: {before.memory >> 10} KiB became {after.memory >> 10} KiB")
        for name, number in after.objects.items():
            allowed = MAX_CURSOR_REFERENCES if name == "weakref.ReferenceType" else MAX_OBJECTS_GROWN
            if number > before.objects[name] + allowed:
                found.append(f"objects of {name}: {before.objects[name]} became {number}")
        return found

    def text(self) -> str:
        """Return what a person wants to know."""
        before, after = self.before, self.after
        lines = [
            f"{self.connections} guests, {self.sessions.total()} sessions in {self.seconds / 60:.1f} minutes",
            f"all was gone {self.settled_seconds:.1f} s after the last",
            *(f"  {name}: {number}" for name, number in sorted(self.sessions.items())),
            f"{len(self.slow)} guests were too slow, on this machine, to be asked how it was",
            f"memory     {before.memory >> 10} KiB before, {after.memory >> 10} KiB after",
            f"blocks     {before.blocks} before, {after.blocks} after",
            f"open files {before.files} before, {after.files} after",
            f"objects    {before.objects.total()} before, {after.objects.total()} after",
            *(f"  {name}: {number:+}" for name, number in (after.objects - before.objects).most_common(TYPES_NAMED)),
            *(f"{name} {before.values.get(name, 0):g} before, {value:g} after" for name, value in after.values.items()),
        ]
        return "\n".join([*lines, *self.failures, *(f"LEAK {leak}" for leak in self.leaks)])


async def soak(
    folder: Path,
    *,
    sessions: int,
    warm_up: int,
    concurrency: int,
    rounds: int = 1,
    say: Callable[[str], None] = print,
) -> Report:
    """Have that many guests come and go, `concurrency` of them at a time, and return what they left behind.

    After the warm-up and after each round all have gone, and it is said what the server holds.
    """
    failures: list[str] = []
    slow: list[str] = []
    async with _server(folder) as (address, pid):
        world = await _world(folder, address)
        async with httpx.AsyncClient(base_url=f"http://{address}", headers={"Connection": "close"}, timeout=30) as http:
            usages: list[Usage] = []
            first, seconds, settled_seconds = 0, 0.0, 0.0
            opened = Counter[str]()
            for number in (warm_up, *[sessions // rounds] * rounds):
                started = time.monotonic()
                await _round(world, range(first, first + number), concurrency, failures, slow)
                last_gone = time.monotonic()
                await _settled(http)
                usage = await _usage(http)
                say(f"{first + number} guests: {usage.memory >> 10} KiB, {usage.blocks} blocks, {usage.files} files")
                if usages:
                    seconds += last_gone - started
                    settled_seconds = max(settled_seconds, time.monotonic() - last_gone)
                else:
                    opened = await _sessions(http)
                usages.append(usage)
                first += number
            opened = await _sessions(http) - opened
        os.kill(pid, signal.SIGTERM)
    log = [json.loads(line) for line in (folder / "log").read_text().splitlines()]
    failures += [f"logged: {line}" for line in log if line.get("level") == "error" or "exception" in line]
    if len(slow) > MAX_SLOW * first:
        failures += ["too many guests were slow", *slow]
    return Report(opened, first - warm_up, seconds, settled_seconds, usages[0], usages[-1], slow, failures)


@asynccontextmanager
async def _server(folder: Path) -> AsyncIterator[tuple[str, int]]:
    (folder / "relay.toml").write_text(_SETTINGS)
    with (folder / "log").open("wb") as log:
        command = [sys.executable, "-m", "tests.soak.server", str(folder / "relay.toml")]
        process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, stderr=log)
    try:
        assert process.stdout is not None
        async with process.stdout:
            with trio.fail_after(START_TIMEOUT):
                said = b"".join([part async for part in process.stdout])
        assert said, f"the server did not start: {(folder / 'log').read_text()}"
        yield said.decode().strip(), process.pid
        with trio.fail_after(START_TIMEOUT):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()


async def _world(folder: Path, address: str) -> World:
    command = ["keys", "create", "--user", "pro", "--tier", "pro", "--scope", "connect", "--scope", "publish"]
    key = await trio.to_thread.run_sync(forks.run, [*command, "--config", str(folder / "relay.toml")], os.environ)
    rooms = []
    async with httpx.AsyncClient(base_url=f"http://{address}", headers=bearer("owner")) as http:
        for number in range(ROOMS):
            answer = await http.post("/v1/chatrooms", json={"name": f"Room {number}", "type": "public"})
            rooms.append(answer.raise_for_status().json()["data"]["id"])
        # What caches keep for good, they are to have before anything is counted.
        for user in range(USERS):
            headers = {"Authorization": f"Bearer {token_of(user)}"}
            (await http.get("/v1/notifications", headers=headers)).raise_for_status()
        listed = [{"channel": f"market:S{number}", "data": {"price": 0}} for number in range(SYMBOLS)]
        listed += [{"channel": f"user:listed-{number}", "data": {"message": "M"}} for number in range(LISTED)]
        admin = bearer("root", admin=True)
        (await http.post("/v1/publish", json=listed, headers=admin)).raise_for_status()
    return World(address, tuple(rooms), key.strip())


async def _round(world: World, numbers: range, concurrency: int, failures: list[str], slow: list[str]) -> None:
    """Have guests come, each in its turn one of the behaviours, while prices and trades go on."""
    places = trio.CapacityLimiter(concurrency)

    async def one(number: int) -> None:
        behave = BEHAVIOURS[number % len(BEHAVIOURS)]
        began = trio.current_time()
        try:
            with trio.fail_after(GUEST_TIMEOUT):
                await behave(Guest(world, number))
        except (AssertionError, trio.TooSlowError, trio.BrokenResourceError, OSError) as error:
            # Who is slower than the server's deadlines, on a machine with other work, is rightly shown the door.
            in_time = trio.current_time() - began < min(AUTH_TIMEOUT, PING_INTERVAL)
            (failures if in_time else slow).append(f"guest {number} ({behave.__name__}): {error!r}")
        finally:
            places.release_on_behalf_of(number)

    over = trio.Event()
    async with trio.open_nursery() as publishing:
        publishing.start_soon(_publish, world, over)
        async with trio.open_nursery() as guests:
            for number in numbers:
                await places.acquire_on_behalf_of(number)
                guests.start_soon(one, number)
        over.set()


async def _publish(world: World, over: trio.Event) -> None:
    """Publish something of everything, for those who are there, until all is over."""
    turn = 0
    big = {"channel": BIG, "type": "market:note", "data": {"text": "x" * 50_000}}
    headers = {"X-API-Key": world.key}
    async with httpx.AsyncClient(base_url=f"http://{world.address}", headers=headers, timeout=GUEST_TIMEOUT) as http:
        while not over.is_set():
            turn += 1
            drafts = [
                *({"channel": f"market:S{(turn * 10 + n) % SYMBOLS}", "data": {"price": turn}} for n in range(10)),
                {"channel": "market:BTC", "data": {"price": turn}},
                {"channel": "trades", "data": {"amount": turn}},
                {"channel": "broadcast", "type": "post:created", "data": {"turn": turn}},
                *[big] * 8,
            ]
            (await http.post("/v1/publish", json=drafts)).raise_for_status()
            await trio.sleep(PUBLISH_INTERVAL)


async def _settled(http: httpx.AsyncClient) -> None:
    """Return when nobody and nothing of anybody is there; or in SETTLE_TIMEOUT, for the caller to say what is."""
    with trio.move_on_after(SETTLE_TIMEOUT):
        while True:
            values = await _values(http)
            # The connection that asks is there, and its timer is not.
            busy = [name for name, value in values.items() if value and _passes(name)]
            if not busy and values["relay_connections"] == 1:
                break
            await trio.sleep(0.2)


def _passes(name: str) -> bool:
    """Tell whether a value must become 0 when the last guest is gone."""
    return name.startswith(("relay_sessions", "relay_outbox", "relay_places_taken")) or name in {
        "relay_subscriptions", "relay_users_present", "relay_channels", "relay_store_queue{operation=write}",
        "relay_write_behind_channels",
    } or (name.startswith("relay_table_entries") and name.split("=")[1].rstrip("}") not in _CACHES)  # fmt: skip


async def _values(http: httpx.AsyncClient) -> dict[str, float]:
    """Return every gauge of Relay's."""
    answer = (await http.get("/metrics")).raise_for_status()
    values = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            if family.type == "gauge" and sample.name.startswith(("relay_", "process_open_fds", "process_resident")):
                labels = ",".join(f"{key}={value}" for key, value in sample.labels.items())
                values[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return values


async def _sessions(http: httpx.AsyncClient) -> Counter[str]:
    answer = (await http.get("/metrics")).raise_for_status()
    opened: Counter[str] = Counter()
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            if sample.name == "relay_sessions_opened_total":
                opened[f"{sample.labels['dialect']} over {sample.labels['transport']}"] = int(sample.value)
    return opened


async def _usage(http: httpx.AsyncClient) -> Usage:
    census = (await http.get("/objects")).raise_for_status().json()
    values = await _values(http)
    memory, files = values.pop("process_resident_memory_bytes"), values.pop("process_open_fds")
    return Usage(int(memory), int(files), values, Counter(census["objects"]), census["blocks"])
