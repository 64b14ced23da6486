"""Every role of the console against every route for operators, with a key and with a session."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio

from relay.api import streaming
from relay.auth.console_sessions import LINK_LIFETIME, SESSION_LIFETIME, link_grant, new_secret
from relay.ground.clock import Clock
from relay.model.principal import Principal
from relay.server.server import Server
from relay.store import console_sessions as store
from tests.api.probe import create_key
from tests.http_client import http_client
from tests.rights.test_routes import BODIES, ROUTES
from tests.rights.world import leaks, table
from tests.running import bearer, config_for, running

RIGHTS = table("""
                                                        none  read  write admin
GET /v1/admin/connections                               401   200   200   200
GET /v1/admin/connections/{connection}                  401   404   404   404
GET /v1/admin/history?channel=trades                    401   200   200   200
GET /v1/admin/channels                                  401   200   200   200
GET /v1/admin/busiest                                   401   200   200   200
GET /v1/admin/limits                                    401   200   200   200
GET /v1/admin/server                                    401   200   200   200
GET /v1/admin/nodes                                     401   200   200   200
GET /v1/admin/keys                                      401   200   200   200
GET /v1/admin/rooms                                     401   200   200   200
GET /v1/admin/rooms/{room}/members                      401   200   200   200
GET /v1/admin/webhooks                                  401   200   200   200
GET /v1/admin/webhooks/{hook}/deliveries                401   404   404   404
POST /v1/admin/webhooks/{hook}/test                     401   403   404   404
POST /v1/admin/webhooks/{hook}/replay                   401   403   404   404
POST /v1/admin/webhooks/{hook}/discard                  401   403   404   404
POST /v1/admin/webhooks/{hook}/enable                   401   403   404   404
POST /v1/admin/why                                      401   200   200   200
POST /v1/admin/disconnect                               401   403   200   200
POST /v1/admin/unsubscribe                              401   403   200   200
POST /v1/admin/publish                                  401   403   200   200
POST /v1/admin/rooms                                    401   403   201   201
POST /v1/admin/rooms/{room}/members                     401   403   200   200
DELETE /v1/admin/rooms/{room}/members/{member}          401   403   200   200
POST /v1/admin/keys                                     401   403   403   201
POST /v1/admin/keys/{key}/tier                          401   403   403   404
DELETE /v1/admin/keys/{key}                             401   403   403   404
POST /v1/admin/reload                                   401   403   403   200
POST /v1/admin/token                                    401   403   403   201
""")
"""A role reads, acts or does everything. Keys and tokens give rights, so only an admin makes and ends them."""
ELSEWHERE = ("GET /v1/chatrooms", "GET /v1/notifications", "GET /metrics", "POST /v1/publish")
"""Routes of users and backends, which take no session of the console."""
BODY = {"POST /v1/admin/rooms/{room}/members": {"user": "guest"}, "POST /v1/publish": {"channel": "trades", "data": {}}}


class SetClock(Clock):
    """A clock that a test puts forward."""

    def __init__(self) -> None:
        self.ahead_ms = 0

    def now_ms(self) -> int:
        """Return the time, put forward."""
        return super().now_ms() + self.ahead_ms


@attrs.frozen
class Console:
    """A server, and the browsers of its operators."""

    server: Server
    address: str
    folder: Path
    clock: SetClock
    room: str

    def browser(self, **headers: str) -> httpx.AsyncClient:
        """Return a client with cookies of its own."""
        return http_client(self.address, headers=headers)

    async def link(self, *, writes: bool = True) -> str:
        """Return a new one-time link."""
        link, now_ms = new_secret(), self.clock.now_ms()
        grant = link_grant(now_ms, writes=writes)
        await self.server.database.write(lambda connection: store.add(connection, "link", link, grant, now_ms))
        return link

    async def sign_in(self, browser: httpx.AsyncClient, **credential: str) -> dict[str, Any]:
        """Sign in, and send the proof from now on. Return the session."""
        answer = await browser.post("/console/session", json=credential)
        assert answer.status_code == 201, answer.text
        session: dict[str, Any] = answer.json()["data"]
        browser.headers["X-Console-Proof"] = session["proof"]
        return session


@asynccontextmanager
async def console(folder: Path, **overrides: Any) -> AsyncIterator[Console]:
    """Run a server with a room in it."""
    clock = SetClock()
    settings = {"server.metrics_allowed_addresses": [], "limits.auth_failures_per_minute": 10_000, **overrides}
    with trio.fail_after(60):
        async with running(config_for(folder, settings), clock=clock) as (server, address):
            room = await server.core.rooms.create(
                Principal("owner"), name="word-private-name", description=None, type_="private"
            )
            yield Console(server, address, folder, clock, room.id)


async def answers(browser: httpx.AsyncClient, row: str, room: str) -> tuple[int, str]:
    """Make a row's request; returns the status and what was said."""
    method, path = row.split()
    path = path.format(room=room, connection="none-1", key="key_none", member="guest", hook="nothing")
    return await answered(browser, method, path, BODY.get(row, BODIES.get(row)))


async def answered(browser: httpx.AsyncClient, method: str, path: str, body: Any) -> tuple[int, str]:
    """Make a request."""
    content = None if body is None else json.dumps(body)
    answer = await browser.request(method, path, content=content, headers={"Content-Type": "application/json"})
    return answer.status_code, answer.text


def test_the_table_has_every_route_for_operators() -> None:
    """As the table of all roles has them."""
    named = {row.partition("?")[0] for row in ROUTES if "/v1/admin/" in row}
    ours = {row.partition("?")[0].replace("{room}", "{private}") for row in RIGHTS}
    assert named == ours


@pytest.mark.slow(8)
async def test_every_role_of_the_console(tmp_path: Path) -> None:
    """A session has the rights of its key or link; a key sent by itself has the same."""
    async with console(tmp_path) as there:
        wrong = []
        for role, scope in (("read", "console"), ("write", "console:write"), ("admin", "admin")):
            _, key = await create_key(tmp_path, scope)
            for way in ("key", "session", "link"):
                async with there.browser(**({"X-API-Key": key} if way == "key" else {})) as browser:
                    if way == "session":
                        await there.sign_in(browser, key=key)
                    if way == "link":
                        await there.sign_in(browser, link=await there.link(writes=role != "read"))
                    column = "admin" if way == "link" and role == "write" else role
                    for row, expected in RIGHTS.items():
                        status, said = await answers(browser, row, there.room)
                        if str(status) != expected[column]:
                            wrong.append(
                                f"{row}: {role} by {way} was answered {status}, not {expected[column]}: {said}"
                            )
        async with there.browser() as browser:
            for row in RIGHTS:
                status, said = await answers(browser, row, there.room)
                assert status == 401
                assert not leaks("nobody", [said])
        assert wrong == []


async def test_a_session_counts_on_routes_for_operators_alone(tmp_path: Path) -> None:
    """The cookie gives no right to what users and backends do, but for /metrics, which is for operators."""
    async with console(tmp_path) as there, there.browser() as browser:
        await there.sign_in(browser, link=await there.link())
        found = {row: (await answers(browser, row, there.room))[0] for row in ELSEWHERE}
        assert found == {**dict.fromkeys(ELSEWHERE, 401), "GET /metrics": 200}


async def test_a_cookie_without_its_proof_is_nothing(tmp_path: Path) -> None:
    """A page of another site can make a browser send the cookie, and can know no proof."""
    async with console(tmp_path) as there, there.browser() as browser:
        session = await there.sign_in(browser, link=await there.link())
        for proof in ("", "wrong", "ä", session["proof"].upper()):
            browser.headers["X-Console-Proof"] = proof.encode("latin-1").decode("latin-1")
            for path in ("/v1/admin/keys", "/v1/admin/tail", "/v1/admin/figures"):
                status, said = await answered(browser, "GET", path, None)
                assert (status, "rk_" in said) == (401, False), (path, proof)
            assert (await answered(browser, "DELETE", "/console/session", None))[0] == 401
        del browser.headers["X-Console-Proof"]
        own = await browser.get("/console/session")
        assert own.json()["data"]["proof"] == session["proof"]
        assert own.headers["cache-control"] == "no-store"
        for site in ("cross-site", "same-site"):
            answer = await browser.get("/console/session", headers={"Sec-Fetch-Site": site})
            assert (answer.status_code, session["proof"] in answer.text) == (403, False)
        assert "access-control-allow-credentials" not in own.headers
        for origin, status in ((f"http://{there.address}", 200), ("http://evil.example", 403), ("null", 403)):
            answer = await browser.get("/console/session", headers={"Origin": origin})
            assert (answer.status_code, session["proof"] in answer.text) == (status, status == 200), origin


async def test_no_page_of_another_origin_may_send_the_proof(tmp_path: Path) -> None:
    """Its header is not one that a preflight allows, whatever the origins that may use Relay."""
    async with console(tmp_path) as there, there.browser() as browser:
        headers = {"Origin": "https://evil.example", "Access-Control-Request-Method": "GET"}
        answer = await browser.options("/v1/admin/keys", headers=headers)
        allowed = answer.headers["access-control-allow-headers"].lower()
        assert "authorization" in allowed
        assert "proof" not in allowed
        assert "*" not in allowed


async def test_no_secret_of_a_session_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Links, keys, cookies and proofs, right and wrong, at the lowest level."""
    with caplog.at_level(logging.DEBUG):
        async with console(tmp_path) as there, there.browser() as browser:
            link, wrong = await there.link(), "wrong-" + new_secret()
            _, key = await create_key(tmp_path, "console")
            secrets = [link, wrong, key]
            for credential in ({"link": link}, {"link": wrong}, {"key": key}, {"key": wrong}):
                answer = await browser.post("/console/session", json=credential)
                if answer.status_code == 201:
                    secrets += [answer.json()["data"]["proof"], *dict(browser.cookies).values()]
                    browser.headers["X-Console-Proof"] = answer.json()["data"]["proof"]
                    assert (await browser.get("/v1/admin/server")).status_code == 200
            browser.headers["X-Console-Proof"] = wrong
            assert (await browser.get("/v1/admin/server")).status_code == 401
    assert len(secrets) == 7
    of_client = ("httpx", "httpcore")
    text = "\n".join(str(vars(one)) for one in caplog.records if not one.name.startswith(of_client))
    assert "signed in to the console" in text
    assert [secret for secret in secrets if secret in text] == []


async def test_the_cookie(tmp_path: Path) -> None:
    """No script and no other site gets it, and it ends."""
    async with console(tmp_path) as there, there.browser() as browser:
        answer = await browser.post("/console/session", json={"link": await there.link()})
        cookie = answer.headers["set-cookie"]
        assert {"HttpOnly", "SameSite=Strict", "Path=/", f"Max-Age={int(SESSION_LIFETIME)}"} <= set(cookie.split("; "))
        assert cookie.startswith("relay-console=")
        assert answer.headers["cache-control"] == "no-store"
        secret = cookie.partition("=")[2].partition(";")[0]
        kept = await there.server.database.read(
            lambda connection: [value for row in connection.execute("SELECT key, value FROM meta") for value in row]
        )
        assert not any(secret in str(value) for value in kept), "the database has a hash alone"


async def test_a_session_ends(tmp_path: Path) -> None:
    """After its lifetime, by signing out, and with its key."""
    async with console(tmp_path) as there, there.browser() as one, there.browser() as two, there.browser() as three:
        key, secret = await create_key(tmp_path, "console")
        await there.sign_in(one, key=secret)
        await there.sign_in(two, link=await there.link())
        await there.sign_in(three, link=await there.link())
        assert (await one.get("/v1/admin/server")).status_code == 200
        assert (await two.delete(f"/v1/admin/keys/{key.id}")).status_code == 200
        assert (await one.get("/v1/admin/server")).status_code == 401
        cookies = dict(three.cookies)
        assert (await three.delete("/console/session")).status_code == 200
        assert dict(three.cookies) == {}
        for name, value in cookies.items():
            three.cookies.set(name, value)
        assert (await three.get("/v1/admin/server")).status_code == 401
        there.clock.ahead_ms = int(SESSION_LIFETIME * 1000) - 5000
        assert (await two.get("/v1/admin/server")).status_code == 200
        there.clock.ahead_ms += 6000
        assert (await two.get("/v1/admin/server")).status_code == 401
        assert (await two.get("/console/session")).status_code == 401


async def test_the_streams_of_a_session_end_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures and tails are not shown on after a person has signed out."""
    monkeypatch.setattr(streaming, "SESSION_INTERVAL", 0.05)
    async with console(tmp_path) as there, there.browser() as browser, trio.open_nursery() as nursery:
        await there.sign_in(browser, link=await there.link())

        async def follow(path: str, *, task_status: trio.TaskStatus[None]) -> None:
            async with browser.stream("GET", path, timeout=None) as answer:
                assert answer.status_code == 200
                task_status.started()
                async for _ in answer.aiter_raw():
                    pass

        for path in ("/v1/admin/figures", "/v1/admin/tail"):
            await nursery.start(follow, path)
        assert (await browser.delete("/console/session")).status_code == 200


async def test_a_link_works_once_and_soon(tmp_path: Path) -> None:
    """The answer is the same for a used, an old and an invented one."""
    async with console(tmp_path) as there, there.browser() as browser:
        link, old = await there.link(), await there.link()
        await there.sign_in(browser, link=link)
        there.clock.ahead_ms = int(LINK_LIFETIME * 1000) + 1000
        said = set()
        for one in (link, old, "invented", new_secret()):
            answer = await browser.post("/console/session", json={"link": one})
            assert answer.status_code == 401
            said.add(answer.json()["message"])
        assert len(said) == 1


async def test_a_link_is_used_once_by_two_at_once(tmp_path: Path) -> None:
    async with console(tmp_path) as there, there.browser() as browser:
        link, statuses = await there.link(), list[int]()

        async def use() -> None:
            statuses.append((await browser.post("/console/session", json={"link": link})).status_code)

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(use)
        assert sorted(statuses) == [201, 401, 401, 401]


async def test_credentials_that_do_not_sign_in(tmp_path: Path) -> None:
    """A key without a scope for the console, a token, and requests that say nothing."""
    async with console(tmp_path) as there, there.browser() as browser:
        _, publisher = await create_key(tmp_path, "publish")
        token = bearer("root", admin=True)["Authorization"].partition(" ")[2]
        for body, status in (({"key": publisher}, 403), ({"key": token[:200]}, 401), ({}, 400), ({"key": 7}, 400)):
            assert (await browser.post("/console/session", json=body)).status_code == status, body
        form = await browser.post("/console/session", data={"key": publisher})
        assert form.status_code == 415
        assert dict(browser.cookies) == {}


async def test_sessions_are_bounded(tmp_path: Path) -> None:
    """The newest are kept."""
    async with console(tmp_path) as there:

        def count(connection: Any) -> int:
            rows = connection.execute("SELECT key FROM meta").fetchall()
            return sum(name.startswith("console-link:") for (name,) in rows)

        links = [await there.link() for _ in range(store.MAX_KEPT + 5)]
        assert await there.server.database.read(count) == store.MAX_KEPT
        async with there.browser() as browser:
            await there.sign_in(browser, link=links[-1])
        there.clock.ahead_ms = int(LINK_LIFETIME * 1000) + 1000
        await there.link()
        assert await there.server.database.read(count) == 1, "those that ended are gone"


@pytest.mark.parametrize(
    ("enabled", "headers", "status"),
    [
        ("loopback", {}, 200),
        ("loopback", {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"}, 404),
        ("loopback", {"Host": "relay.example.org"}, 404),
        ("never", {}, 404),
        ("always", {}, 200),
        ("always", {"X-Forwarded-For": "203.0.113.9"}, 403),
        ("always", {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "http"}, 403),
        ("always", {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"}, 200),
    ],
)
async def test_where_the_console_is(tmp_path: Path, enabled: str, headers: dict[str, str], status: int) -> None:
    """On this machine, and elsewhere over HTTPS alone. The front page has a link where it is."""
    async with console(tmp_path, **{"console.enabled": enabled}) as there, there.browser(**headers) as browser:
        for path in ("/console", "/console/app.js", "/console/vendor/uplot.js", "/console/session"):
            assert (await browser.get(path)).status_code == status, path
        signed_in = await browser.post("/console/session", json={"link": await there.link()})
        assert signed_in.status_code == (201 if status == 200 else status)
        front = await browser.get("/", headers={"Accept": "text/html"})
        assert ('href="/console"' in front.text) is (status == 200)
        if "https" in headers.values() and status == 200:
            cookie = signed_in.headers["set-cookie"]
            assert cookie.startswith("__Host-relay-console=")
            assert "Secure" in cookie.split("; ")
            browser.headers["Cookie"] = cookie.partition(";")[0]
            browser.headers["X-Console-Proof"] = signed_in.json()["data"]["proof"]
            assert (await browser.get("/v1/admin/server")).status_code == 200


async def test_over_https_a_cookie_that_another_host_can_set_does_not_count(tmp_path: Path) -> None:
    """A page of another host below the domain could sign a person in as somebody else. `__Host-` prevents that."""
    https = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"}
    async with console(tmp_path, **{"console.enabled": "always"}) as there, there.browser(**https) as browser:
        signed_in = await browser.post("/console/session", json={"link": await there.link()})
        name, _, secret = signed_in.headers["set-cookie"].partition(";")[0].partition("=")
        browser.headers["X-Console-Proof"] = signed_in.json()["data"]["proof"]
        for cookie, counts in ((name, True), (name.removeprefix("__Host-"), False)):
            browser.cookies.clear()
            browser.headers["Cookie"] = f"{cookie}={secret}"
            assert ((await browser.get("/console/session")).json()["data"] is not None) is counts
            for path in ("/v1/admin/server", "/v1/admin/tail?rate=0"):  # which are answered by different parts
                assert ((await browser.get(path)).status_code != 401) is counts


async def test_files_of_the_console_alone_are_served(tmp_path: Path) -> None:
    async with console(tmp_path) as there, there.browser() as browser:
        for path in ("nothing.js", "../pages.py", "..%2fpages.py", "pages", "pages/", "app.py"):
            assert (await browser.get(f"/console/{path}")).status_code == 404, path
        page = await browser.get("/console")
        policy = page.headers["content-security-policy"]
        assert "unsafe" not in policy
        assert "default-src 'none'" in policy
        assert "//" not in page.text.replace("<!doctype", ""), "the page names no other host"
        again = await browser.get("/console/app.js", headers={"If-None-Match": page.headers["etag"]})
        assert again.status_code == 200
        assert (
            await browser.get("/console/app.js", headers={"If-None-Match": again.headers["etag"]})
        ).status_code == 304
