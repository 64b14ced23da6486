"""Who comes to an Engine.IO path, and what they are told: against a real server."""

from __future__ import annotations

import json
import time
from pathlib import Path

import httpx
import pytest
import trio

from tests.dialects.socketio.engine_client import SOCKET, echoing, pricing
from tests.http_client import http_client
from tests.running import relay_process
from tests.waiting import TIMEOUT

KEYS = ["sid", "upgrades", "pingInterval", "pingTimeout", "maxPayload"]


@pytest.mark.slow
async def test_handshake(tmp_path: Path) -> None:
    """The handshake has exactly its five keys, as compact JSON, over each transport; only who polls may upgrade."""
    async with pricing(tmp_path) as world:
        status, body = await world.request("GET", SOCKET)
        assert status == 200
        values = json.loads(body.removeprefix("0"))
        assert list(values) == KEYS
        assert " " not in body
        assert [values[key] for key in KEYS[1:]] == [["websocket"], 25000, 20000, 1_000_000]
        async with world.websocket() as frames:
            other = json.loads((await frames.receive()).removeprefix("0"))
            assert list(other) == KEYS
            assert [other[key] for key in KEYS[1:]] == [[], 25000, 20000, 1_000_000]
            assert other["sid"] != values["sid"]
            assert len(other["sid"]) >= 20


@pytest.mark.slow
@pytest.mark.parametrize(
    "query",
    [
        "", "?", "?transport=polling", "?EIO=3&transport=polling", "?EIO=abc&transport=polling", "?EIO=4", "?EIO=4&transport=abc",
        "?EIO=4&transport=websocket", "?EIO=4&transport=polling&sid=", "?EIO=4&transport=polling&sid=unknown",
        "?EIO=4&transport=polling&sid=%ff%00", "?EIO=%ff&transport=%ff", "?EIO=4;transport=polling", "?" + "&" * 1000,
    ],
)  # fmt: skip
async def test_bad_queries(tmp_path: Path, query: str) -> None:
    """What is asked wrongly is answered 400 whatever the method, and never 405; as a WebSocket it is closed."""
    async with pricing(tmp_path) as world:
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
            answer = await world.raw(method, SOCKET + query)
            assert answer.status_code == 400, method
            assert list(answer.json()) == ["code", "message"]
        assert (await world.raw("HEAD", SOCKET + query)).status_code == 400
        assert world.count == 0


@pytest.mark.slow
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"])
async def test_bad_methods(tmp_path: Path, method: str) -> None:
    """A handshake is a GET; a session is asked by GET and POST. All else is 400, and does the session no harm."""
    async with pricing(tmp_path) as world:
        assert (await world.request(method, SOCKET))[0] == 400
        assert world.count == 0
        polling = await world.open_polling()
        if method != "POST":
            assert (await world.request(method, SOCKET, f"&sid={polling.sid}"))[0] == 400
        assert await polling.post("40/none,") == (200, "ok")
        assert (await polling.get())[1] == '44/none,{"message":"Invalid namespace"}'


@pytest.mark.slow
@pytest.mark.parametrize(
    "query", ["transport=websocket", "EIO=3&transport=websocket", "EIO=4", "EIO=4&transport=polling"]
)
async def test_bad_websockets(tmp_path: Path, query: str) -> None:
    """A WebSocket with a bad query, or of a session that is not there, is closed."""
    async with pricing(tmp_path) as world:
        async with world.websocket("&sid=unknown") as frames:
            assert await frames.closed() == 1002
        async with world.websocket(f"&{query}") as frames:  # each key twice
            assert await frames.closed() == 1002
        assert world.count == 0


async def test_polls_are_not_cached(tmp_path: Path) -> None:
    """Answers are text that no cache keeps."""
    async with pricing(tmp_path) as world:
        answer = await world.raw("GET", f"{SOCKET}?EIO=4&transport=polling")
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["content-type"] == "text/plain; charset=UTF-8"
        assert answer.headers["access-control-allow-origin"] == "*"


async def test_origins(tmp_path: Path) -> None:
    """A page of an allowed origin may read every answer and send what it must ask for first; others get 403."""
    target = f"{SOCKET}?EIO=4&transport=polling"
    good, bad = "https://app.example.org", "https://evil.example.org"
    async with pricing(tmp_path, {"server.allowed_origins": [good]}) as world:
        answer = await world.raw("GET", target, Origin=good)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == good
        assert answer.headers["vary"] == "Origin"
        sid = json.loads(answer.text[1:])["sid"]
        preflight = await world.raw(
            "OPTIONS", f"{target}&sid={sid}", Origin=good, **{"Access-Control-Request-Method": "POST"}
        )
        assert preflight.status_code == 204
        assert preflight.headers["access-control-allow-origin"] == good
        assert "POST" in preflight.headers["access-control-allow-methods"]
        assert "Content-Type" in preflight.headers["access-control-allow-headers"]
        # Refusals can be read too, or a page would take them for a network that fails.
        assert (await world.raw("GET", f"{target}&sid=x", Origin=good)).headers["access-control-allow-origin"] == good
        for method in ("GET", "POST", "OPTIONS"):
            refused = await world.raw(method, f"{target}&sid={sid}", Origin=bad)
            assert refused.status_code == 403
            assert "access-control-allow-origin" not in refused.headers
            assert refused.headers["vary"] == "Origin"
        assert (await world.raw("GET", target)).status_code == 200  # no browser
        upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
        key = {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
        socket = await world.raw("GET", f"{SOCKET}?EIO=4&transport=websocket", Origin=bad, **upgrade, **key)
        assert socket.status_code == 403


@pytest.mark.slow
async def test_places(tmp_path: Path) -> None:
    """Each session has one place, whichever its transport; without a place the answer is 503; ends give places back."""
    async with pricing(tmp_path, {"dialects.socketio.max_connections": 2}) as world:
        first = await world.open_polling()
        async with world.websocket(f"&sid={first.sid}") as upgraded:
            await upgraded.send("2probe")
            assert await upgraded.receive() == "3probe"
            assert (await world.request("GET", SOCKET))[0] == 503
            await upgraded.send("5", "40/none,")
            await upgraded.until("44/none")
            second = await world.open_polling()  # the place that the first had while it polled
            answer = await world.raw("GET", f"{SOCKET}?EIO=4&transport=polling")
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) > 0
            assert answer.headers["access-control-allow-origin"] == "*"
            assert (await second.post("garbage"))[0] == 400
            third = await world.open_polling()
            assert (await third.post("1"))[0] == 200
        await world.check_healthy()


@pytest.mark.parametrize("size", [900_000, 1_000_000, 1_000_001, 3_000_000])
async def test_size_of_a_post(tmp_path: Path, size: int) -> None:
    """A POST may have the bytes that the handshake allows, whatever other bodies may; a larger one is refused."""
    async with pricing(tmp_path) as world:
        polling = await world.open_polling()
        body = '40/none,{"a":"'.ljust(size - 2, "x") + '"}'
        status, text = await polling.post(body)
        if size <= 1_000_000:
            assert (status, text) == (200, "ok")
            assert (await polling.get())[1].startswith("44/none,")
        else:
            assert status in (400, 413)
            assert await polling.refused()


@pytest.mark.slow
@pytest.mark.parametrize("signal_after", [0.0, 0.3])
async def test_shutdown_with_an_open_poll(tmp_path: Path, signal_after: float) -> None:
    """An open poll is answered `1` and does not hold the end of the process; what comes later is refused."""
    async with relay_process(tmp_path) as process:
        answers: list[httpx.Response] = []
        async with http_client(process.address) as http, trio.open_nursery() as nursery:
            opened = await http.get(f"{SOCKET}?EIO=4&transport=polling")
            sid = json.loads(opened.text[1:])["sid"]
            idle = await http.get(f"{SOCKET}?EIO=4&transport=polling")  # one that has no poll open
            assert idle.status_code == 200

            async def poll() -> None:
                with trio.fail_after(TIMEOUT):
                    answers.append(await http.get(f"{SOCKET}?EIO=4&transport=polling&sid={sid}"))

            nursery.start_soon(poll)
            await trio.sleep(0.3 + signal_after)
            begun = time.monotonic()
            assert await trio.to_thread.run_sync(process.stop) == 0
            assert time.monotonic() - begun < 2.0
        assert [(answer.status_code, answer.text) for answer in answers] == [(200, "1")]


async def test_drain(tmp_path: Path) -> None:
    """A server that drains ends every session and begins none."""
    async with echoing(tmp_path) as world:
        polling = await world.open_polling()
        async with world.opened() as frames:
            world.engines["socket"].drain()
            assert await frames.closed() == 1001
            assert await polling.refused()
            assert (await world.request("GET", SOCKET))[0] == 503
            assert world.count == 0
