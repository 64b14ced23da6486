"""Backend hooks on a real server with a real backend: what is asked, what each answer does, and what a bad backend costs."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from relay.config.hooks import HookConfig
from relay.ground.clock import Clock
from relay.ground.errors import RefusalReason, RequestError
from relay.hooks import backend as module
from relay.hooks.addresses import Address
from relay.hooks.answers import Question, QuestionKind, read_subscription
from relay.hooks.backend import BackendHook
from relay.hooks.egress import EgressError, Failure, Response, Target
from relay.hooks.signing import signed_headers
from tests.api.probe import create_key
from tests.backend import Received, Reply, result
from tests.clients import Client, connect, live
from tests.hooks.hooked import KEY, SECRET, UNCLEAR, decide, hooked
from tests.running import bearer, token
from tests.streams import stream
from tests.virtual import VirtualClock
from tests.waiting import TIMEOUT, until


def channels(address: str, user: str) -> Any:
    return connect(address, f"/api/ws?token={token(user)}")


async def refusal(client: Client, **message: Any) -> dict[str, Any]:
    """Send a message that is refused; return the data of the refusal."""
    answer = await client.ask(**message)
    assert answer["type"] == "error", answer
    data: dict[str, Any] = answer["data"]
    return data


# -- subscribing -------------------------------------------------------------------------------------------------------


async def test_subscribing_in_every_dialect(tmp_path: Path) -> None:
    """The same questions, over `live`, `channels` and REST, and the same answers."""
    async with hooked(tmp_path) as here, live(here.address, "u1") as client, channels(here.address, "u2") as other:
        answer = await client.ask(type="subscribe", channel="orders:1")
        assert answer["type"] == "subscribed"
        answer = await other.ask(type="subscribe", data={"channel": "orders:1"})
        assert answer["type"] == "subscribed"
        assert (await here.request("GET", "/v1/channels/orders%3A1/history", "u3"))[0] == 200
        for request, user, dialect in zip(
            here.backend.received, ("u1", "u2", "u3"), ("live", "channels", None), strict=True
        ):
            assert request.headers["relay-hook"] == "subscribe"
            body = request.json
            assert (body["user"], body["channel"], body.get("dialect")) == (user, "orders:1", dialect)
            assert body["transport"] == ("http" if dialect is None else "websocket")
            assert ("client" in body) is (dialect is not None)
            headers = {name: request.headers[name] for name in ("webhook-id", "webhook-timestamp", "webhook-signature")}
            signed = signed_headers([KEY], headers["webhook-id"], int(headers["webhook-timestamp"]), request.body)
            assert headers == signed
            assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60
        assert len({request.headers["webhook-id"] for request in here.backend.received}) == 3

        refused = await refusal(client, type="subscribe", channel="orders:no")
        assert (refused["code"], refused["reason"], refused["message"]) == (
            "forbidden",
            "backend_refused",
            "Not yours.",
        )
        refused = await refusal(other, type="subscribe", data={"channel": "orders:no"})
        assert (refused["code"], refused["reason"], refused["message"]) == (
            "unauthorized",
            "backend_refused",
            "Not yours.",
        )
        status, body = await here.request("GET", "/v1/channels/orders%3Ano/presence", "u3")
        assert (status, body["reason"], body["message"]) == (403, "backend_refused", "Not yours.")
        assert (await refusal(client, type="subscribe", channel="orders:silent-no"))[
            "message"
        ] == "The backend refused this."
        assert here.outcomes() == {("subscribe", "allowed"): 3, ("subscribe", "refused"): 4}


async def test_a_subscriber_by_the_backend_gets_publications_and_reads_without_another_question(tmp_path: Path) -> None:
    async with hooked(tmp_path) as here, live(here.address, "u1") as client:
        await client.ask(type="subscribe", channel="orders:1")
        async with live(here.address, "backend", admin=True) as admin:
            await admin.ask(type="publish", channel="orders:1", data={"state": "paid"})
        assert (await client.receive())["data"] == {"state": "paid"}
        history = await client.ask(type="history", channel="orders:1")
        assert [one["data"] for one in history["data"]["publications"]] == [{"state": "paid"}]
        assert (await client.ask(type="presence", channel="orders:1"))["data"]["count"] == 1
        assert len(here.backend.received) == 1


async def test_nobody_is_asked_where_the_rules_say_yes_or_the_client_is_no_user(tmp_path: Path) -> None:
    """Not for a grant, an admin, a token of one channel, a client without a token, or a channel that is built in."""
    grants = {"grants": {"subscribe": ["orders:*"]}}
    async with hooked(tmp_path, auth__connect_hook="", namespaces__open__subscribe="anyone") as here:
        async with live(here.address, "granted", more=grants) as client:
            assert (await client.ask(type="subscribe", channel="orders:no"))["type"] == "subscribed"
        async with live(here.address, "root", admin=True) as client:
            assert (await client.ask(type="subscribe", channel="orders:no"))["type"] == "subscribed"
        async with live(here.address, "u1") as client:
            proof = token("u1", more={"channel": "orders:no"})
            assert (await client.ask(type="subscribe", channel="orders:no", token=proof))["type"] == "subscribed"
            refused = await refusal(client, type="subscribe", channel="orders:yes", token="nonsense")
            assert refused["reason"] == "token_invalid"
            assert (await refusal(client, type="subscribe", channel="user:u2"))["reason"] == "not_owner"
        async with live(here.address) as client:
            assert (await client.ask(type="subscribe", channel="open:1"))["type"] == "subscribed"
            assert (await refusal(client, type="subscribe", channel="orders:1"))["reason"] == "not_authenticated"
        assert (await here.request("GET", "/v1/channels/orders%3A1/history"))[0] == 401
        assert here.backend.received == []


@pytest.mark.slow
async def test_an_event_stream_asks_once_for_each_channel(tmp_path: Path) -> None:
    """The stream rests on the answer from before its head, and ends with it."""
    end = time.time() + 1.5

    async def answer(request: Received) -> Reply:
        return result({"result": {"info": {"name": "Ada"}, "expire_at": end}})

    async with (
        hooked(tmp_path, answer) as here,
        stream(here.address, ["orders:1", "orders:2"], headers=bearer("u1")) as reader,
    ):
        assert [(await reader.event())["event"] for _ in range(2)] == ["relay:subscribed"] * 2
        assert [request.json["channel"] for request in here.backend.received] == ["orders:1", "orders:2"]
        _, answered = await here.request("GET", "/v1/channels/orders%3A1/presence", "u1")
        assert answered["data"]["users"] == [{"userId": "u1", "connections": 1, "info": {"name": "Ada"}}]
        ended = await reader.ended()
        assert time.time() >= end
    assert [event["event"] for event in ended] == [*["relay:unsubscribed"] * 2, "relay:end"]
    assert [event["data"]["reason"] for event in ended] == [*["backend_expired"] * 2, "unauthorized"]


async def test_a_yes_that_has_expired_is_one_refusal(tmp_path: Path) -> None:
    """In every dialect in which a user chooses channels, and over REST. Nothing else is sent, and no answer is kept."""
    past = "orders%3Apast"
    async with hooked(tmp_path) as here, live(here.address, "u1") as client, channels(here.address, "u2") as other:
        for who, code, message in (
            (client, "forbidden", {"type": "subscribe", "channel": "orders:past"}),
            (other, "unauthorized", {"type": "subscribe", "data": {"channel": "orders:past"}}),
        ):
            refused = await refusal(who, **message)
            assert (refused["code"], refused["reason"]) == (code, "backend_expired")
            assert (await who.ask(type="ping"))["type"] == "pong"
        for path in (f"/v1/channels/{past}/history", f"/v1/channels/{past}/presence", f"/v1/sse?channel={past}"):
            status, body = await here.request("GET", path, "u3")
            assert (status, body["reason"]) == (403, "backend_expired"), path
        assert here.outcomes() == {("subscribe", "allowed"): 5}
        assert here.server.broker.subscribers(here.server.core.namespaces.parse("orders:past")) == []


@pytest.mark.slow
async def test_the_answer_may_have_info_and_an_end(tmp_path: Path) -> None:
    """Others see the info; at the end the subscription ends, and the client may ask anew."""
    ends: list[float] = []

    async def answer(request: Received) -> Reply:
        ends.append(time.time() + 0.3)
        return result({"result": {"info": {"name": "Ada"}, "expire_at": ends[-1]}})

    async with hooked(tmp_path, answer) as here, live(here.address, "u1") as client:
        await client.ask(type="subscribe", channel="orders:1")
        present = await client.ask(type="presence", channel="orders:1")
        assert present["data"]["users"] == [{"userId": "u1", "connections": 1, "info": {"name": "Ada"}}]
        ended = await client.receive()
        assert (ended["type"], ended["data"]) == ("unsubscribed", {"channel": "orders:1", "reason": "backend_expired"})
        assert time.time() >= ends[-1]
        assert (await client.ask(type="subscribe", channel="orders:1"))["type"] == "subscribed"
        assert len(ends) == 2


async def test_a_yes_is_kept_only_if_the_answer_says_so(tmp_path: Path) -> None:
    async def answer(request: Received) -> Reply:
        body = request.json
        if body["user"] == "no":
            return result({"error": {"message": "no", "cache": 60}})
        return result({"result": {"cache": 60} if body["channel"] == "orders:kept" else {}})

    async def subscribe(address: str, user: str, name: str) -> str:
        async with live(address, user) as client:
            return str((await client.ask(type="subscribe", channel=name))["type"])

    async with hooked(tmp_path, answer) as here:
        for user, name, expected, asked in (
            ("u1", "orders:kept", "subscribed", 1),
            ("u1", "orders:kept", "subscribed", 1),
            ("u2", "orders:kept", "subscribed", 2),
            ("u1", "orders:asked", "subscribed", 3),
            ("u1", "orders:asked", "subscribed", 4),
            ("no", "orders:kept", "error", 5),
            ("no", "orders:kept", "error", 6),
        ):
            assert await subscribe(here.address, user, name) == expected
            assert len(here.backend.received) == asked
        assert here.outcomes()["subscribe", "cached"] == 1
        assert here.server.core.hooks["backend"].cached_count == 2


# -- publishing --------------------------------------------------------------------------------------------------------


async def test_publishing_in_every_dialect(tmp_path: Path) -> None:
    async with hooked(tmp_path) as here, live(here.address, "u1") as client, channels(here.address, "u2") as other:
        answer = await client.ask(type="publish", channel="notes:1", data={"n": 1.50}, event="note")
        assert answer["type"] == "published"
        answer = await other.ask(type="publish", data={"channel": "notes:1", "data": "text"})
        assert answer["type"] == "published"
        assert (await here.request("POST", "/v1/channels/notes%3A1/publish", "u3", data=[1]))[0] == 200
        first, second, third = (request.json for request in here.backend.received)
        assert {request.headers["relay-hook"] for request in here.backend.received} == {"publish"}
        assert (first["user"], first["channel"], first["type"], first["data"]) == ("u1", "notes:1", "note", {"n": 1.5})
        assert (second["user"], second["type"], second["data"]) == ("u2", "notes:event", "text")
        assert (third["user"], third["transport"], third["data"]) == ("u3", "http", [1])

        refused = await refusal(client, type="publish", channel="notes:no", data={})
        assert (refused["code"], refused["reason"], refused["message"]) == (
            "forbidden",
            "backend_refused",
            "Not yours.",
        )
        refused = await refusal(other, type="publish", data={"channel": "notes:no", "data": {}})
        assert (refused["code"], refused["reason"]) == ("unauthorized", "backend_refused")
        status, body = await here.request("POST", "/v1/channels/notes%3Ano/publish", "u3", data={})
        assert (status, body["reason"]) == (403, "backend_refused")


async def test_the_backend_may_change_the_data(tmp_path: Path) -> None:
    """It is published as the backend wrote it, with the publisher that Relay knows."""

    async def answer(request: Received) -> Reply:
        return Reply(200, b'{"result": {"data": {"text": "****", "price": 1.50}, "cache": 60}}')

    async with hooked(tmp_path, answer) as here, live(here.address, "u1") as client, live(here.address, "u2") as reader:
        await reader.ask(type="subscribe", channel="notes:1")
        for _ in range(2):  # an answer that changes the data is not kept
            await client.ask(type="publish", channel="notes:1", data={"text": "rude"})
        raw = await reader.connection.get_message()
        assert '"data":{"text": "****", "price": 1.50}' in raw
        assert json.loads(raw)["publisher"]["user"] == "u1"
        assert len(here.backend.received) == 2


async def test_a_publication_that_is_not_valid_does_not_reach_the_backend(tmp_path: Path) -> None:
    limits: dict[str, Any] = {"limits__publications_per_minute": 1, "namespaces__notes__max_data_bytes": 10}
    async with hooked(tmp_path, **limits) as here, live(here.address, "u1") as client:
        assert (await refusal(client, type="publish", channel="notes:1", data="x" * 20))["code"] == "invalid_request"
        assert (await refusal(client, type="publish", channel="notes:1", data=1))["code"] == "rate_limited"
        assert here.backend.received == []


async def test_backends_publish_without_a_question(tmp_path: Path) -> None:
    async with hooked(tmp_path) as here, live(here.address, "root", admin=True) as client:
        assert (await client.ask(type="publish", channel="notes:no", data=1))["type"] == "published"
        assert here.backend.received == []


# -- connecting --------------------------------------------------------------------------------------------------------


async def admit(request: Received) -> Reply:
    """Name the user of the cookie."""
    if request.headers["relay-hook"] != "connect":
        return result({"error": {"message": "no"}})
    cookie = request.json.get("headers", {}).get("cookie", "")
    users = {
        "session=ann": {
            "user": "ann",
            "info": {"name": "Ann"},
            "grants": {"subscribe": ["orders:*"]},
            "channels": ["orders:7"],
        },
        "session=short": {"user": "short", "expire_at": time.time() + 0.3},
        "session=nobody": {"user": ""},
        "session=odd": {"user": 7},
        "session=typo": {"user": "ann", "grants": ["orders"]},
    }
    if cookie not in users:
        return result({"error": {"message": "Log in first."}})
    return result({"result": users[cookie]})


COOKIES: dict[str, Any] = {"headers": ["cookie"], "server__allowed_origins": ["https://app.example.org"]}


def with_cookie(address: str, path: str, cookie: str) -> Any:
    return connect(address, path, headers={"cookie": cookie, "x-other": "1"})


async def test_a_client_without_a_token_is_the_user_that_the_backend_names(tmp_path: Path) -> None:
    async with hooked(tmp_path, admit, **COOKIES) as here:
        async with with_cookie(here.address, "/v1/live", "session=ann") as client:
            answer = await client.ask(type="auth", requestId="1")
            assert (answer["type"], answer["data"]["userId"], answer["data"]["expiresAt"]) == (
                "auth:success",
                "ann",
                None,
            )
            assert (await client.receive())["data"]["channel"] == "orders:7"
            assert (await client.ask(type="subscribe", channel="orders:8"))["type"] == "subscribed"
            assert (await client.ask(type="presence", channel="orders:8"))["data"]["users"][0]["info"] == {
                "name": "Ann"
            }
            connection = answer["data"]["connectionId"]
        async with with_cookie(here.address, "/api/ws", "session=ann") as client:
            assert (await client.ask(type="subscribe", data={"channel": "orders:8"}))["type"] == "subscribed"
        first, second = (request.json for request in here.backend.received)
        assert (first["client"], first["dialect"], first["address"]) == (connection, "live", "127.0.0.1")
        assert second["dialect"] == "channels"
        assert first["headers"] == second["headers"] == {"cookie": "session=ann"}
        assert "user" not in first


async def test_a_client_with_a_token_is_not_asked_about(tmp_path: Path) -> None:
    async with hooked(tmp_path, admit) as here, live(here.address, "u1"), channels(here.address, "u1") as client:
        await client.ask(type="ping")
        assert here.backend.received == []


@pytest.mark.parametrize(
    ("cookie", "code", "message", "reason"),
    [
        ("session=none", "unauthorized", "Log in first.", "backend_refused"),
        ("session=odd", "internal_error", "The backend gave no answer.", "backend_unreachable"),
        ("session=typo", "internal_error", "The backend gave no answer.", "backend_unreachable"),
    ],
)
async def test_a_client_that_the_backend_does_not_let_in(
    tmp_path: Path, cookie: str, code: str, message: str, reason: str
) -> None:
    end = 1013 if reason == "backend_unreachable" else 1008
    async with hooked(tmp_path, admit, **COOKIES) as here:
        async with with_cookie(here.address, "/v1/live", cookie) as client:
            await client.send(type="auth")
            closed, [frame] = await client.closed()
            data = frame["data"]
            assert (closed, frame["type"], data["code"], data["message"]) == (end, "auth:error", code, message)
            assert ("retryAfter" in frame["data"]) is (reason == "backend_unreachable")
        async with with_cookie(here.address, "/api/ws", cookie) as client:
            closed, [frame] = await client.closed()
            assert (closed, frame["data"]["code"], frame["data"]["reason"]) == (end, code, reason)


async def test_a_client_without_a_user_is_anonymous_where_there_is_something_to_read(tmp_path: Path) -> None:
    async with hooked(tmp_path, admit, namespaces__open__subscribe="anyone", **COOKIES) as here:
        async with with_cookie(here.address, "/v1/live", "session=nobody") as client:
            answer = await client.ask(type="auth")
            assert (answer["type"], answer["data"]["userId"]) == ("auth:success", None)
            assert (await client.ask(type="subscribe", channel="open:1"))["type"] == "subscribed"
            assert (await refusal(client, type="subscribe", channel="orders:1"))["reason"] == "not_authenticated"
        async with with_cookie(here.address, "/api/ws", "session=nobody") as client:
            closed, [frame] = await client.closed()
            assert (closed, frame["data"]["code"]) == (1008, "unauthorized")


@pytest.mark.slow
async def test_the_end_of_a_user_that_the_backend_named(tmp_path: Path) -> None:
    async with (
        hooked(tmp_path, admit, **COOKIES) as here,
        with_cookie(here.address, "/v1/live", "session=short") as client,
    ):
        assert (await client.ask(type="auth"))["data"]["expiresAt"] is not None
        code, [frame] = await client.closed()
        assert (code, frame["type"]) == (1008, "auth:error")


async def test_refused_clients_count_as_failures_to_authenticate(tmp_path: Path) -> None:
    async with hooked(tmp_path, admit, limits__auth_failures_per_minute=1) as here:
        codes = []
        for _ in range(3):
            async with live(here.address) as client:
                await client.send(type="auth")
                codes.append((await client.closed())[1][0]["data"]["code"])
        assert (codes[0], codes[-1]) == ("unauthorized", "rate_limited")


# -- a backend that ends a connection ----------------------------------------------------------------------------------


async def test_the_backend_ends_a_connection(tmp_path: Path) -> None:
    async with hooked(tmp_path) as here:
        for message in (
            {"type": "subscribe", "channel": "orders:out"},
            {"type": "publish", "channel": "notes:out", "data": 1},
        ):
            async with live(here.address, "u1") as client:
                await client.send(**message)
                assert await client.closed() == (1008, [])
        status, body = await here.request("GET", "/v1/channels/orders%3Aout/history", "u1")
        assert (status, body["reason"], body["message"]) == (403, "backend_refused", "blocked")


# -- a backend that fails ----------------------------------------------------------------------------------------------


async def test_no_clear_answer_is_a_no_that_is_temporary(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """And one line in the log, not one for each."""
    with caplog.at_level(logging.INFO, "relay.hooks"):
        async with hooked(tmp_path) as here, live(here.address, "u1") as client:
            for word in UNCLEAR:
                refused = await refusal(client, type="subscribe", channel=f"orders:{word}")
                assert (refused["code"], refused["reason"], refused["message"]) == (
                    "internal_error",
                    "backend_unreachable",
                    "The backend gave no answer.",
                ), word
                assert 5.0 <= refused["retryAfter"] <= 10.0
            refused = await refusal(client, type="subscribe", channel="orders:later")
            assert (refused["code"], refused["reason"]) == ("internal_error", "backend_refused")
            assert refused["message"] == "The shop is closed."
            assert refused["retryAfter"] >= 5.0
            status, body = await here.request("GET", "/v1/channels/orders%3A500/history", "u1")
            assert (status, body["reason"]) == (503, "backend_unreachable")
            assert (await client.ask(type="subscribe", channel="orders:1"))["type"] == "subscribed"
            assert here.outcomes()["subscribe", "unreachable"] == len(UNCLEAR) + 1
    lines = [record.getMessage() for record in caplog.records]
    assert lines.count("backend hook gives no answer") == 2  # before and after the clear answer of `later`
    assert lines.count("backend hook answers again") == 2


async def test_a_backend_that_is_down(tmp_path: Path) -> None:
    async with hooked(tmp_path, url="http://127.0.0.1:1/") as here, live(here.address, "u1") as client:
        assert (await refusal(client, type="subscribe", channel="orders:1"))["reason"] == "backend_unreachable"
        assert (await refusal(client, type="publish", channel="notes:1", data=1))["reason"] == "backend_unreachable"
        assert (await client.ask(type="subscribe", channel="plain:1"))["type"] == "subscribed"


async def test_an_address_that_is_not_allowed(tmp_path: Path) -> None:
    async with hooked(tmp_path, url="https://localhost/", allow_private=True) as here:
        here.server.core.hooks["backend"]._target._allowed = ()  # type: ignore[attr-defined]
        async with live(here.address, "u1") as client:
            assert (await refusal(client, type="subscribe", channel="orders:1"))["reason"] == "backend_unreachable"


@pytest.mark.slow
async def test_a_backend_that_hangs_slows_its_own_requests_alone(tmp_path: Path) -> None:
    """Other connections publish and receive; the waiting one gets publications and pongs, and at the end its refusal."""
    async with (
        hooked(tmp_path, timeout=10.0) as here,
        live(here.address, "u1") as waiting,
        live(here.address, "u2") as other,
    ):
        await waiting.ask(type="subscribe", channel="plain:1")
        await waiting.send(type="subscribe", channel="orders:hang")
        await until(lambda: len(here.backend.received) == 1)
        for number in range(20):
            answer = await other.ask(type="publish", channel="plain:1", data=number)
            assert answer["type"] == "published"
            assert (await waiting.receive())["data"] == number
        assert (await other.ask(type="ping"))["type"] == "pong"
        assert (await other.ask(type="subscribe", channel="orders:1"))["type"] == "subscribed"
        with trio.fail_after(TIMEOUT):
            await waiting.connection.ping()  # returns at the pong
        assert here.server.core.hooks["backend"].pending == 1
    await until(lambda: here.server.core.hooks["backend"].pending == 0)


@pytest.mark.slow
async def test_a_question_outlives_its_client_by_the_timeout_at_most(tmp_path: Path) -> None:
    async with hooked(tmp_path, timeout=0.5) as here:
        async with live(here.address, "u1") as client:
            await client.send(type="subscribe", channel="orders:hang")
            await until(lambda: len(here.backend.received) == 1)
        await until(lambda: here.server.core.hooks["backend"].pending == 0)
        async with live(here.address, "u1") as client:
            assert (await client.ask(type="subscribe", channel="orders:1"))["type"] == "subscribed"


async def test_more_questions_than_may_wait_are_refused_at_once(tmp_path: Path) -> None:
    """Two are asked, one waits, the next one is told that the backend is busy; then the three get their answers."""
    release = trio.Event()

    async def answer(request: Received) -> Reply:
        await release.wait()
        return result({"result": {}})

    async with hooked(tmp_path, answer, timeout=10.0, max_in_flight=2, max_waiting=1) as here:
        hook = here.server.core.hooks["backend"]
        async with trio.open_nursery() as nursery:

            async def wait(user: str) -> None:
                async with live(here.address, user) as client:
                    assert (await client.ask(type="subscribe", channel="orders:1"))["type"] == "subscribed"

            for number in range(3):
                nursery.start_soon(wait, f"u{number}")
            await until(lambda: hook.pending == 3 and len(here.backend.received) == 2)
            async with live(here.address, "late") as client:
                refused = await refusal(client, type="subscribe", channel="orders:1")
                assert (refused["code"], refused["reason"]) == ("internal_error", "backend_busy")
                assert 5.0 <= refused["retryAfter"] <= 10.0
            release.set()
        assert here.outcomes() == {("subscribe", "busy"): 1, ("subscribe", "allowed"): 3}
        assert here.backend.connections == 2


async def test_the_timeout_includes_the_wait_for_a_connection(autojump_clock: trio.testing.MockClock) -> None:
    """In virtual time, with a name that is never resolved: the question that waits is answered when its own time is up."""

    async def resolve(_: str) -> Sequence[Address]:
        await trio.sleep_forever()
        raise AssertionError

    url = "http://backend.example/"
    config = HookConfig(url=url, secret=SECRET, timeout=3.0, max_in_flight=1)
    with Target(url, max_connections=1, resolve=resolve) as target:
        hook = BackendHook("backend", config, Clock(), target=target)
        ends = []

        async def ask(delay: float) -> None:
            await trio.sleep(delay)
            with pytest.raises(RequestError) as caught:
                await hook.ask(Question(QuestionKind.SUBSCRIBE, user="u"), lambda _: None, connected=True)
            assert caught.value.reason is RefusalReason.BACKEND_UNREACHABLE
            ends.append(trio.current_time() - begun)

        begun = trio.current_time()
        async with trio.open_nursery() as nursery:
            for delay in (0.0, 1.0, 2.0):
                nursery.start_soon(ask, delay)
        assert ends == pytest.approx([3.0, 4.0, 5.0])


async def test_the_log_names_a_backend_that_keeps_failing_once_a_minute(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    hook = BackendHook("backend", HookConfig(url="http://x/", secret=SECRET), Clock(), target=Failing())
    with caplog.at_level(logging.INFO, "relay.hooks"):
        for _ in range(130):
            with pytest.raises(RequestError):
                await hook.ask(Question(QuestionKind.SUBSCRIBE, user="u"), lambda _: None, connected=True)
            await trio.sleep(1.0)
    assert [record.getMessage() for record in caplog.records] == ["backend hook gives no answer"] * 3


async def test_answers_that_are_kept_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CACHED", 3)
    hook = BackendHook("backend", HookConfig(url="http://x/", secret=SECRET), Clock(), target=Keeping())

    async def ask(user: str) -> None:
        await hook.ask(Question(QuestionKind.SUBSCRIBE, user=user), lambda _: None, connected=True)

    for number in range(10):
        await ask(f"u{number}")
    assert hook.cached_count == 3
    await ask("u9")
    await ask("u0")
    assert hook.outcomes == {(QuestionKind.SUBSCRIBE, "allowed"): 11, (QuestionKind.SUBSCRIBE, "cached"): 1}


@pytest.mark.parametrize(("lasts", "asked"), [(30.0, 2), (1.0, 4), (600.0, 1)])
async def test_an_answer_is_not_kept_past_the_end_of_the_right(
    autojump_clock: trio.testing.MockClock, lasts: float, asked: int
) -> None:
    """A client that subscribes again after the end gets a new right, although the answer may be kept for longer."""
    clock = VirtualClock()
    target = Keeping(lambda: clock.now().timestamp() + lasts)
    hook = BackendHook("backend", HookConfig(url="http://x/", secret=SECRET), clock, target=target)
    for _ in range(4):
        question = Question(QuestionKind.SUBSCRIBE, user="u", channel="orders:1")
        right = await hook.ask(question, read_subscription("orders:1", "u"), connected=True)
        assert right.expires_at is not None
        assert right.expires_at > clock.now()
        await trio.sleep(20.0)
    assert hook.outcomes[QuestionKind.SUBSCRIBE, "allowed"] == asked


async def test_other_hooks_are_taken_up_while_questions_are_under_way(tmp_path: Path) -> None:
    """A hook that did not change keeps its connections; the old one answers what it was asked, and keeps nothing open."""
    async with hooked(tmp_path) as here, live(here.address, "u1") as client:
        await client.ask(type="subscribe", channel="orders:1")
        hooks = here.server.core.hooks
        before, config = hooks["backend"], hooks["backend"].config
        hooks.take_up({"backend": attrs.evolve(config)})
        assert hooks["backend"] is before
        release = trio.Event()

        async def answer(request: Received) -> Reply:
            await release.wait()
            return result({"result": {}})

        here.backend.answer = answer
        await client.send(type="subscribe", channel="orders:2")
        await until(lambda: len(here.backend.received) == 2)
        hooks.take_up({"backend": attrs.evolve(config, timeout=2.0), "other": config})
        assert hooks["backend"] is not before
        release.set()
        assert (await client.receive())["type"] == "subscribed"
        await until(lambda: here.backend.open == 0)
        assert (await client.ask(type="subscribe", channel="orders:3"))["type"] == "subscribed"
        assert here.backend.connections == 2


class Failing:
    """A target that cannot be reached."""

    async def post(self, body: bytes, **_: Any) -> Response:
        """Fail."""
        await trio.lowlevel.checkpoint()
        raise EgressError(Failure.CONNECT, "it is down")

    def close(self) -> None:
        """Do nothing."""


class Keeping(Failing):
    """A target whose answers may be kept."""

    def __init__(self, expire_at: Callable[[], float] | None = None) -> None:
        self._expire_at = expire_at

    async def post(self, body: bytes, **_: Any) -> Response:
        """Say yes."""
        await trio.lowlevel.checkpoint()
        yes = {"cache": 60} if self._expire_at is None else {"cache": 3600, "expire_at": self._expire_at()}
        return Response(200, {}, json.dumps({"result": yes}).encode())


# -- operators ---------------------------------------------------------------------------------------------------------


async def test_metrics(tmp_path: Path) -> None:
    async with hooked(tmp_path) as here, live(here.address, "u1") as client:
        for word in ("1", "no", "500"):
            await client.ask(type="subscribe", channel=f"orders:{word}")
        await client.ask(type="publish", channel="notes:1", data=1)
        from tests.http_client import http_connection

        async with http_connection(here.address, bearer("root", admin=True)) as http:
            _, body = await http.request_bytes("GET", "/metrics")
        lines = body.decode().splitlines()
        for kind, outcome in (
            ("subscribe", "allowed"),
            ("subscribe", "refused"),
            ("subscribe", "unreachable"),
            ("publish", "allowed"),
        ):
            assert f'relay_hook_questions_total{{hook="backend",kind="{kind}",outcome="{outcome}"}} 1.0' in lines
        assert 'relay_hook_pending{hook="backend"} 0.0' in lines
        assert 'relay_hook_seconds_count{hook="backend"} 4.0' in lines
        assert 'relay_table_entries{table="hook_answers"} 0.0' in lines


@pytest.mark.parametrize(
    ("channel", "action", "allowed", "found", "change"),
    [
        ("orders:1", "subscribe", True, "the hook backend said yes", ""),
        ("orders:no", "subscribe", False, "refused with forbidden (backend_refused): Not yours.", "[hooks.backend]"),
        ("orders:500", "subscribe", False, "no answer: the response has the status 500", "mend your backend"),
        ("notes:1", "publish", True, "the hook backend said yes", ""),
        ("notes:no", "publish", False, "refused with forbidden (backend_refused): Not yours.", "[hooks.backend]"),
        ("notes:1", "subscribe", True, "the rule of the namespace", ""),
        ("notes:1", "publish", True, "clients that may publish: users that the hook backend allows", ""),
        ("orders:past", "subscribe", False, "(backend_expired)", "an expire_at in the future"),
    ],
)
async def test_why(tmp_path: Path, channel: str, action: str, allowed: bool, found: str, change: str) -> None:
    """An operator is told the backend's part, with the cause that clients are not told."""
    async with hooked(tmp_path) as here:
        from tests.http_client import http_connection

        async with http_connection(here.address, bearer("root", admin=True)) as http:
            status, body = await http.request(
                "POST", "/v1/admin/why", {"user": "u1", "channel": channel, "action": action}
            )
        assert status == 200
        answer = body["data"]
        assert answer["allowed"] is allowed
        assert any(found in step["found"] for step in answer["steps"]), answer
        assert not any("nobody" in step["found"] for step in answer["steps"]), "the hook of notes decides in its place"
        assert change in answer["change"]
        assert all(request.json["why"] for request in here.backend.received)


@pytest.mark.parametrize(("channel", "action"), [("orders:1", "subscribe"), ("notes:1", "publish")])
async def test_why_asks_no_backend_about_an_api_key(tmp_path: Path, channel: str, action: str) -> None:
    async with hooked(tmp_path) as here:
        from tests.http_client import http_connection

        key, _ = await create_key(tmp_path, "connect")
        async with http_connection(here.address, bearer("root", admin=True)) as http:
            asked = {"key": key.id, "channel": channel, "action": action}
            status, body = await http.request("POST", "/v1/admin/why", asked)
        assert (status, body["data"]["allowed"], here.backend.received) == (200, False, [])


async def test_without_hooks_no_task_and_no_header_is_kept(tmp_path: Path) -> None:
    async with hooked(tmp_path, decide) as here, live(here.address, "u1") as client:
        await client.ask(type="ping")
        [session] = here.server.session_server._sessions
        assert session.headers == {}
