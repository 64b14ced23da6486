"""The routes for the console and the command line, and the front page, on a real server."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio

from relay.access import this_node
from relay.api import tail as tailing
from relay.broker import taps
from relay.ground.errors import Reason
from relay.server.server import Server
from tests.api.probe import create_key
from tests.clients import connect, live
from tests.http_client import http_client
from tests.running import bearer, config_for, running, token
from tests.waiting import TIMEOUT

HOSTILE = 'ann<img src=x onerror="alert(1)">'


@attrs.frozen
class Admin:
    """A server, and an HTTP client of an admin."""

    server: Server
    address: str
    http: httpx.AsyncClient
    folder: Path

    async def get(self, path: str, **query: Any) -> Any:
        """Return the data of a success."""
        answer = await self.http.get(f"/v1/admin{path}", params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    async def post(self, path: str, status: int = 200, /, **body: Any) -> Any:
        """Return the data of a success, or the message of a refusal."""
        answer = await self.http.post(f"/v1/admin{path}", json=body)
        assert answer.status_code == status, answer.text
        return answer.json()["data"] if status < 400 else answer.json()["message"]

    async def publish(self, channel: str, **data: Any) -> None:
        """Publish to a channel."""
        answer = await self.http.post("/v1/publish", json={"channel": channel, "data": data})
        assert answer.status_code == 200, answer.text

    async def until_connections(self, count: int) -> None:
        """Wait until so many connections are open."""
        with trio.fail_after(TIMEOUT):
            while len(self.server.core.connections) != count:
                await trio.sleep(0.01)


@asynccontextmanager
async def administered(folder: Path, **overrides: Any) -> AsyncIterator[Admin]:
    """Run a server; yields it with a client that brings an admin's key."""
    with trio.fail_after(60):
        async with running(config_for(folder, overrides)) as (server, address):
            _, key = await create_key(folder, "admin")
            headers = {"X-API-Key": key}
            async with http_client(address, headers=headers) as http:
                yield Admin(server, address, http, folder)


# -- connections -------------------------------------------------------------------------------------------------------


async def test_connections_say_who_is_there(tmp_path: Path) -> None:
    async with (
        administered(tmp_path) as admin,
        live(admin.address, HOSTILE) as ann,
        connect(admin.address, "/v1/live"),
        connect(admin.address, "/api/v1/ws/trades"),
    ):
        await ann.ask(type="subscribe", channel="community", communityId="c1")
        await admin.until_connections(3)
        found = await admin.get("/connections")
        assert (found["total"], found["cursor"]) == (3, None)
        first, second, third = found["connections"]
        assert (first["userId"], first["dialect"], first["address"]) == (HOSTILE, "live", "127.0.0.1")
        assert first["subscriptions"] >= 1
        assert first["waitingBytes"] == 0
        assert first["sentBytes"] > 100
        assert first["since"].endswith("Z")
        assert (second["userId"], second["dialect"], second["subscriptions"]) == (None, "live", 0)
        assert (third["userId"], third["dialect"], third["subscriptions"]) == (None, "feeds", 1)
        for query, ids in (
            ({"user": HOSTILE}, [first["id"]]),
            ({"user": "nobody"}, []),
            ({"dialect": "feeds"}, [third["id"]]),
            ({"channel": "community:c1"}, [first["id"]]),
            ({"channel": "community:c1", "dialect": "feeds"}, []),
            ({"channel": "trades"}, [third["id"]]),
            ({"channel": "community:none"}, []),
        ):
            assert [one["id"] for one in (await admin.get("/connections", **query))["connections"]] == ids, query
    assert len(admin.server.core.connections) == 0
    assert admin.server.core.connections.user_count == 0


@pytest.mark.slow
async def test_a_connection_has_one_id(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its client, publications, lists, methods and the log name it alike. By it a copy is left out, and it is ended."""
    caplog.set_level(logging.DEBUG, logger="relay")
    settings = {"namespaces": {"notes": {"subscribe": "users", "publish": "users", "presence": True}}}
    async with (
        administered(tmp_path, **settings) as admin,
        live(admin.address) as ann,
        live(admin.address, "bob") as bob,
    ):
        id_ = (await ann.ask(type="auth", token=token("ann")))["data"]["connectionId"]
        listed = await admin.get("/connections", user="ann")
        assert [one["id"] for one in listed["connections"]] == [id_]
        for client in (ann, bob):
            await client.ask(type="subscribe", channel="notes:1")
        present = (await admin.http.post("/api/presence", json={"channel": "notes:1"})).json()["result"]["presence"]
        assert present[id_] == {"client": id_, "user": "ann"}
        assert len(present) == 2
        body = {"channel": "notes:1", "data": 1, "exclude": id_}
        assert (await admin.http.post("/v1/publish", json=body)).status_code == 200
        assert (await bob.receive())["data"] == 1
        assert (await ann.receive())["type"] == "skipped"
        await ann.send(type="publish", channel="notes:1", data=2)
        assert (await bob.until("notes:event"))["publisher"]["connection"] == id_
        assert await admin.post("/disconnect", user="bob", client=id_) == {"disconnected": 0}
        assert await admin.post("/disconnect", client=id_) == {"disconnected": 1}
        assert (await ann.closed())[0] == 1008
        await bob.nothing()
    named = {record.getMessage(): vars(record).get("fields", {}) for record in caplog.records}
    closed = [vars(one)["fields"] for one in caplog.records if one.getMessage() == "session closed"]
    assert [fields["connection"] for fields in closed if fields["user"] == "ann"] == [id_]
    assert len(named["session authenticated"]["connection"]) == len(id_)


async def test_pages_of_connections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every connection comes once, in the order of opening, also while others end; a page looks at a bounded number."""
    async with administered(tmp_path) as admin, AsyncExitStack() as stack:
        for number in range(7):
            await stack.enter_async_context(live(admin.address, f"user-{number}"))
        seen: list[str] = []
        cursor: dict[str, str] | None = {}
        while cursor is not None:
            page = await admin.get("/connections", limit=3, **cursor)
            assert len(page["connections"]) <= 3
            seen += [one["userId"] for one in page["connections"]]
            cursor = None if page["cursor"] is None else {"cursor": page["cursor"]}
            if len(seen) == 3:
                admin.server.core.this_node.disconnect(user_id="user-1", connection_id=None, reason=Reason.RECONNECT)
                await admin.until_connections(6)
        assert seen == [f"user-{number}" for number in range(7)]
        monkeypatch.setattr(this_node, "MAX_EXAMINED", 2)
        page = await admin.get("/connections", dialect="feeds")
        assert page["connections"] == []
        assert page["cursor"] is not None


@pytest.mark.parametrize(
    "path",
    [
        "/connections?limit=0",
        "/connections?limit=201",
        "/connections?limit=x",
        "/connections?limit=0000000011000",
        f"/connections?limit=1{'0' * 5000}",
        "/connections?cursor=x",
        "/connections?channel=nothing",
        "/channels?limit=0",
        "/keys?limit=-1",
        "/tail?rate=0",
        "/tail?rate=x",
    ],
)
async def test_a_query_that_is_wrong(tmp_path: Path, path: str) -> None:
    async with administered(tmp_path) as admin:
        assert (await admin.http.get(f"/v1/admin{path}")).status_code == 400


async def test_disconnect_and_unsubscribe(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with administered(tmp_path) as admin, live(admin.address, "ann") as one, live(admin.address, "ann") as two:
        await one.ask(type="subscribe", channel="community", communityId="c1")
        with caplog.at_level(logging.INFO, logger="relay.audit"):
            assert await admin.post("/unsubscribe", user="ann", channel="community:c1") == {"unsubscribed": 1}
            assert (await one.receive())["type"] == "unsubscribed"
            assert await admin.post("/unsubscribe", user="ann", channel="community:c1") == {"unsubscribed": 0}
            [first, second] = (await admin.get("/connections", user="ann"))["connections"]
            assert await admin.post("/disconnect", client=first["id"], reconnect=True) == {"disconnected": 1}
            assert (await one.closed())[0] == 1012
            await admin.until_connections(1)
            assert await admin.post("/disconnect", client=first["id"]) == {"disconnected": 0}
            assert await admin.post("/disconnect", user="ann", whitelist=[second["id"]]) == {"disconnected": 0}
            assert await admin.post("/disconnect", user="ann") == {"disconnected": 1}
            assert (await two.closed())[0] == 1008
        assert len([one for one in caplog.records if one.name == "relay.audit"]) == 6
        assert "is required" in await admin.post("/disconnect", 400)


# -- channels, limits and keys -----------------------------------------------------------------------------------------


async def test_channels(tmp_path: Path) -> None:
    async with administered(tmp_path) as admin, live(admin.address, "ann") as ann:
        for id_ in ("a", "b", "c"):
            await ann.ask(type="subscribe", channel="community", communityId=id_)
        await admin.publish("community:b", n=1)
        await admin.publish("community:unheard", n=1)
        page = await admin.get("/channels", pattern="community:*", limit=2)
        assert [one["name"] for one in page["channels"]] == ["community:a", "community:b"]
        assert {**page["channels"][1], "epoch": ""} == {
            "name": "community:b",
            "subscribers": 1,
            "offset": 1,
            "epoch": "",
            "kept": 1,
        }
        rest = await admin.get("/channels", pattern="community:*", limit=2, cursor=page["cursor"])
        assert ([one["name"] for one in rest["channels"]], rest["cursor"]) == (["community:c"], None)


async def test_the_longest_name_of_a_channel_can_be_managed(tmp_path: Path) -> None:
    """A namespace has 32 characters, and an id has 256."""
    space = "n" * 32
    one, two = (f"{space}:{last * 256}" for last in "ab")
    async with (
        administered(tmp_path, **{f"namespaces.{space}.subscribe": "users"}) as admin,
        live(admin.address, "ann") as ann,
    ):
        for name in (one, two):
            assert (await ann.ask(type="subscribe", channel=name))["type"] == "subscribed"
        await admin.publish(one, n=1)
        page = await admin.get("/channels", limit=1, pattern="n*")
        rest = await admin.get("/channels", limit=1, cursor=page["cursor"], pattern=two)
        assert [entry["name"] for entry in (*page["channels"], *rest["channels"])] == [one, two]
        assert len((await admin.get("/history", channel=one))["publications"]) == 1
        assert len((await admin.get("/connections", channel=one))["connections"]) == 1
        assert (await admin.post("/why", user="ann", channel=one))["allowed"]
        for method in ("history", "presence", "presence_stats", "channels", "history_remove"):
            answer = await admin.http.post(f"/api/{method}", json={"channel": one, "pattern": one, "limit": 1})
            assert answer.json()["result"] is not None
        assert await admin.post("/unsubscribe", user="ann", channel=one) == {"unsubscribed": 1}
        assert (await admin.http.get(f"/v1/admin/history?channel={one}x")).status_code == 400


async def test_limits_in_force(tmp_path: Path) -> None:
    async with administered(tmp_path, **{"limits.max_subscriptions": 7}) as admin, live(admin.address, "ann"):
        found = await admin.get("/limits")
        assert found["limits"]["max_subscriptions"] == 7
        assert found["places"]["live"][0]["used"] == 1


@pytest.mark.slow
async def test_keys(tmp_path: Path) -> None:
    async with administered(tmp_path) as admin:
        created = await admin.post("/keys", 201, user="back", scopes=["publish"], tier="pro")
        secret = created.pop("secret")
        headers = {"X-API-Key": secret}
        item = {"channel": "trades", "data": {}}
        assert (await admin.http.post("/v1/publish", json=item, headers=headers)).status_code == 200
        page = await admin.get("/keys", limit=1)
        assert len(page["keys"]) == 1
        rest = await admin.get("/keys", cursor=page["cursor"])
        assert (rest["keys"], rest["cursor"]) == ([created], None)
        assert secret not in json.dumps([page, rest])
        answer = await admin.http.delete(f"/v1/admin/keys/{created['id']}")
        assert answer.status_code == 200
        await trio.sleep(1.1)
        assert (await admin.http.post("/v1/publish", json=item, headers=headers)).status_code == 401
        assert (await admin.http.delete("/v1/admin/keys/key_none")).status_code == 404
        bodies: tuple[dict[str, Any], ...] = (
            {},
            {"user": "x", "scopes": ["root"]},
            {"user": "x", "tier": "gold"},
            {"user": "\x1b[31m"},
        )
        for body in bodies:
            await admin.post("/keys", 400, **body)


# -- why ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "allowed", "code", "change"),
    [
        ({"channel": "user:ann"}, False, "unauthorized", "Authenticate"),
        ({"user": "ann", "channel": "user:ann"}, True, None, ""),
        ({"user": "bob", "channel": "user:ann"}, False, "forbidden", "the token of the user ann"),
        ({"user": "bob", "channel": "chatroom:none"}, False, "not_found", "Create the room none"),
        ({"user": "bob", "channel": "nothing:1"}, False, "unknown_channel", "chatroom"),
        ({"user": "bob", "channel": "market:BTC"}, True, None, ""),
        ({"user": "bob", "channel": "market:BTC", "action": "publish"}, False, "forbidden", "the scope publish"),
    ],
)
async def test_why(tmp_path: Path, body: dict[str, str], allowed: bool, code: str | None, change: str) -> None:
    async with administered(tmp_path) as admin:
        found = await admin.post("/why", **body)
        assert (found["allowed"], found["code"]) == (allowed, code)
        assert change in found["change"]
        assert found["steps"][0]["check"] == "caller"
        assert found["steps"][-1]["check"] == "result"


async def test_why_for_a_token_and_a_key(tmp_path: Path) -> None:
    async with administered(tmp_path) as admin:
        token = bearer("root", admin=True)["Authorization"].partition(" ")[2]
        assert (await admin.post("/why", token=token, channel="user:ann"))["allowed"]
        key, secret = await create_key(tmp_path, "publish")
        found = await admin.post("/why", key=key.id, channel="market:BTC", action="publish")
        assert found["allowed"]
        assert secret not in json.dumps(found)
        bad = await admin.post("/why", token="nonsense", channel="user:ann")
        assert (bad["allowed"], bad["code"], bad["steps"][0]["check"]) == (False, "unauthorized", "token")
        assert "the user root" in await admin.post("/why", 400, token=token, user="ann", channel="user:ann")
        await admin.post("/why", 400, key="key_none", channel="user:ann")
        await admin.post("/why", 400, user="ann", channel="user:ann", action="fly")


async def test_why_an_api_key_may_not_do_what_a_user_may(tmp_path: Path) -> None:
    """Rules and backend hooks are for users."""
    own = {"namespaces.notes.subscribe": "users", "namespaces.notes.publish": "users"}
    async with administered(tmp_path, **own) as admin:
        assert (await admin.post("/why", user="ann", channel="notes:1", action="publish"))["allowed"]
        key, secret = await create_key(tmp_path, "connect")
        headers = {"X-API-Key": secret}
        url = "/v1/channels/notes%3A1"
        assert (await admin.http.get(f"{url}/history", headers=headers)).status_code == 403
        assert (await admin.http.post(f"{url}/publish", json={"data": 1}, headers=headers)).status_code == 403
        found = await admin.post("/why", key=key.id, channel="notes:1")
        assert (found["allowed"], found["code"]) == (False, "forbidden")
        assert "scope admin" in found["change"]
        found = await admin.post("/why", key=key.id, channel="notes:1", action="publish")
        assert (found["allowed"], found["code"]) == (False, "forbidden")
        assert "scope publish" in found["change"]
        assert (await admin.post("/why", key=key.id, channel="market:BTC"))["allowed"], "it is for anyone"
        for scope, action in (("admin", "subscribe"), ("admin", "publish"), ("publish", "publish")):
            key, _ = await create_key(tmp_path, scope)
            assert (await admin.post("/why", key=key.id, channel="notes:1", action=action))["allowed"]


# -- tail --------------------------------------------------------------------------------------------------------------


class Lines:
    """The lines of a tail, decoded, without blank ones."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._rest = b""

    async def head(self) -> bytes:
        """Return the status line; the headers are passed over."""
        head = await self._line()
        while (await self._line()).strip():
            pass
        return head

    async def next(self) -> Any:
        """Return the next line; None at the end."""
        with trio.fail_after(TIMEOUT):
            while (line := await self._line()) == b"\n":
                pass
            return json.loads(line) if line else None

    async def _line(self) -> bytes:
        while b"\n" not in self._rest:
            data = await self._stream.receive_some()
            if not data:
                return b""
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line + b"\n"


@asynccontextmanager
async def tailed(admin: Admin, query: str = "") -> AsyncIterator[Lines]:
    """Open a tail; yields its lines."""
    host, _, port = admin.address.partition(":")
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        key = admin.http.headers["X-API-Key"]
        await stream.send_all(f"GET /v1/admin/tail?{query} HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\n\r\n".encode())
        lines = Lines(stream)
        assert b" 200 " in await lines.head()
        yield lines


@pytest.mark.slow
async def test_a_tail_shows_what_matches(tmp_path: Path) -> None:
    """Durable and write-behind publications, whether a client listens or not."""
    async with administered(tmp_path) as admin, live(admin.address, "ann") as ann:
        await ann.ask(type="subscribe", channel="community", communityId="c1")
        async with tailed(admin, "pattern=*t*y:*") as lines:
            for channel in ("community:c1", "trades", "community:c2"):
                await admin.publish(channel, text=HOSTILE)
            with trio.fail_after(TIMEOUT):
                first, second = await lines.next(), await lines.next()
        assert (first["channel"], second["channel"]) == ("community:c1", "community:c2")
        assert (first["type"], first["offset"], first["data"]["text"]) == ("post:created", 1, HOSTILE)
        async with tailed(admin, "pattern=trades") as lines:
            await admin.publish("trades", n=2)
            assert (await lines.next())["data"]["n"] == 2
        with trio.fail_after(TIMEOUT):
            while admin.server.broker.channels.taps:
                await trio.sleep(0.01)


@pytest.mark.slow
async def test_a_tail_drops_and_counts(tmp_path: Path) -> None:
    async with administered(tmp_path) as admin, tailed(admin, "rate=2") as lines:
        items = [{"channel": "trades", "data": {"n": number}} for number in range(10)]
        await admin.http.post("/v1/publish", json=items)
        with trio.fail_after(TIMEOUT):
            assert [(await lines.next())["data"]["n"] for _ in range(2)] == [0, 1]
            assert await lines.next() == {"skipped": 8}
            await admin.publish("trades", n=10)
            assert (await lines.next())["data"]["n"] == 10


async def test_a_tail_takes_no_other_method(tmp_path: Path) -> None:
    """As any path that Quart routes; the connection stays."""
    async with administered(tmp_path) as admin:
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            answer = await admin.http.request(method, "/v1/admin/tail", content=b"{}")
            assert (answer.status_code, answer.headers["Allow"]) == (405, "GET")
            assert answer.json()["message"] == "This path does not take that method."


async def test_tails_are_bounded(tmp_path: Path) -> None:
    async with administered(tmp_path) as admin, AsyncExitStack() as stack:
        for _ in range(taps.MAX_TAPS):
            await stack.enter_async_context(tailed(admin))
        refused = await admin.http.get("/v1/admin/tail")
        assert refused.status_code == 503
        assert "Retry-After" in refused.headers


@pytest.mark.slow
async def test_a_tail_needs_an_admin_and_ends_with_its_key(tmp_path: Path) -> None:
    async with administered(tmp_path) as admin:
        _, publisher = await create_key(tmp_path, "publish")
        for headers, status in (
            ({"X-API-Key": "wrong"}, 401),
            ({"X-API-Key": publisher}, 403),
            (bearer("ann"), 403),
        ):
            answer = await admin.http.get("/v1/admin/tail?rate=x", headers=headers)
            assert answer.status_code == status
        async with tailed(admin) as lines:
            [key] = [one for one in (await admin.get("/keys"))["keys"] if "admin" in one["scopes"]]
            await admin.http.delete(f"/v1/admin/keys/{key['id']}")
            assert await lines.next() is None


@pytest.mark.slow
async def test_a_tail_ends_with_the_server(tmp_path: Path) -> None:
    async with administered(tmp_path) as admin, tailed(admin) as lines, trio.open_nursery() as nursery:
        nursery.start_soon(admin.server.drain)
        assert await lines.next() is None


async def test_a_tail_that_is_not_read_holds_a_bounded_number_of_bytes() -> None:
    from relay.model.namespaces import Namespaces
    from relay.model.publication import Publication

    channel = Namespaces(entities=(), history_period=1.0, durable=()).parse("trades")
    publication = Publication(channel, "t", 1, "e", 1, data={"text": "x" * 60_000})
    with taps.Taps().open(this_node.matcher("*"), tailing._line, 1000) as tap:
        for _ in range(100):
            tap.take(publication)
        held = sum(map(len, tap.take_lines()))
        assert taps.MAX_HELD_BYTES <= held < taps.MAX_HELD_BYTES + 61_000
        assert tap.renew() > 80


# -- the front page ----------------------------------------------------------------------------------------------------


async def test_the_front_page(tmp_path: Path) -> None:
    async with administered(tmp_path) as admin:
        browser = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
        page = await admin.http.get("/", headers=browser)
        assert page.headers["content-type"].startswith("text/html")
        assert "script" not in page.headers["content-security-policy"]
        assert "<script" not in page.text
        assert "default-src 'none'" in page.headers["content-security-policy"]
        for link in ("/docs", "/healthz", "/readyz", "/docs/style.css"):
            assert f'"{link}"' in page.text
            assert (await admin.http.get(link)).status_code == 200
        assert "<strong>ready</strong>" in page.text
        data = (await admin.http.get("/", headers={"Accept": "*/*"})).json()["data"]
        assert (data["name"], data["ready"], data["reason"]) == ("relay", True, None)
        admin.server.refuse_new_work()
        assert "not ready: The server is shutting down." in (await admin.http.get("/", headers=browser)).text
        assert not (await admin.http.get("/")).json()["data"]["ready"]
