"""Requests with another hidden in them, where a proxy and a server could disagree about the end of the first one.

Each is sent to Relay itself, which refuses it and ends the connection, and through nginx, where Relay must see the requests that nginx saw.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import trio

from relay.dialects.live.dialect import open_live
from relay.server.server import Server
from tests.api.probe import create_key
from tests.api.raw import raw_connection
from tests.e2e.nginx import nginx_before
from tests.kept import recent
from tests.running import config_for, running
from tests.transports.test_request_head import REFUSED

HIDDEN_URI = "/v1/publish?hidden"
ITEM = b'{"channel":"trades","data":{"hidden":1}}'
QUIET = 0.3
"""Seconds without an answer after which a proxy waits for more of the request."""

CHUNKS = {
    "a size in hexadecimal notation": b"0x2\r\nab\r\n0\r\n\r\n",
    "a signed size": b"+2\r\nab\r\n0\r\n\r\n",
    "a negative size": b"-2\r\nab\r\n0\r\n\r\n",
    "a size with a space before it": b" 2\r\nab\r\n0\r\n\r\n",
    "an empty size": b"\r\nab\r\n0\r\n\r\n",
    "a size that ends in a bare line feed": b"2\nab\r\n0\r\n\r\n",
    "an extension with a bare line feed": b"2;a\nab\r\n0\r\n\r\n",
    "a chunk that ends in a bare line feed": b"2\r\nab\n0\r\n\r\n",
    "a chunk that is longer than its size": b"2\r\nabcd\r\n0\r\n\r\n",
    "a chunk without an end": b"2\r\nabXX0\r\n\r\n",
    "an end of bare line feeds": b"2\r\nab\r\n0\n\n",
    "a trailer with a space before the colon": b"2\r\nab\r\n0\r\nX : y\r\n\r\n",
}
"""Bodies in chunks whose end is not plain."""


def hidden(secret: str) -> bytes:
    """Return the request that must not be seen where it is hidden."""
    head = f"POST {HIDDEN_URI} HTTP/1.1\r\nHost: x\r\nX-API-Key: {secret}\r\nContent-Type: application/json\r\n"
    return head.encode() + b"Content-Length: %d\r\n\r\n%b" % (len(ITEM), ITEM)


def attacks(secret: str) -> dict[str, bytes]:
    """Return every request with another behind it, or in what one of two parsers takes for its body."""
    behind = hidden(secret)
    whole = b"%x\r\n%b\r\n0\r\n\r\n" % (len(behind), behind)
    found = {name: head + behind for name, head in REFUSED.items() if head and name != "two requests"}
    found |= {f"{name}, to publish": data.replace(b" / ", b" /v1/publish ", 1) for name, data in found.items()}
    for name, head in REFUSED.items():
        if b"ontent-Length" in head or b"ransfer-Encoding" in head:
            found[f"{name}, before chunks"] = head + b"0\r\n\r\n" + behind
            found[f"{name}, in a chunk"] = head + whole
    publish = f"POST /v1/publish HTTP/1.1\r\nHost: x\r\nX-API-Key: {secret}\r\nContent-Type: application/json\r\n"
    chunked = publish.encode() + b"Transfer-Encoding: chunked\r\n\r\n"
    return found | {f"chunks with {name}": chunked + body + behind for name, body in CHUNKS.items()}


async def published(server: Server) -> int:
    """Return how many hidden requests were answered."""
    position, _ = await recent(server.broker, server.core.namespaces.parse("trades"))
    return position.offset


@pytest.mark.slow(8)
async def test_relay_refuses_them_and_ends_the_connection(tmp_path: Path) -> None:
    """One answer comes, 400 or that of the request before the doubt, and nothing behind it is looked at."""
    config = config_for(tmp_path, {"limits.auth_failures_per_minute": 10_000})
    with trio.fail_after(120):
        async with running(config, dialects=[open_live]) as (server, address):
            _, secret = await create_key(tmp_path, "publish")
            for name, data in attacks(secret).items():
                for before in (b"", hidden(secret), b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"):
                    seen = await published(server)
                    async with raw_connection(address) as connection:
                        await connection.send(before + data)
                        answer = await connection.ended()
                    assert await published(server) == seen + (before == hidden(secret)), name
                    statuses = re.findall(rb"HTTP/1\.1 ([0-9]{3}) ", answer)
                    assert len(statuses) == 1 + bool(before), (name, answer)
                    assert statuses[-1] == b"400", name


@pytest.mark.slow(8)
@pytest.mark.parametrize("buffering", [True, False])
async def test_relay_sees_the_requests_that_nginx_sees(tmp_path: Path, buffering: bool) -> None:
    """A connection that nginx keeps is used for other clients: an answer too many would be another client's."""
    config = config_for(tmp_path, {"limits.auth_failures_per_minute": 10_000})
    with trio.fail_after(180):
        async with (
            running(config, dialects=[open_live]) as (server, address),
            nginx_before(address, tmp_path / "nginx", buffering=buffering) as nginx,
        ):
            _, secret = await create_key(tmp_path, "publish")
            for name, data in attacks(secret).items():
                before = nginx.ended
                async with raw_connection(nginx.address) as connection:
                    await connection.send(data)
                    with trio.move_on_after(QUIET):
                        while await connection.stream.receive_some():
                            pass
                async with raw_connection(nginx.address) as other:
                    await other.head("GET", "/healthz", "Connection: close")
                    answer = await other.answer()
                assert answer.json == {"status": "ok"}, name
                while nginx.ended < before + 2:
                    await trio.sleep(0.01)
                assert await published(server) in nginx.passed_on(HIDDEN_URI), name
            async with raw_connection(nginx.address) as connection:
                await connection.send(hidden(secret))
                assert (await connection.answer()).status == 200, "a hidden request that is plain is answered"
            assert await published(server) > 0
