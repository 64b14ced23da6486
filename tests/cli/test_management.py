"""The commands that look at a running server and steer it, against a real one."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio

from relay.cli import remote
from relay.server.server import Server
from tests.api.probe import create_key
from tests.cli.commands import done, failed, relay
from tests.clients import connect, live
from tests.http_client import http_client
from tests.running import SECRET, config_for, running, token

HOSTILE = "ann<b> %s"
"""A user id as a token may have it: printable, but no name."""


@attrs.frozen
class Local:
    """A server whose configuration is in the current folder."""

    server: Server
    address: str

    async def done(self, *args: str) -> str:
        """Run a command to its end; returns what it printed."""
        return await trio.to_thread.run_sync(lambda: done(*args))

    async def failed(self, *args: str, code: int = 1) -> str:
        """Run a command that fails; returns its message."""
        return await trio.to_thread.run_sync(lambda: failed(*args, code=code))


@asynccontextmanager
async def local(folder: Path) -> AsyncIterator[Local]:
    """Run a server that the commands find by its configuration."""
    with trio.fail_after(60):
        async with running(config_for(folder)) as (server, address):
            port = address.rpartition(":")[2]
            text = f'[server]\nhost = "0.0.0.0"\nport = {port}\n[store]\npath = "relay.db"\n[auth]\njwt_secret = "{SECRET}"\n'
            (folder / "relay.toml").write_text(text)
            yield Local(server, address)


async def test_ps(folder: Path) -> None:
    async with (
        local(folder) as here,
        live(here.address, HOSTILE) as ann,
        connect(here.address, f"/api/ws?token={token('bob')}") as bob,
    ):
        await ann.ask(type="ping")
        await bob.ask(type="ping")
        head, first, second = (await here.done("ps")).splitlines()
        assert head.split()[:4] == ["ID", "USER", "DIALECT", "ADDRESS"]
        assert HOSTILE in first
        assert "channels" in second
        assert " B" in second
        [only] = json.loads(await here.done("ps", "--dialect", "channels", "--json"))
        assert only["userId"] == "bob"
        assert len(json.loads(await here.done("ps", "--user", HOSTILE, "--json"))) == 1
        assert len(json.loads(await here.done("ps", "--limit", "1", "--json"))) == 1
        assert (await here.done("ps", "--channel", "trades")) == ""


async def test_disconnect(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with local(folder) as here, live(here.address, "ann") as ann, live(here.address, "ann") as other:
        await ann.ask(type="ping")
        first = json.loads(await here.done("ps", "--json"))[0]
        await here.done("disconnect", "ann", "--client", first["id"], "--reconnect")
        assert (await ann.closed())[0] == 1012
        _, key = await create_key(folder, "admin")
        monkeypatch.setenv("RELAY_KEY", key)
        await here.done("disconnect", "ann", "--url", f"http://{here.address}")
        assert (await other.closed())[0] == 1008
        assert "no such connection" in await trio.to_thread.run_sync(
            lambda: relay("disconnect", "ann", "--url", f"http://{here.address}").stderr
        )


@pytest.mark.slow
async def test_tail(folder: Path) -> None:
    async with local(folder) as here, trio.open_nursery() as nursery:
        printed: dict[str, str] = {}

        async def run(*args: str) -> None:
            printed["text"] = await here.done("tail", *args, "--count", "2")

        for args in ((), ("--json",)):
            nursery.start_soon(run, "trade?", *args)
            while not here.server.broker.channels.taps:
                await trio.sleep(0.01)
            for text in ("one\x1b[2J", "two"):
                draft = here.server.core.publishing.draft(
                    {"channel": "trades", "data": {"text": text}}, scope="test", size=1
                )
                await here.server.core.publishing.publish_many([draft])
            while not printed:
                await trio.sleep(0.01)
            first, second = printed.pop("text").splitlines()
            assert "\x1b" not in first
            assert "trades" in second
            if args:
                assert json.loads(second)["data"] == {"text": "two"}
            while here.server.broker.channels.taps:
                await trio.sleep(0.01)


async def test_why(folder: Path) -> None:
    async with local(folder) as here:
        refused = await here.done("why", "bob", "user:ann")
        assert refused.splitlines()[0].startswith("1  caller")
        assert "refused with forbidden" in refused
        assert "To change it: Use the token of the user ann" in refused
        assert "allowed" in await here.done("why", "bob", "user:ann", "--token", token("bob", admin=True))
        assert "token" in await here.done("why", "bob", "user:ann", "--token", "nonsense")
        assert "allowed" in await here.done("why", "ann", "user:ann")
        assert "scope publish" in await here.done("why", "ann", "market:BTC", "--publish")
        hostile = await here.done("why", "ann", "\x1b[31mx")
        assert "\x1b" not in hostile
        assert "the user bob" in await here.failed("why", "ann", "user:ann", "--token", token("bob"))


async def test_refusals(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with local(folder) as here:
        _, publisher = await create_key(folder, "publish")
        url = f"http://{here.address}"
        for command in (("ps",), ("tail",), ("why", "a", "trades"), ("disconnect", "a")):
            assert "403" in await here.failed(*command, "--key", publisher, "--url", url)
            assert "needs an API key" in await here.failed(*command, "--url", url, code=2)
    assert "no server answers" in await trio.to_thread.run_sync(lambda: failed("ps"))
    (folder / "relay.toml").write_text('[store]\npath = "none.db"\n')
    assert "does not exist" in await trio.to_thread.run_sync(lambda: failed("ps"))


def test_a_query_leaves_out_what_is_missing() -> None:
    assert remote.with_query("/a", {"b": None}) == "/a"
    assert remote.with_query("/a", {"b": "c d&", "e": None}) == "/a?b=c+d%26"


async def test_console(folder: Path) -> None:
    """The link signs in once; the secret comes on stdout alone, in the fragment."""
    async with local(folder) as here, http_client(here.address) as http:
        for arguments, admin in (((), True), (("--read-only",), False)):
            printed = (await here.done("console", *arguments)).strip()
            page, _, link = printed.partition("#link=")
            assert page == f"http://{here.address}/console"
            answer = await http.post("/console/session", json={"link": link})
            assert (answer.status_code, answer.json()["data"]["admin"]) == (201, admin)
            assert (await http.post("/console/session", json={"link": link})).status_code == 401
        proof = {"X-Console-Proof": answer.json()["data"]["proof"]}
        assert (await http.get("/v1/admin/server", headers=proof)).status_code == 200
        assert await here.done("console", "--sign-out") == ""
        assert (await http.get("/v1/admin/server", headers=proof)).status_code == 401
        elsewhere = await here.done("console", "--url", "https://relay.example.org/")
        assert elsewhere.startswith("https://relay.example.org/console#link=")
        assert "is not the URL of a server" in await here.failed("console", "--url", "relay.example.org", code=2)
        (folder / "relay.toml").write_text('[console]\nenabled = "never"\n')
        assert "switched off" in await here.failed("console")
