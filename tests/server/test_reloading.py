"""A reload on a real server with real clients: taken up at once and as a whole, or not at all, and no connection is dropped."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio

from relay.config.reloading import Reloaded, Source
from relay.ground.errors import Code, RequestError
from relay.model.principal import Principal
from relay.server import reloading
from relay.server.server import Server
from tests import stores
from tests.api.probe import create_key
from tests.backend import Backend, Received, Reply, backend, result
from tests.clients import Client, connect, live
from tests.hooks.hooked import SECRET as HOOK_SECRET
from tests.hooks.receiver import SECRET as WEBHOOK_SECRET
from tests.hooks.receiver import receiver
from tests.http_client import http_client
from tests.running import SECRET, bearer, running, token
from tests.waiting import until

pytestmark = pytest.mark.slow

HEAD = "[server]\n"
BASE = """
[namespaces.notes]
subscribe = "users"
publish = "users"
[namespaces.open]
subscribe = "anyone"
[namespaces.mine]
subscribe = "granted"
publish = "users"
"""


@attrs.frozen
class Running:
    """A server with a file that it can load again."""

    server: Server
    address: str
    http: httpx.AsyncClient
    """As an admin."""
    file: Path

    def write(self, text: str) -> None:
        """Replace the file, as an editor should."""
        beside = self.file.with_suffix(".new")
        beside.write_text(HEAD + text)
        beside.rename(self.file)

    async def reload(self, text: str) -> Reloaded:
        """Replace the file and reload."""
        self.write(text)
        return await self.server.reloader.reload()

    async def refused(self, text: str) -> list[tuple[str, str]]:
        """Replace the file, and return the mistakes that the reload is refused with."""
        self.write(text)
        answer = await self.http.post("/v1/admin/reload")
        assert answer.status_code == 409, answer.text
        mistakes = [(error["field"], error["message"]) for error in answer.json()["errors"]]
        assert answer.json()["message"].endswith("; ".join(f"{field}: {message}" for field, message in mistakes))
        return mistakes

    async def publish(self, channel: str, data: Any) -> httpx.Response:
        """Publish to a channel."""
        return await self.http.post("/v1/publish", json={"channel": channel, "data": data})


@asynccontextmanager
async def reloadable(folder: Path, text: str = BASE) -> AsyncIterator[Running]:
    """Run a server on a file."""
    file = folder / "relay.toml"
    file.write_text(HEAD + text)
    source = Source(file, {}, {"server.port": 0, "auth.jwt_secret": SECRET, **stores.settings_for(folder)})
    with trio.fail_after(60):
        async with running(source.load(), source=source) as (server, address):
            _, key = await create_key(folder, "admin")
            async with http_client(address, headers={"X-API-Key": key}) as http:
                yield Running(server, address, http, file)


async def subscribed(client: Client, channel: str) -> None:
    """Subscribe."""
    answer = await client.ask(type="subscribe", channel=channel)
    assert answer["type"] == "subscribed", answer


# -- limits, origins and the log ---------------------------------------------------------------------------------------


async def test_limits_hold_at_once_for_those_who_are_connected(tmp_path: Path) -> None:
    async with reloadable(tmp_path) as relay, live(relay.address, "ann") as ann:
        for number in range(3):
            await subscribed(ann, f"notes:{number}")
        reloaded = await relay.reload(
            f"{BASE}[limits]\nmax_subscriptions = 2\nframes_per_minute = 5\nmax_body_bytes = 100\n"
        )
        assert reloaded.taken == ["limits.frames_per_minute", "limits.max_subscriptions", "limits.max_body_bytes"]
        assert reloaded.waiting == []
        refusal = await ann.ask(type="subscribe", channel="notes:9")
        assert "at most 2 subscriptions" in refusal["data"]["message"]
        await relay.publish("notes:2", 1)
        assert (await ann.receive())["data"] == 1  # it keeps those that it has
        answers = [(await ann.ask(type="ping"))["type"] for _ in range(8)]
        assert answers.count("error") >= 3
        assert (await relay.http.post("/v1/chatrooms", json={"name": "x" * 200})).status_code == 413
        await relay.reload(f"{BASE}[limits]\nframes_per_minute = 60000\n")
        await until_answered(ann)
        await subscribed(ann, "notes:10")


async def until_answered(client: Client) -> None:
    """Ping until the pong comes."""

    async def answered() -> bool:
        return bool((await client.ask(type="ping"))["type"] == "pong")

    await until(answered)


async def test_limits_of_new_connections(tmp_path: Path) -> None:
    """Messages, outboxes and the time to authenticate; an open connection keeps those that it began with."""
    async with reloadable(tmp_path) as relay, live(relay.address, "ann") as ann:
        text = f"{BASE}[limits]\nmax_message_bytes = 200\nauth_timeout = 0.2\nmax_outbox_bytes = 300000\n"
        assert len((await relay.reload(text)).taken) == 3
        await ann.ask(type="ping", requestId="x" * 100)
        async with live(relay.address, "bob") as bob:
            await bob.send(type="ping", padding="x" * 300)
            assert (await bob.closed())[0] == 1009
        async with live(relay.address) as late:
            assert (await late.closed())[0] == 1008
        async with connect(relay.address, "/socket.io/?EIO=4&transport=websocket"):
            [peer] = [one for one in relay.server.core.connections.after(0) if one.dialect == "socketio"]
            await until(lambda: len(relay.server.core.connections) == 1)
            assert peer.outbox.max_bytes == 300_000  # type: ignore[attr-defined]


async def test_origins(tmp_path: Path) -> None:
    """Of pages over WebSocket, REST, the fast routes and polling; an open connection stays."""
    page = {"Origin": "https://app.example.org"}
    polling = "/socket.io/?EIO=4&transport=polling"
    upgrade = {
        **page, "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }  # fmt: skip
    async with reloadable(tmp_path) as relay, live(relay.address, "ann") as ann:
        assert (await relay.http.get(polling, headers=page)).status_code == 200
        allowed = (await relay.http.get("/v1/chatrooms", headers=page)).headers["Access-Control-Allow-Origin"]
        assert allowed == "*"
        relay.write(BASE)
        relay.file.write_text(
            relay.file.read_text().replace(HEAD, HEAD + 'allowed_origins = ["https://b.example.org"]')
        )
        assert (await relay.server.reloader.reload()).taken == ["server.allowed_origins"]
        assert (await relay.http.get(polling, headers=page)).status_code == 403
        assert (await relay.http.get("/v1/live", headers=upgrade)).status_code == 403
        for path in ("/v1/chatrooms", "/v1/publish"):
            answer = await relay.http.request("GET" if path == "/v1/chatrooms" else "POST", path, headers=page)
            assert "Access-Control-Allow-Origin" not in answer.headers
            assert answer.headers["Vary"] == "Origin"
        assert (await relay.http.post("/v1/publish")).headers["Vary"] == "Origin"
        await ann.nothing()


async def test_the_level_of_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    level = logging.getLogger("relay").level
    try:
        async with reloadable(tmp_path) as relay:
            await relay.reload(f'{BASE}[log]\nlevel = "error"\n')
            caplog.clear()
            await relay.http.post("/v1/admin/keys", json={"user": "x"})
            assert caplog.records == []
            await relay.reload(f'{BASE}[log]\nlevel = "debug"\n')
            async with connect(relay.address, "/v1/live"):
                await until(lambda: "session opened" in caplog.text)
    finally:
        logging.getLogger("relay").setLevel(level)


# -- namespaces --------------------------------------------------------------------------------------------------------


async def test_subscriptions_end_with_a_reason_where_the_right_is_gone(tmp_path: Path) -> None:
    """Of a removed namespace, and of one whose rule leaves a reader out: with and without a user, pending ones included."""
    grant = {"grants": {"subscribe": ["mine:*"], "publish": []}}
    async with (
        reloadable(tmp_path) as relay,
        live(relay.address, "ann", more=grant) as ann,
        live(relay.address) as guest,
        connect(relay.address, f"/api/ws?token={token('cid')}") as cid,
        live(relay.address, "root", admin=True) as root,
    ):
        for client in (ann, root):
            await subscribed(client, "notes:1")
        assert (await cid.ask(type="subscribe", data={"channel": "notes:1"}))["type"] == "subscribed"
        for client in (ann, guest):
            await subscribed(client, "open:1")
        await subscribed(ann, "mine:1")
        text = '[namespaces.open]\nsubscribe = "users"\n[namespaces.mine]\nsubscribe = "nobody"\n'
        reloaded = await relay.reload(text)
        assert reloaded.taken == [
            "namespaces.notes",
            "namespaces.open.subscribe",
            "namespaces.mine.subscribe",
            "namespaces.mine.publish",
        ]
        ended = [await ann.receive(), await ann.receive()]
        assert {(one["type"], one["data"]["channel"], one["data"]["reason"]) for one in ended} == {
            ("unsubscribed", "notes:1", "unknown_namespace"), ("unsubscribed", "mine:1", "closed"),
        }  # fmt: skip
        assert (await cid.receive())["data"]["reason"] == "unknown_namespace"
        assert (await root.receive())["data"]["reason"] == "unknown_namespace"
        assert (await guest.receive())["data"]["reason"] == "not_authenticated"
        assert (await relay.publish("open:1", "still")).status_code == 200
        assert (await ann.receive())["data"] == "still"
        refusal = await ann.ask(type="subscribe", channel="notes:1")
        assert refusal["data"]["reason"] == "unknown_namespace"
        answer = await relay.publish("notes:1", {})
        assert answer.json()["reason"] == "unknown_namespace"
        for client in (ann, guest, cid, root):
            await client.nothing()


async def test_a_namespace_that_comes_back_has_its_history(tmp_path: Path) -> None:
    async with reloadable(tmp_path) as relay, live(relay.address, "ann") as ann:
        for number in range(3):
            await relay.publish("notes:1", number)
        await relay.reload("")
        await relay.reload(BASE)
        await ann.send(type="subscribe", channel="notes:1", last=10)
        assert (await ann.receive())["type"] == "subscribed"
        assert [(await ann.receive())["data"] for _ in range(3)] == [0, 1, 2]
        await relay.publish("notes:1", 3)
        message = await ann.receive()
        assert (message["data"], message["offset"]) == (3, 4)


async def test_options_of_a_namespace_hold_at_once(tmp_path: Path) -> None:
    """For channels in memory and their subscribers, publishers and history; those that need a restart are named."""
    async with reloadable(tmp_path) as relay, live(relay.address, "ann") as ann:
        await subscribed(ann, "notes:1")
        await relay.publish("notes:1", 1)
        assert (await ann.receive())["type"] == "notes:event"
        text = BASE.replace(
            '[namespaces.notes]\nsubscribe = "users"\npublish = "users"',
            '[namespaces.notes]\nsubscribe = "users"\npublish = "nobody"\ntype = "note"\nmax_data_bytes = 10\n'
            'history_size = 5\ndurable = false\npresence = true\nslow_readers = "latest"',
        )
        reloaded = await relay.reload(text)
        assert set(reloaded.waiting) == {f"namespaces.notes.{one}" for one in ("durable", "history_size", "presence")}
        assert not set(reloaded.taken) & set(reloaded.waiting)
        assert await relay.reload(text) == Reloaded([], reloaded.waiting)  # named again until the restart
        assert (await ann.ask(type="publish", channel="notes:1", data=2))["data"]["reason"] == "publish_not_allowed"
        assert (await relay.publish("notes:1", "x" * 20)).status_code == 413
        await relay.publish("notes:1", 3)
        assert (await ann.receive())["type"] == "note"
        assert (await relay.http.get("/v1/channels/notes:1/presence")).status_code == 400


async def test_a_name_without_a_colon_may_come_to_belong_elsewhere(tmp_path: Path) -> None:
    """A channel of `default` ends when a namespace of its name appears."""
    text = '[namespaces.default]\nsubscribe = "users"\n'
    async with reloadable(tmp_path, text) as relay, live(relay.address, "ann") as ann:
        await subscribed(ann, "lobby")
        await relay.reload(text + '[namespaces.lobby]\nsubscribe = "users"\n')
        assert (await ann.receive())["data"]["reason"] == "unknown_namespace"
        await subscribed(ann, "lobby:1")


async def test_no_frame_in_flight_is_lost(tmp_path: Path) -> None:
    """Every publication that is told of its position reaches the subscriber, while the server reloads all the time."""
    async with reloadable(tmp_path) as relay, live(relay.address, "ann") as ann, trio.open_nursery() as nursery:
        await subscribed(ann, "notes:1")

        async def reload_often() -> None:
            for number in range(30):
                rule = "users" if number % 2 else "anyone"
                await relay.reload(
                    BASE.replace('[namespaces.open]\nsubscribe = "anyone"', f'[namespaces.open]\nsubscribe = "{rule}"')
                )

        nursery.start_soon(reload_often)
        for number in range(100):
            assert (await relay.publish("notes:1", number)).status_code == 200
        assert [(await ann.receive())["offset"] for _ in range(100)] == list(range(1, 101))


# -- mistakes ----------------------------------------------------------------------------------------------------------


async def test_a_file_with_mistakes_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each mistake is in the answer and in the log, no secret is, and the status of the service tells."""
    async with reloadable(tmp_path) as relay, live(relay.address, "ann") as ann:
        await subscribed(ann, "notes:1")
        before = relay.server.core.config
        hostile = (
            "[limits]\nmax_subscriptions = -1\nauth_timeot = 3\n[namespaces.Evil]\n"
            f'[namespaces.x]\ntype = "a\\u001b[31mb"\n[log]\nlevel = "{SECRET}"\n'
        )
        mistakes = await relay.refused(hostile)
        assert [field for field, _ in mistakes] == [
            "limits.max_subscriptions", "limits.auth_timeot", "namespaces.Evil", "namespaces.x.type", "log.level",
        ]  # fmt: skip
        assert relay.server.core.config is before
        logged = [
            vars(one)["fields"]["setting"]
            for one in caplog.records
            if one.getMessage() == "mistake in the configuration"
        ]
        assert logged == [field for field, _ in mistakes]
        assert "mistakes: 5" in relay.server.status
        assert (await relay.publish("notes:1", 1)).status_code == 200
        assert (await ann.receive())["data"] == 1
        metrics = (await relay.http.get("/metrics")).text
        assert 'relay_reloads_total{outcome="refused"} 1.0' in metrics
        await relay.reload(BASE)
        assert "mistakes" not in relay.server.status


@pytest.mark.parametrize("text", ["[limits\n", "x = " + "[" * 5000, '[server]\nport = "x"\n', "\0", "é = 1\n"])
async def test_hostile_files(tmp_path: Path, text: str) -> None:
    async with reloadable(tmp_path) as relay:
        assert len(await relay.refused(text)) == 1
        relay.file.write_bytes(b"\xff\xfe")
        assert (await relay.http.post("/v1/admin/reload")).status_code == 409
        relay.file.unlink()
        assert (await relay.http.post("/v1/admin/reload")).status_code == 409
        relay.write(BASE)
        assert (await relay.http.post("/v1/admin/reload")).json()["data"] == {
            "file": str(relay.file), "taken": [], "waiting": []
        }  # fmt: skip


async def test_hundreds_of_mistakes_are_told_in_part(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with reloadable(tmp_path) as relay:
        mistakes = await relay.refused("".join(f"x{number} = 1\n" for number in range(300)))
        assert len(mistakes) == reloading.MAX_SHOWN
        shown = [one for one in caplog.records if one.getMessage() == "mistake in the configuration"]
        assert len(shown) == reloading.MAX_SHOWN


async def test_a_file_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So is one whose loading fails in a way that nobody foresaw; the next reload works."""
    ended = trio.Event()
    async with reloadable(tmp_path) as relay:

        def hang(_: object) -> Any:
            trio.from_thread.run(ended.wait)

        def fail(_: object) -> Any:
            raise ZeroDivisionError("SECRET")

        with monkeypatch.context() as patched:
            patched.setattr(reloading, "LOAD_TIMEOUT", 0.1)
            patched.setattr(Source, "load", hang)
            assert "could not be read within 0.1 seconds" in (await relay.refused(BASE))[0][1]
        ended.set()
        with monkeypatch.context() as patched:
            patched.setattr(Source, "load", fail)
            [(_, message)] = await relay.refused(BASE)
            assert "errorId" in message
            assert "SECRET" not in message
        await until(lambda: _reloads(relay))


async def _reloads(relay: Running) -> bool:
    return bool((await relay.http.post("/v1/admin/reload")).is_success)


async def test_many_reloads_at_once(tmp_path: Path) -> None:
    """They take turns, and the last file counts."""
    async with reloadable(tmp_path) as relay, live(relay.address, "ann") as ann, trio.open_nursery() as nursery:
        for number in range(1, 30):
            relay.write(f"{BASE}[limits]\nmax_subscriptions = {number}\n")
            nursery.start_soon(relay.server.reloader.reload)
        await ann.nothing()
    assert relay.server.core.limits.max_subscriptions == 29


async def test_only_admins_reload(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="relay.audit")
    async with reloadable(tmp_path) as relay:
        url = f"http://{relay.address}/v1/admin/reload"
        async with http_client() as http:
            assert (await http.post(url)).status_code == 401
            assert (await http.post(url, headers=bearer("ann"))).status_code == 403
            assert "reload" not in caplog.text
            assert (await http.post(url, headers=bearer("ann", admin=True))).status_code == 200
        [line] = [vars(one)["fields"] for one in caplog.records if one.name == "relay.audit"]
        assert line["by"] == "ann"


# -- backend hooks -----------------------------------------------------------------------------------------------------


async def test_hooks_come_and_go(tmp_path: Path) -> None:
    """With the settings that name them; and what rests on the yes of a backend ends when no backend decides any more."""

    async def yes(request: Received) -> Reply:
        return result({"result": {"user": "ann"} if request.headers["relay-hook"] == "connect" else {}})

    async with backend(yes) as first, backend(yes) as second, reloadable(tmp_path) as relay:

        def hooked(running: Backend) -> str:
            hook = f'[hooks.shop]\nurl = "{running.url()}"\nsecret = "{HOOK_SECRET}"\ntimeout = 10.0\n'
            return f'{BASE}subscribe_hook = "shop"\npublish_hook = "shop"\n{hook}'

        async with live(relay.address, "ann") as ann:
            assert (await ann.ask(type="subscribe", channel="mine:1"))["data"]["reason"] == "no_grant"
            reloaded = await relay.reload(hooked(first))
            assert reloaded.waiting == []
            assert set(reloaded.taken) == {
                "namespaces.mine.subscribe_hook",
                "namespaces.mine.publish_hook",
                "hooks.shop",
            }
            await subscribed(ann, "mine:1")
            await relay.reload(hooked(second))
            await subscribed(ann, "mine:2")
            assert (await ann.ask(type="publish", channel="mine:3", data=1))["type"] == "published"
            assert (len(first.received), len(second.received)) == (1, 2)
            assert await relay.refused(f'{BASE}subscribe_hook = "shop"\n') == [
                ("namespaces.mine.subscribe_hook", '"shop" is not a hook of [hooks]; add a section [hooks.shop]')
            ]
            await subscribed(ann, "mine:4")
            await relay.reload(BASE)
            ended = {
                (frame["data"]["channel"], frame["data"]["reason"]) for frame in [await ann.receive() for _ in range(3)]
            }
            assert ended == {(f"mine:{number}", "no_grant") for number in (1, 2, 4)}
            assert (await ann.ask(type="publish", channel="mine:3", data=1))["type"] == "published"
            assert (len(first.received), len(second.received)) == (1, 3)
        reloaded = await relay.reload(f'{hooked(first)}[auth]\nconnect_hook = "shop"\n')
        assert "auth.connect_hook" in reloaded.taken
        async with live(relay.address) as client:
            assert (await client.ask(type="auth"))["data"]["userId"] == "ann"


async def test_a_hook_gets_no_header_that_another_one_asked_for(tmp_path: Path) -> None:
    """Also from a connection that is older than the reload."""

    async def ann(_: Received) -> Reply:
        return result({"result": {"user": "ann"}})

    async with backend(ann) as first, backend(ann) as second:

        def hooked(running: Backend, headers: str) -> str:
            hook = f'url = "{running.url()}"\nsecret = "{HOOK_SECRET}"\nheaders = {headers}\n'
            origins = 'allowed_origins = ["https://app.example.org"]\n'
            return f'{origins}{BASE}[hooks.shop]\n{hook}[auth]\nconnect_hook = "shop"\n'

        async with reloadable(tmp_path, hooked(first, '["cookie", "x-one"]')) as relay:
            headers = {"Cookie": "session=1", "X-One": "1", "X-Two": "2"}
            async with connect(relay.address, "/v1/live", headers=headers) as client:
                assert (await client.ask(type="auth"))["type"] == "auth:success"
                await relay.reload(hooked(second, '["x-one", "x-two"]'))
                assert (await client.ask(type="auth"))["type"] == "auth:success"
        assert first.received[0].json["headers"] == {"cookie": "session=1", "x-one": "1"}
        assert second.received[0].json["headers"] == {"x-one": "1"}


async def test_a_request_to_a_namespace_that_goes_with_its_hook_is_refused(tmp_path: Path) -> None:
    """A frame may wait between the look at its channel and the look at the right to it."""

    async def yes(_: Received) -> Reply:
        return result({"result": {}})

    async with backend(yes) as running_backend:
        hook = f'[hooks.shop]\nurl = "{running_backend.url()}"\nsecret = "{HOOK_SECRET}"\n'
        text = f'{BASE}subscribe_hook = "shop"\npublish_hook = "shop"\n{hook}'
        async with reloadable(tmp_path, text) as relay:
            core, ann = relay.server.core, Principal("ann")
            channel = core.namespaces.parse("mine:1")
            await relay.reload(BASE.partition("[namespaces.mine]")[0])
            for check in (core.rights.check_subscribe, core.rights.check_publish):
                with pytest.raises(RequestError) as refused:
                    await check(ann, channel)
                assert refused.value.code is Code.UNKNOWN_CHANNEL


# -- webhooks ----------------------------------------------------------------------------------------------------------


async def test_webhooks_come_and_go(tmp_path: Path) -> None:
    """A new webhook is told of the user who is connected, and a mistake in one changes nothing."""
    async with receiver() as told, reloadable(tmp_path) as relay, live(relay.address, "ann"):
        hook = f'{BASE}[webhooks.crm]\nurl = "{told.backend.url()}"\nsecret = "{WEBHOOK_SECRET}"\n'
        assert await relay.refused(hook) == [
            (
                "webhooks.crm.url",
                "begins with http; use https, or set allow_private = true for a receiver in your own network",
            )
        ]
        assert (await relay.reload(f"{hook}allow_private = true\n")).taken == ["webhooks.crm"]
        await until(lambda: told.summaries == [("user.connected", "ann")])
        assert (await relay.reload(BASE)).taken == ["webhooks.crm"]
        assert not relay.server.core.webhooks.senders
