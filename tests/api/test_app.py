"""Whatever goes wrong with a request, the answer has one shape; and nothing of a body is taken before it is wanted."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import trio
from quart import Blueprint, Response, request
from quart.routing import QuartRule
from werkzeug.routing import Map

from relay.api.app import _App, json_body, success
from relay.core import Core
from relay.ground import strictjson
from relay.ground.clock import iso_ms
from relay.ground.errors import Code, FieldError, RequestError
from relay.transports.exchange import LINGER_TIMEOUT
from relay.transports.http_errors import STATUS, ErrorBody, error_answer
from tests.api.probe import app_with, serving
from tests.api.raw import raw_connection
from tests.parts import START_MS

SHAPE = {"success", "status", "message", "error", "errorId", "meta"}


def check_shape(body: Any, status: int) -> None:
    """Check that a body is an error of this status, as the API documents it."""
    assert body.keys() in (SHAPE, SHAPE | {"errors"})
    assert body["success"] is False
    assert body["status"] == status
    assert body["error"] == body["message"]
    assert body["meta"].keys() == {"timestamp", "version", "errorId"}
    assert body["meta"]["version"] == "v1"
    assert body["meta"]["errorId"] == body["errorId"]
    uuid.UUID(body["errorId"])


# -- the shape of errors -----------------------------------------------------------------------------------------------


def test_every_code_has_a_status() -> None:
    assert set(STATUS) == set(Code)
    assert all(400 <= status < 600 for status in STATUS.values())


@pytest.mark.parametrize("code", Code)
def test_an_error_has_one_shape(code: Code) -> None:
    answer = error_answer(RequestError(code, "No."), "/v1/chatrooms", START_MS)
    assert answer.status == STATUS[code]
    check_shape(answer.body, STATUS[code])
    assert answer.body["message"] == "No."
    assert answer.body["meta"]["timestamp"] == iso_ms(START_MS)
    assert answer.error_id == answer.body["errorId"]


@pytest.mark.parametrize("code", Code)
def test_a_dialect_shapes_the_errors_below_its_prefix(code: Code) -> None:
    bodies = [ErrorBody("/toy/", lambda refusal: {"no": refusal.code.value})]
    answer = error_answer(RequestError(code, "No."), "/toy/nothing", START_MS, bodies=bodies)
    assert (answer.status, answer.body) == (STATUS[code], {"no": code.value})
    check_shape(error_answer(RequestError(code, "No."), "/toys", START_MS, bodies=bodies).body, STATUS[code])


def test_an_error_names_each_field() -> None:
    refusal = RequestError(Code.INVALID_REQUEST, "No.", fields=[FieldError("a", "is wrong"), FieldError("b", "too")])
    errors = [{"field": "a", "message": "is wrong"}, {"field": "b", "message": "too"}]
    assert error_answer(refusal, "/", START_MS).body["errors"] == errors


@pytest.mark.parametrize(
    ("code", "retry_after", "header"),
    [
        (Code.RATE_LIMITED, 0.01, "1"),
        (Code.RATE_LIMITED, 1.2, "2"),
        (Code.RATE_LIMITED, 30.0, "30"),
        (Code.RATE_LIMITED, None, "5"),
        (Code.UNAVAILABLE, None, "5"),
        (Code.UNAVAILABLE, 2.0, "2"),
        (Code.NOT_FOUND, None, None),
        (Code.FORBIDDEN, 3.0, None),
    ],
)
def test_who_may_come_back_is_told_when_in_whole_seconds(
    code: Code, retry_after: float | None, header: str | None
) -> None:
    answer = error_answer(RequestError(code, "No.", retry_after=retry_after), "/", START_MS)
    assert answer.headers.get("Retry-After") == header


def test_who_must_say_who_it_is_is_told_how() -> None:
    assert error_answer(RequestError(Code.UNAUTHORIZED, "No."), "/", START_MS).headers == {"WWW-Authenticate": "Bearer"}


# -- what the application does with what goes wrong --------------------------------------------------------------------


def add_routes(routes: Blueprint) -> None:
    """Add routes in which something goes wrong, and some in which nothing does."""

    @routes.get("/refuse")
    async def refuse() -> Response:
        raise RequestError(Code.CONFLICT, "Taken.", fields=[FieldError("id", "is taken")])

    @routes.get("/limited")
    async def limited() -> Response:
        raise RequestError(Code.RATE_LIMITED, "Slow down.", retry_after=0.2)

    @routes.get("/bug")
    async def bug() -> Response:
        raise RuntimeError("the secret is 4711")

    @routes.get("/grouped")
    async def grouped() -> Response:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(refuse)
        return success(None)

    @routes.post("/echo")
    async def echo() -> Response:
        return success(await json_body())

    @routes.get("/item/<path:name>")
    async def item(name: str) -> Response:
        return success({"name": name, "query": request.args.get("q")})


def http_records(caplog: pytest.LogCaptureFixture) -> list[Mapping[str, Any]]:
    """Return the fields of what was logged about requests."""
    return [vars(record)["fields"] for record in caplog.records if record.name == "relay.http"]


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="relay")


@pytest.mark.parametrize(
    "path", ["/", "/nothing", "/v1/nothing", "/v1//nothing", "/api/v1", "/%FF", "/a/../echo", "//item"]
)
async def test_an_unknown_path_is_not_found(path: str) -> None:
    response = await app_with(add_routes).test_client().get(path)
    assert response.status_code == 404
    check_shape(json.loads(await response.get_data()), 404)


async def test_a_method_that_a_path_does_not_take_is_refused_with_those_that_it_takes() -> None:
    response = await app_with(add_routes).test_client().delete("/echo")
    assert response.status_code == 405
    check_shape(json.loads(await response.get_data()), 405)
    assert response.headers["Allow"] == "OPTIONS, POST"


async def test_a_refusal_is_answered_and_logged_under_one_id(caplog: pytest.LogCaptureFixture) -> None:
    response = await app_with(add_routes).test_client().get("/refuse?q=private")
    body = json.loads(await response.get_data())
    assert response.status_code == 409
    check_shape(body, 409)
    assert body["errors"] == [{"field": "id", "message": "is taken"}]
    [fields] = http_records(caplog)
    assert fields == {
        "method": "GET",
        "path": "/refuse",
        "status": 409,
        "cause": "Taken.",
        "errorId": body["errorId"],
    }


async def test_a_refusal_out_of_a_nursery_is_a_refusal() -> None:
    response = await app_with(add_routes).test_client().get("/grouped")
    assert response.status_code == 409


async def test_a_limit_says_when_to_come_back() -> None:
    response = await app_with(add_routes).test_client().get("/limited")
    assert (response.status_code, response.headers["Retry-After"]) == (429, "1")


async def test_a_bug_shows_nothing_to_the_client_and_everything_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    response = await app_with(add_routes).test_client().get("/bug")
    text = await response.get_data(as_text=True)
    assert response.status_code == 500
    check_shape(json.loads(text), 500)
    assert "4711" not in text
    assert "RuntimeError" not in text
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert vars(record)["fields"]["errorId"] == json.loads(text)["errorId"]
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], RuntimeError)


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        ("application/json", b'{"a":1}', 200),
        ("Application/JSON; charset=utf-8", b'{"a":1}', 200),
        ("text/plain", b'{"a":1}', 415),
        ("application/x-www-form-urlencoded", b"a=1", 415),
        (None, b'{"a":1}', 415),
        ("application/json", b"", 400),
        ("application/json", b"{", 400),
        ("application/json", b'{"a":NaN}', 400),
        ("application/json", b'{"a":123456789012345678901234567890}', 400),
        ("application/json", b'{"a":"\xff"}', 400),
        ("application/json", b"[1]", 400),
        ("application/json", b"null", 400),
        ("application/json", b"[" * 500 + b"]" * 500, 400),
    ],
)
async def test_a_body_is_a_json_object(content_type: str | None, body: bytes, status: int) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    response = await app_with(add_routes).test_client().post("/echo", data=body, headers=headers)
    assert response.status_code == status
    if status != 200:
        check_shape(json.loads(await response.get_data()), status)


async def test_neither_body_nor_credentials_reach_the_log(caplog: pytest.LogCaptureFixture) -> None:
    headers = {"Content-Type": "application/json", "Authorization": "Bearer hunter2", "X-API-Key": "hunter2"}
    response = await app_with(add_routes).test_client().post("/echo", data=b'{"password": "hunter2"', headers=headers)
    assert response.status_code == 400
    assert http_records(caplog)
    assert "hunter2" not in str([vars(record) for record in caplog.records])


async def test_a_path_may_have_slashes_twice_and_at_both_ends() -> None:
    client = app_with(add_routes).test_client()
    for path, name in {
        "/item/a//b": "a//b", "/item/a": "a", "/item/a%2Fb%20c": "a/b c", "/item/%2Fa": "/a", "/item/%2F%2F": "//",
    }.items():  # fmt: skip
        response = await client.get(path)
        assert json.loads(await response.get_data())["data"]["name"] == name
    response = await client.post("/echo/", json={"a": 1})
    assert response.status_code == 200


# -- over a real connection --------------------------------------------------------------------------------------------


def with_core(routes: Blueprint, core: Core) -> None:
    """Add the routes of above to a real server."""
    add_routes(routes)


async def test_head_and_options_are_answered_without_a_body(tmp_path: Path) -> None:
    with trio.fail_after(20):
        async with serving(tmp_path, with_core) as (_, address), raw_connection(address) as connection:
            await connection.head("HEAD", "/healthz")
            head = await connection.answer(without_body=True)
            await connection.head("HEAD", "/nothing")
            nothing = await connection.answer(without_body=True)
            await connection.head("OPTIONS", "/echo")
            options = await connection.answer()
            await connection.head("GET", "/healthz")
            assert (await connection.answer()).json == {"status": "ok"}
    assert (head.status, head.headers["content-length"]) == (200, "15")
    assert nothing.status == 404
    assert (options.status, options.body) == (200, b"")
    assert set(options.headers["allow"].split(", ")) == {"OPTIONS", "POST"}


@pytest.mark.parametrize("host", ["x" * 300, "a b", "", "xn--\xff", "test:99999", "..", "[::1"])
async def test_a_host_that_cannot_be_is_no_reason_to_fail(tmp_path: Path, host: str) -> None:
    with trio.fail_after(20):
        async with serving(tmp_path) as (_, address), raw_connection(address) as connection:
            await connection.send(f"GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n".encode("latin-1"))
            assert (await connection.answer()).status == 200


@pytest.mark.parametrize(
    ("target", "status"), [("http://elsewhere/healthz", 200), ("?x=1", 400), ("*", 404), ("/healthz?x=1", 200)]
)
async def test_a_target_may_have_any_form(tmp_path: Path, target: str, status: int) -> None:
    with trio.fail_after(20):
        async with serving(tmp_path) as (_, address), raw_connection(address) as connection:
            await connection.head("GET", target)
            assert (await connection.answer()).status == status


async def test_a_body_over_the_limit_is_refused_by_its_length_before_it_comes(tmp_path: Path) -> None:
    with trio.fail_after(20):
        async with serving(tmp_path, with_core) as (_, address), raw_connection(address) as connection:
            await connection.head("POST", "/echo", "Content-Type: application/json", "Content-Length: 65537")
            answer = await connection.answer()
    check_shape(answer.json, 413)


async def test_a_body_over_the_limit_is_refused_as_it_comes(tmp_path: Path) -> None:
    with trio.fail_after(20):
        async with serving(tmp_path, with_core) as (_, address), raw_connection(address) as connection:
            await connection.head("POST", "/echo", "Content-Type: application/json", "Transfer-Encoding: chunked")
            for _ in range(9):
                await connection.chunk(b" " * 8192)
            answer = await connection.answer()
    check_shape(answer.json, 413)


async def test_a_body_of_just_the_limit_is_taken(tmp_path: Path) -> None:
    body = b'{"a":"' + b"x" * (65536 - 8) + b'"}'
    with trio.fail_after(20):
        async with serving(tmp_path, with_core) as (_, address), raw_connection(address) as connection:
            await connection.head("POST", "/echo", "Content-Type: application/json", f"Content-Length: {len(body)}")
            await connection.send(body)
            answer = await connection.answer()
    assert answer.status == 200
    assert strictjson.loads(answer.body) == {"success": True, "status": 200, "data": strictjson.loads(body)}


async def test_a_connection_serves_on_after_a_body_that_nobody_read(tmp_path: Path) -> None:
    """The answer does not wait for it, and the next request is not taken for it."""
    with trio.fail_after(20):
        async with serving(tmp_path, with_core) as (_, address), raw_connection(address) as connection:
            await connection.head("POST", "/nothing", "Content-Length: 10")
            assert (await connection.answer()).status == 404
            await connection.send(b"0123456789")
            await connection.head("GET", "/healthz")
            assert (await connection.answer()).status == 200


async def test_a_flood_behind_a_refusal_ends_with_its_connection(tmp_path: Path) -> None:
    """What waits to be taken must not hold up the end of the request, and with that the server's."""
    with trio.fail_after(20):
        async with serving(tmp_path, with_core) as (server, address):
            async with raw_connection(address) as connection:
                head = b"POST /v1/publish HTTP/1.1\r\nHost: test\r\nX-API-Key: no\r\nTransfer-Encoding: chunked\r\n\r\n"
                await connection.send(head + b"2\r\n \n\r\n" * 2000)
                assert (await connection.answer()).status == 401
            with trio.fail_after(server.core.config.server.shutdown_grace / 2):
                await server.drain()


@pytest.mark.slow
async def test_a_client_that_goes_on_after_a_refusal_is_cut_off(tmp_path: Path) -> None:
    with trio.fail_after(20):
        async with serving(tmp_path, with_core) as (_, address), raw_connection(address) as connection:
            await connection.head("POST", "/v1/publish", "Transfer-Encoding: chunked")
            assert (await connection.answer()).status == 401
            with pytest.raises(trio.BrokenResourceError), trio.fail_after(LINGER_TIMEOUT + 5):
                while True:
                    await connection.chunk(b" " * 1000)
                    await trio.sleep(0.01)


class Waiting:
    """A route that waits until its client is gone, and tells."""

    def __init__(self) -> None:
        self.began = trio.Event()
        self.ended = trio.Event()

    def add(self, routes: Blueprint, core: Core) -> None:
        """Add the route."""

        @routes.route("/wait", methods=["GET", "POST"])
        async def wait() -> Response:
            self.began.set()
            try:
                if request.method == "POST":
                    await request.body
                await trio.sleep_forever()
            finally:
                self.ended.set()


@pytest.mark.parametrize(("method", "header"), [("GET", "Accept: */*"), ("POST", "Content-Length: 10")])
async def test_a_handler_that_waits_hears_that_its_client_is_gone(tmp_path: Path, method: str, header: str) -> None:
    waiting = Waiting()
    with trio.fail_after(20):
        async with serving(tmp_path, waiting.add) as (_, address):
            async with raw_connection(address) as connection:
                await connection.head(method, "/wait", header)
                await waiting.began.wait()
            await waiting.ended.wait()


class FakePeer:
    """An ASGI server with one request, that counts what the application takes of it."""

    def __init__(self, *chunks: bytes) -> None:
        self._messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
        self._messages.append({"type": "http.request", "body": b"", "more_body": False})
        self.taken = 0
        self.sent: list[dict[str, Any]] = []

    async def receive(self) -> dict[str, Any]:
        """Give the next message; after the last one the peer stays."""
        await trio.lowlevel.checkpoint()
        if self.taken == len(self._messages):
            await trio.sleep_forever()
        self.taken += 1
        return self._messages[self.taken - 1]

    async def send(self, message: dict[str, Any]) -> None:
        """Take a message of the answer."""
        await trio.lowlevel.checkpoint()
        self.sent.append(message)


def scope_of(method: str, path: str) -> dict[str, Any]:
    """Return the ASGI scope of a request with a chunked body."""
    headers = [(b"host", b"test"), (b"transfer-encoding", b"chunked"), (b"content-type", b"application/json")]
    return {
        "type": "http", "http_version": "1.1", "method": method, "scheme": "http", "path": path, "query_string": b"",
        "headers": headers, "server": ("test", 80),
    }  # fmt: skip


async def test_nothing_of_a_body_is_taken_before_the_handler_asks(autojump_clock: trio.testing.MockClock) -> None:
    peer = FakePeer(b'{"a":', b"1}")
    taken = []

    def add(routes: Blueprint) -> None:
        @routes.post("/late")
        async def late() -> Response:
            await trio.sleep(10)
            taken.append(peer.taken)
            body = await json_body()
            taken.append(peer.taken)
            assert await request.body == b'{"a":1}', "a body can be read again"
            return success(body)

    await app_with(add)(scope_of("POST", "/late"), peer.receive, peer.send)  # type: ignore[arg-type]
    assert taken == [0, 3]
    assert [message["type"] for message in peer.sent] == ["http.response.start", "http.response.body"]
    assert json.loads(peer.sent[1]["body"])["data"] == {"a": 1}


async def test_a_body_can_be_read_as_it_comes(autojump_clock: trio.testing.MockClock) -> None:
    peer = FakePeer(*[b"x" * 50_000] * 100)
    taken = []

    def add(routes: Blueprint) -> None:
        @routes.post("/stream")
        async def stream() -> Response:
            async for data in request.body:
                assert data == b"x" * 50_000
                taken.append(peer.taken)
            return success(len(taken))

    await app_with(add)(scope_of("POST", "/stream"), peer.receive, peer.send)  # type: ignore[arg-type]
    assert taken == list(range(1, 101)), "each is taken only after the one before"
    assert json.loads(peer.sent[1]["body"])["data"] == 100


async def test_websockets_do_not_come_this_way() -> None:
    sent = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    scope: Any = {"type": "websocket", "path": "/", "headers": []}
    await app_with()(scope, receive, send)
    assert sent == [{"type": "websocket.close"}]


def test_routes_compile_no_functions_that_build_urls() -> None:
    """Werkzeug asks a private method of its rules for two such functions, when a rule is added to a map."""
    common, own = QuartRule("/a/<b>"), _App.url_rule_class("/a/<b>")
    for rule, is_own in ((common, False), (own, True)):
        Map([rule])
        assert [getattr(rule, name).__func__.__name__ == "_build_no_url" for name in ("_build", "_build_unknown")] == [
            is_own,
            is_own,
        ]
