"""`relay publish`: the request, the answer, and everything that can go wrong between them."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import cast

import pytest
import trio

from tests.api.probe import create_key
from tests.certificates import write_certificate
from tests.cli.commands import done, failed, process
from tests.http_client import http_client
from tests.running import bearer, config_for, running


class FakeServer(HTTPServer):
    """Answers every POST with what it was told to, and keeps what it was asked."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status, self.body = status, body
        self.asked: list[tuple[str, str | None, bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server = cast(FakeServer, self.server)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        server.asked.append((self.path, self.headers["X-API-Key"], body))
        self.send_response(server.status)
        if server.status == 307:
            self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", str(len(server.body)))
        self.end_headers()
        self.wfile.write(server.body)

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def serving(status: int, body: object) -> Iterator[FakeServer]:
    server = FakeServer(status, body if isinstance(body, bytes) else json.dumps(body).encode())
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


POSITION = [{"channel": "market:BTC", "offset": 7, "epoch": "e"}]


@pytest.mark.slow
def test_publish_prints_the_position() -> None:
    with serving(200, {"success": True, "status": 200, "data": POSITION}) as server:
        result = process("publish", "market:BTC", '{"price": 1.5}', "--url", server.url + "/", RELAY_KEY="rk_live_x")
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout) == POSITION
    ((path, key, body),) = server.asked
    assert (path, key) == ("/v1/publish", "rk_live_x")
    assert json.loads(body) == {"channel": "market:BTC", "data": {"price": 1.5}}


def test_publish_reads_stdin_and_takes_a_type_and_a_path() -> None:
    with serving(200, {"data": POSITION}) as server:
        done("publish", "c", "-", "--type", "t", "--url", f"{server.url}/base/", "--key", "k", stdin='{"ü": "ö"}')
    ((path, key, body),) = server.asked
    assert (path, key) == ("/base/v1/publish", "k")
    assert json.loads(body) == {"channel": "c", "type": "t", "data": {"ü": "ö"}}


def test_publish_ignores_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with serving(200, {"data": POSITION}) as server:
        done("publish", "c", "{}", "--url", server.url, "--key", "k")


def test_publish_over_https(tmp_path: Path) -> None:
    write_certificate(tmp_path)
    write_certificate(tmp_path, name="other")
    with serving(200, {"data": POSITION}) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "relay.crt", tmp_path / "relay.key")
        server.socket = context.wrap_socket(server.socket, server_side=True)
        url = f"https://127.0.0.1:{server.server_port}"
        publish = ("publish", "c", "{}", "--key", "k", "--url", url)
        assert json.loads(done(*publish, "--ca", str(tmp_path / "relay.crt"))) == POSITION
        assert json.loads(done(*publish, "--insecure")) == POSITION
        for options in ((), ("--ca", str(tmp_path / "other.crt"))):
            text = failed(*publish, *options)
            assert f"the certificate of {url} is not trusted (self" in text
            assert "name the certificate to trust with --ca FILE" in text
        assert len(server.asked) == 2, "the key goes to nobody who is not trusted"
        assert "does not contain a readable certificate" in failed(
            *publish, "--ca", str(tmp_path / "relay.key"), code=2
        )
        assert "does not exist" in failed(*publish, "--ca", str(tmp_path / "nothing"), code=2)


@pytest.mark.parametrize(
    ("message", "errors", "shown"),
    [
        ("price is required\x1b[31m", [("price", "is required")], "price is required\\x1b[31m"),
        ("a is required; b is text", [("a", "is required"), ("b", "is text")], "a is required; b is text"),
        ("There is no such namespace.", [("channel", "unknown namespace")], "There is no such namespace."),
    ],
)
def test_publish_shows_a_refusal_once(message: str, errors: list[tuple[str, str]], shown: str) -> None:
    """The message says all that the errors of the fields say."""
    fields = [{"field": field, "message": problem} for field, problem in errors]
    with serving(
        400, {"success": False, "status": 400, "message": message, "errorId": "e-1", "errors": fields}
    ) as server:
        text = failed("publish", "market:BTC", "{}", "--url", server.url, "--key", "k")
    assert text == f"Error: the server refused with 400: {shown} (errorId e-1 in the server's log)\n"


VALUES = ("21.5", "null", '"warm"', "[1, [2]]", '{"a": 1}', "true")


async def test_publish_sends_any_json(folder: Path) -> None:
    """The server knows which channels take it, and its refusal is printed."""
    with trio.fail_after(30):
        async with running(config_for(folder, {"namespaces.readings.publish": "nobody"})) as (_, address):
            _, key = await create_key(folder, "publish")
            server = ("--url", f"http://{address}", "--key", key)
            for offset, data in enumerate(VALUES, 1):
                printed = await trio.to_thread.run_sync(partial(done, "publish", "readings:roof", data, *server))
                assert json.loads(printed)[0]["offset"] == offset
            await trio.to_thread.run_sync(partial(done, "publish", *server, "readings:roof", "--", "-3"))
            for channel, data in (("market:BTC", "21.5"), ("broadcast", "[]")):
                text = await trio.to_thread.run_sync(partial(failed, "publish", channel, data, *server))
                assert "refused with 400: data is required and must be an object" in text
                assert text.count("must be an object") == 1
            text = await trio.to_thread.run_sync(partial(failed, "publish", "sensors:roof", "1", *server))
            assert "refused with 400: There is no such namespace. There are: chatroom, user" in text
            assert text.count("namespace") == 1
            async with http_client(address) as http:
                answer = await http.get("/v1/channels/readings:roof/history", headers=bearer("root", admin=True))
            assert [one["data"] for one in answer.json()["data"]["publications"]] == [
                -3,
                *map(json.loads, reversed(VALUES)),
            ]


@pytest.mark.parametrize(
    ("status", "body"),
    [(502, b"<html>"), (200, b"hello"), (200, []), (200, {}), (500, [1]), (307, b""), (404, b"[" * 100_000)],
)
def test_publish_to_something_that_is_not_relay(status: int, body: object) -> None:
    with serving(status, body) as server:
        text = failed("publish", "c", "{}", "--url", server.url, "--key", "k")
        assert f"{server.url} answered {status}, but not like Relay" in text
        assert len(server.asked) == 1


def test_publish_where_nobody_listens() -> None:
    with serving(200, {}) as server:
        url = server.url
    text = failed("publish", "c", "{}", "--url", url, "--key", "k")
    assert f"no server answers at {url} (Connection refused); is `relay serve` running there?" in text


def test_publish_to_a_host_that_cannot_be() -> None:
    assert "no server answers at http://a..b" in failed("publish", "c", "{}", "--url", "http://a..b", "--key", "k")


def test_publish_without_a_key() -> None:
    assert "an API key is needed, in --key or RELAY_KEY" in failed("publish", "c", "{}", code=2)


@pytest.mark.parametrize("data", ["", "x", "NaN", '{"a": NaN}', '{"a": 1e999}', '{"a":' * 100_000])
def test_publish_of_what_is_no_json(data: str) -> None:
    assert "Error: Invalid value for JSON: " in failed("publish", "c", data, "--key", "k", code=2)


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:8080", "ftp://x", "http://", "http://x:99999", "http://[", "http://a b", "http://x/ü"]
)
def test_publish_to_what_is_no_url(url: str) -> None:
    assert "is not the URL of a server" in failed("publish", "c", "{}", "--key", "k", "--url", url, code=2)


def test_a_key_that_would_break_the_request_is_refused() -> None:
    assert "printable ASCII" in failed("publish", "c", "{}", "--key", "a\r\nHost: x", code=2)
