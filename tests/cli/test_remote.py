"""How commands reach the local server: the certificate that they trust, and what they advise if they do not reach it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from cryptography import x509

from relay.bench.local_server import reserved_port
from relay.cli.parameters import Trust
from relay.cli.remote import local_target, request
from relay.config.loading import load_config
from relay.transports.certificates import Certificates
from tests.api.probe import create_key
from tests.certificates import write_certificate
from tests.cli.commands import done, failed
from tests.running import SECRET, config_for, running

ELSEWHERE = x509.SubjectAlternativeName([x509.DNSName("relay.example.org")])
"""The only name in the certificates: none of this machine's."""


def issue(folder: Path, **options: Any) -> None:
    """Write a certificate of the folder's authority, with the authority's own behind it, as most files have them."""
    write_certificate(folder, issuer="authority", names=ELSEWHERE, **options)
    file = folder / f"{options.get('name', 'relay')}.crt"
    file.write_bytes(file.read_bytes() + (folder / "authority.crt").read_bytes())


def tls_of(folder: Path, name: str) -> dict[str, Any]:
    return {"server.tls_cert": str(folder / f"{name}.crt"), "server.tls_key": str(folder / f"{name}.key")}


@asynccontextmanager
async def secured(folder: Path, name: str = "relay") -> AsyncIterator[str]:
    """Run a server with the certificate NAME, which the commands expect to have that of `relay`. Yields its URL."""
    with trio.fail_after(60):
        async with running(config_for(folder, tls_of(folder, name))) as (_, address):
            configured(folder, address.rpartition(":")[2])
            yield f"https://{address}"


def configured(folder: Path, port: object) -> None:
    (folder / "relay.toml").write_text(
        f'[server]\nport = {port}\ntls_cert = "relay.crt"\ntls_key = "relay.key"\n[store]\npath = "relay.db"\n'
        f'[auth]\njwt_secret = "{SECRET}"\n'
    )


async def in_thread(run: Any, *args: str) -> str:
    text: str = await trio.to_thread.run_sync(partial(run, *args))
    return text


@pytest.mark.slow
async def test_the_certificate_of_the_configuration_is_trusted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the local server, whatever its names and its end."""
    monkeypatch.setattr(Certificates.__init__, "__kwdefaults__", {"poll_interval": 3600.0})  # a reload alone renews it
    write_certificate(folder, name="authority")
    issue(folder)
    async with secured(folder) as url:
        for command in (("ps",), ("top", "--once"), ("webhooks", "list"), ("why", "ann", "trades")):
            await in_thread(done, *command)
        await in_thread(done, "ps", "--ca", "authority.crt")
        await in_thread(done, "ps", "--insecure")

        tls = Trust(None, insecure=False).pinned(folder / "relay.crt")
        target = local_target(load_config(folder / "relay.toml", {}, {}), Trust(None, insecure=False))
        ask = partial(trio.to_thread.run_sync, lambda: request(target, "GET", "/healthz", {})[0])
        assert await ask() == 200
        issue(folder, expires_in=-3600.0)
        text = await in_thread(failed, "ps")
        assert f"the certificate of {url} is not trusted" in text
        assert (
            f"it is not the one in {folder / 'relay.crt'}. The server takes up a renewed file within 20 seconds" in text
        )
        assert await ask() == 200, "a command that goes on knows the previous certificate"
        await in_thread(done, "reload", "--insecure")
        await in_thread(done, "ps")
        assert await ask() == 200
        assert tls().cert_store_stats()["x509"] == 1, "the authority is not trusted"


async def test_another_certificate_of_the_same_authority_is_not_trusted(folder: Path) -> None:
    """Another program at the port gets no token, although the file has the certificate of the authority too."""
    write_certificate(folder, name="authority")
    issue(folder)
    issue(folder, name="other")
    async with secured(folder, "other") as url:
        assert f"the certificate of {url} is not trusted" in await in_thread(failed, "ps")
        await in_thread(done, "ps", "--ca", "other.crt")
        with_key = ("--key", "rk_live_x")
        for command in (("ps", *with_key), ("publish", "market:BTC", '{"price": 1}', *with_key)):
            assert f"the certificate of {url} is not trusted" in await in_thread(failed, *command)


async def test_a_key_alone_is_for_the_local_server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its port and its certificate, wherever the file is named; a URL needs no file."""
    write_certificate(folder)
    async with secured(folder) as url:
        _, key = await create_key(folder, "admin")
        monkeypatch.setenv("RELAY_KEY", key)
        publish = ("publish", "market:BTC", '{"price": 1}')
        assert json.loads(await in_thread(done, "ps", "--json")) == []
        assert json.loads(await in_thread(done, *publish))[0]["channel"] == "market:BTC"
        (folder / "relay.toml").rename("elsewhere.toml")
        assert json.loads(await in_thread(done, "ps", "--json", "--config", "elsewhere.toml")) == []
        assert json.loads(await in_thread(done, *publish, "--config", "elsewhere.toml"))[0]["channel"] == "market:BTC"
        (folder / "relay.toml").write_text("[server\n")
        for command in (("ps", "--json"), publish):
            assert "the configuration has a problem" in await in_thread(failed, *command)
            await in_thread(done, *command, "--url", url, "--ca", "relay.crt")


def test_where_nothing_listens(folder: Path) -> None:
    with reserved_port() as port:
        (folder / "relay.toml").write_text(f'[server]\nport = {port}\n[auth]\njwt_secret = "{SECRET}"\n')
        text = failed("reload")
    assert f"no server answers at http://127.0.0.1:{port} (Connection refused); is `relay serve` running there?" in text
    assert "the running server still has the old one: restart it, or name it with --url and --key" in text


async def test_a_certificate_that_the_running_server_does_not_have_yet(folder: Path) -> None:
    write_certificate(folder)
    with trio.fail_after(30):
        async with running(config_for(folder)) as (_, address):
            configured(folder, address.rpartition(":")[2])
            text = await in_thread(failed, "ps")
    assert "if server.tls_cert was added to the configuration, the running server still has none: restart it" in text
