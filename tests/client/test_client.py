"""`Client`: the connection, its token, requests and rooms, against a real server."""

from __future__ import annotations

import math
from contextlib import suppress
from itertools import chain, repeat
from pathlib import Path

import anyio
import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, Request

from relay.client.python import Client, Position, RelayError, Signal, StateChange, Unauthorized
from tests.certificates import trusting, write_certificate
from tests.client.loops import (
    backend,
    client,
    cutter,
    on_both,
    restart,
    run,
    until,
    unused_port,
)
from tests.running import RelayProcess, token

# -- the block and its states ------------------------------------------------------------------------------------------


@on_both
def test_states(server: RelayProcess, loop: str) -> None:
    """From the beginning of the block to its end, and what is known of the connection."""

    async def test() -> None:
        states: list[StateChange] = []
        ada = client(server, on_state=states.append)
        assert ada.state == "disconnected"
        with pytest.raises(RelayError, match="not entered"):
            await ada.ready()
        async with ada:
            assert (ada.state, ada.user_id, ada.connection_id) == ("connecting", None, None)
            await ada.ready()
            assert (ada.state, ada.user_id) == ("connected", "ada")
            assert ada.connection_id
            with pytest.raises(RuntimeError, match="once"):
                await ada.__aenter__()
        assert [one.state for one in states] == ["connecting", "connected", "disconnected"]
        with pytest.raises(RelayError) as error:
            await ada.publish("orders:1", 1)
        assert error.value.code == "disconnected"

    run(loop, test)


@pytest.mark.slow
@on_both
def test_an_exception_of_the_block_is_in_no_group(server: RelayProcess, loop: str) -> None:
    """It leaves the block as it was raised; so does a cancellation."""

    async def test() -> None:
        with pytest.raises(KeyError, match="mine"):
            async with client(server) as ada, ada.subscribe("orders:1"):
                raise KeyError("mine")
        with anyio.move_on_after(0.2) as scope:
            async with client(server) as ada, ada.subscribe("orders:1") as orders:
                await anext(orders)
        assert scope.cancelled_caught
        with pytest.raises(ZeroDivisionError):
            async with client(server, on_state=lambda change: 1 / 0):
                await anyio.sleep(10)

    run(loop, test)


@pytest.mark.slow
@on_both
def test_with_tls(tmp_path: Path, loop: str) -> None:
    """WebSocket and HTTP, by the certificate that the context trusts and no other."""
    write_certificate(tmp_path)
    settings = f'[server]\ntls_cert = "{tmp_path}/relay.crt"\ntls_key = "{tmp_path}/relay.key"\n'
    process = RelayProcess(tmp_path, settings)
    process.start()

    async def test() -> None:
        url = f"https://localhost:{process.port}"
        async with Client(url, token=token("ada"), tls=trusting(tmp_path)) as ada:
            await ada.ready()
            assert await ada.rooms() == []
            assert await ada.rooms() == []
        states: list[StateChange] = []
        async with Client(url, token=token("ada"), on_state=states.append) as ada:
            with pytest.raises(RelayError, match=r"(?i)certificate"):
                await ada.rooms()
            await until(lambda: any("ertificate" in (one.reason or "") for one in states))

    try:
        run(loop, test)
    finally:
        process.stop()


@pytest.mark.parametrize(
    "url", ["relay.example.org", "ftp://a", "http://", "http://a?b=c", "http://u:p@a", "http://a:b"]
)
def test_urls_that_are_wrong(url: str) -> None:
    with pytest.raises(ValueError, match="is not the URL of a server"):
        Client(url)


def test_options_that_are_wrong() -> None:
    with pytest.raises(ValueError, match="timeout must be positive"):
        Client("http://a", timeout=0)
    with pytest.raises(ValueError, match="max_pending must be at least 10"):
        Client("http://a").subscribe("x", max_pending=9)


# -- reconnecting ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@on_both
def test_requests_wait_for_a_connection(server: RelayProcess, loop: str) -> None:
    """A cut connection, a lost answer and a killed server: each publication counts once, in order."""
    channel = f"orders:requests-{loop}"

    async def test() -> None:
        async with cutter(server.port) as proxy, client(proxy) as ada:
            first = await ada.publish(channel, 1)
            proxy.cut()
            assert await ada.publish(channel, 2) == Position(2, first.epoch if first else "")
            proxy.lose_answers = 1
            assert await ada.publish(channel, 3) == Position(3, first.epoch if first else "")
            again = [await ada.publish(channel, "4", id="four") for _ in range(2)]
            assert again[0] == again[1]
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(restart, server)
                for number in (5, 6):
                    await ada.publish(channel, number)
            newest = await ada.history(channel, limit=3)
            assert [one.data for one in newest.publications] == [6, 5, "4"]
            since = await ada.history(channel, since=Position(2, newest.publications[0].position.epoch))  # type: ignore[union-attr]
            assert [one.data for one in since.publications] == [3, "4", 5, 6]
            assert since.recovered

    run(loop, test)


@pytest.mark.slow
@on_both
def test_a_silent_server_is_given_up(server: RelayProcess, loop: str) -> None:
    """The client asks whether it is there, and comes back by another connection."""

    async def test() -> None:
        states: list[StateChange] = []
        async with (
            cutter(server.port) as proxy,
            client(proxy, ping_interval=0.1, timeout=0.4, on_state=states.append) as ada,
        ):
            await ada.ready()
            await anyio.sleep(1)
            assert [one.state for one in states] == ["connecting", "connected"], "pings were answered"
            proxy.is_silent = True
            await until(lambda: len(states) > 2)
            assert (states[2].code, states[2].reason) == (1006, "the server does not answer")
            proxy.is_silent = False
            proxy.cut()
            await until(lambda: ada.state == "connected")

    run(loop, test)


@pytest.mark.slow
@on_both
def test_a_server_that_starts_later(server: RelayProcess, loop: str) -> None:
    """A subscription and a request wait for it, and no longer than `timeout`."""

    async def test() -> None:
        port = unused_port()
        got: list[object] = []

        async def read(ada: Client) -> None:
            async with ada.subscribe(f"orders:later-{loop}") as orders:
                await ada.publish(orders.channel, "hello")
                got.append((await anext(orders)).data)

        states: list[StateChange] = []
        ada = Client(f"http://127.0.0.1:{port}", token=token("ada"), min_delay=0.02, on_state=states.append)
        async with ada, anyio.create_task_group() as tasks:
            tasks.start_soon(read, ada)
            await until(lambda: len(states) > 2)
            async with cutter(server.port, port):
                await until(lambda: got == ["hello"])
        states.clear()
        async with Client(f"http://127.0.0.1:{port}", timeout=0.2, on_state=states.append) as nobody:
            await until(lambda: any(one.reason for one in states))
            for attempt in (nobody.ready, lambda: nobody.publish("x", 1), nobody.subscribe("x").__aenter__):
                with pytest.raises(RelayError) as error:
                    await attempt()
                assert error.value.code == "timeout"
                assert "in time. No connection: the server cannot be reached: Connection refused." in str(error.value)
        async with Client(f"http://127.0.0.1:{port}") as nobody:
            with pytest.raises(RelayError) as error:
                await nobody.rooms()
            assert error.value.code == "disconnected"

    run(loop, test)


@on_both
def test_a_connection_that_ends_before_tls(loop: str) -> None:
    """As while a proxy restarts. The client says so, and goes on."""

    async def hang_up(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive(100)

    async def test() -> None:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, hang_up)
            states: list[StateChange] = []
            async with Client(f"https://127.0.0.1:{port}", min_delay=0.02, on_state=states.append) as ada:
                await until(lambda: len(states) > 2)
                assert (
                    states[-1].reason == "the server cannot be reached: the connection ended before TLS was established"
                )
                with pytest.raises(RelayError) as error:
                    await ada.rest("GET", "/v1/chatrooms")
                assert error.value.code == "disconnected"
            tasks.cancel_scope.cancel()

    run(loop, test)


REFUSALS = {
    "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 3\r\nContent-Length: 2\r\n\r\n{}": (
        "the server answered 503",
        3.0,
    ),
    "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n": ("the server answered 404", 0.0),
    "SSH-2.0-OpenSSH\r\n\r\n": ("the server does not speak WebSocket", 0.0),
    "": ("the server ended the connection", 0.0),
}


@on_both
@pytest.mark.parametrize("answer", REFUSALS, ids=[reason for reason, _ in REFUSALS.values()])
def test_refused_connections(loop: str, answer: str) -> None:
    """The reason is told, and the time that the server asks for is kept."""

    async def refuse(stream: anyio.abc.ByteStream) -> None:
        async with stream:
            await stream.receive()
            if answer:
                await stream.send(answer.encode())

    async def test() -> None:
        states: list[StateChange] = []
        async with (
            await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(listener.serve, refuse)
            port = listener.extra(anyio.abc.SocketAttribute.local_port)
            async with Client(f"ws://127.0.0.1:{port}/v1/live", on_state=states.append):
                await until(lambda: len(states) > 1)
            tasks.cancel_scope.cancel()
        reason, wait = REFUSALS[answer]
        assert (states[1].state, states[1].code) == ("connecting", 1006)
        assert (states[1].reason or "").startswith(reason)
        assert states[1].retry_in is not None
        assert states[1].retry_in >= wait

    run(loop, test)


@on_both
@pytest.mark.parametrize("garbage", [b"\xff" * 20, b"\x81\x02\xc3\x28"], ids=["frame", "text"])
def test_bytes_that_are_not_frames(loop: str, garbage: bytes) -> None:
    """As from a broken proxy. The server has not closed, so the client comes back."""

    async def break_off(stream: anyio.abc.ByteStream) -> None:
        async with stream:
            state = WSConnection(ConnectionType.SERVER)
            state.receive_data(await stream.receive())
            assert isinstance(next(state.events()), Request)
            await stream.send(state.send(AcceptConnection()) + garbage)
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                while True:
                    await stream.receive()

    async def test() -> None:
        states: list[StateChange] = []
        async with (
            await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(listener.serve, break_off)
            port = listener.extra(anyio.abc.SocketAttribute.local_port)
            async with Client(f"ws://127.0.0.1:{port}", on_state=states.append):
                await until(lambda: len(states) > 1)
            tasks.cancel_scope.cancel()
        assert (states[1].state, states[1].code) == ("connecting", 1006)
        assert states[1].reason == "the server does not speak WebSocket"

    run(loop, test)


# -- the token ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@on_both
def test_the_token_is_refreshed_before_it_expires(server: RelayProcess, loop: str) -> None:
    """One connection lives through several tokens, and a subscription with it."""

    async def test() -> None:
        reasons: list[str] = []
        states: list[StateChange] = []

        async def get_token(reason: str) -> str:
            reasons.append(reason)
            return token("ada", expires_in=3)

        async with client(server, token=get_token, on_state=states.append) as ada:
            async with ada.subscribe(f"orders:refresh-{loop}") as orders:
                begun = anyio.current_time()
                while anyio.current_time() < begun + 4:
                    await ada.publish(orders.channel, 1)
                    assert (await anext(orders)).data == 1
                    await anyio.sleep(0.2)
                assert await ada.rooms() is not None
            assert reasons[0] == "connect"
            assert len(reasons) >= 3
            assert set(reasons[1:]) == {"refresh"}
            assert [one.state for one in states] == ["connecting", "connected"]

    run(loop, test)


@pytest.mark.slow
@on_both
def test_a_token_that_expires(server: RelayProcess, loop: str) -> None:
    """A function is asked for another one, and the connection comes back. A text cannot be, and the client stops."""

    async def test() -> None:
        reasons: list[str] = []

        async def get_token(reason: str) -> str:
            reasons.append(reason)
            if reason == "refresh":
                raise OSError("the issuer is away")
            return token("ada", expires_in=2)

        errors: list[Exception] = []
        states: list[StateChange] = []
        async with (
            client(server, token=get_token, on_error=errors.append, on_state=states.append) as ada,
            client(server, token=token("bob", expires_in=2), on_error=errors.append) as bob,
            ada.subscribe(f"orders:expires-{loop}") as orders,
        ):
            await until(lambda: [one.state for one in states].count("connected") == 2)
            assert reasons[0] == "connect"
            assert reasons[-1] == "refused"
            await ada.publish(orders.channel, "still here")
            assert (await anext(orders)).data == "still here"
            await until(lambda: bob.state == "disconnected")
            with pytest.raises(RelayError) as error:
                await bob.ready()
            assert error.value.code == "disconnected"
            assert "The token has expired." in str(error.value)
        assert any("the issuer is away" in str(one) for one in errors)

    run(loop, test)


@pytest.mark.slow
@on_both
def test_the_end_of_a_client(server: RelayProcess, loop: str) -> None:
    """A refused token, Unauthorized, another user and an operator stop it: every loop and request ends with the reason."""

    async def unauthorized(reason: str) -> str:
        raise Unauthorized("logged out")

    users = chain(["eve"], repeat("mallory"))

    async def two_users(reason: str) -> str:
        return token(next(users), expires_in=4)

    async def stopped(ada: Client, because: str) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_raises, lambda: ada.ready(60), because)
            await until(lambda: ada.state == "disconnected")
        await _raises(lambda: ada.publish("orders:1", 1), because)
        await _raises(ada.subscribe("orders:1").__aenter__, because)

    async def test() -> None:
        errors: list[Exception] = []
        async with client(server, token="not a token", on_error=errors.append) as ada:
            await stopped(ada, "token")
        async with client(server, token=unauthorized, on_error=errors.append) as ada:
            await stopped(ada, "logged out")
            with pytest.raises(Unauthorized):
                await ada.rooms()
        async with client(server, token=two_users, on_error=errors.append) as ada, ada.subscribe("orders:1") as orders:
            await _raises(lambda: anext(orders), "another user")
        assert {type(one) for one in errors} == {RelayError}

    run(loop, test)


async def _raises(call: object, because: str) -> None:
    with pytest.raises(RelayError) as error:
        await call()  # type: ignore[operator]
    assert error.value.code == "disconnected"
    assert because in str(error.value)


@on_both
def test_an_operator_ends_the_connection(server: RelayProcess, loop: str) -> None:
    """For good, or to come back."""

    async def test() -> None:
        states: list[StateChange] = []
        user = f"sent-away-{loop}"
        async with backend(server) as operator, client(server, user, on_state=states.append) as ada:
            await ada.ready()
            body = {"user": user, "reconnect": True}
            assert (await operator.rest("POST", "/v1/admin/disconnect", body))["disconnected"] == 1
            await until(lambda: [one.state for one in states].count("connected") == 2)
            assert states[2].code == 1012
            await operator.rest("POST", "/v1/admin/disconnect", {"user": user})
            await until(lambda: ada.state == "disconnected")
            assert (states[-1].code, states[-1].reason) == (1008, "disconnected")

    run(loop, test)


@on_both
def test_a_token_function_that_fails(server: RelayProcess, loop: str) -> None:
    """The error is told, and the client tries again later."""

    async def test() -> None:
        errors: list[Exception] = []
        calls = 0

        async def get_token(reason: str) -> str:
            nonlocal calls
            calls += 1
            if calls < 3:
                raise ValueError("no token today")
            return token("ada")

        async with client(server, token=get_token, on_error=errors.append) as ada:
            await ada.ready()
        assert [str(one) for one in errors] == [
            "unavailable: The token function failed: ValueError('no token today')"
        ] * 2
        assert isinstance(errors[0].__cause__, ValueError)

    run(loop, test)


@on_both
def test_a_refused_channel_of_the_token_ends_nothing(server: RelayProcess, loop: str) -> None:
    """The server subscribes to the channels that the token names, and tells of one that is closed."""

    async def test() -> None:
        errors: list[Exception] = []
        states: list[StateChange] = []
        granted = token("ada", more={"channels": ["closed:1", f"private:{loop}"]})
        ada = client(server, token=granted, on_error=errors.append, on_state=states.append)
        async with ada, ada.subscribe(f"private:{loop}") as private, backend(server) as publisher:
            await publisher.publish(private.channel, 1)
            assert (await anext(private)).data == 1
        assert [one.state for one in states] == ["connecting", "connected", "disconnected"]
        assert [getattr(one, "reason", None) for one in errors] == ["closed"]

    run(loop, test)


@pytest.mark.slow
@on_both
def test_an_anonymous_client(server: RelayProcess, loop: str) -> None:
    """It reads what anyone may read, and nothing else; a refusal ends nothing."""

    async def test() -> None:
        states: list[StateChange] = []
        async with client(server, token=None, on_state=states.append) as anyone, backend(server) as publisher:
            await anyone.ready()
            assert anyone.user_id is None
            async with anyone.subscribe(f"open:{loop}") as news:
                await publisher.publish(news.channel, "for all")
                assert (await anext(news)).data == "for all"
                with pytest.raises(RelayError) as refusal:
                    await anyone.subscribe("orders:1").__aenter__()
                assert (refusal.value.code, refusal.value.reason) == ("unauthorized", "not_authenticated")
                with pytest.raises(RelayError):
                    await anyone.publish(news.channel, "x")
                await anyio.sleep(3)  # longer than an anonymous client may stay without asking again
                await publisher.publish(news.channel, "still")
                assert (await anext(news)).data == "still"
        assert [one.state for one in states] == ["connecting", "connected", "disconnected"]

    run(loop, test)


# -- requests and rooms ------------------------------------------------------------------------------------------------


@on_both
def test_refused_requests(server: RelayProcess, loop: str) -> None:
    """With the server's code and reason; a value that JSON cannot hold is refused here."""

    async def test() -> None:
        async with client(server) as ada:
            with pytest.raises(RelayError) as refusal:
                await ada.publish("private:1", {})
            assert (refusal.value.code, refusal.value.reason) == ("forbidden", "publish_not_allowed")
            with pytest.raises(RelayError) as refusal:
                await ada.presence("cursors:1")
            assert refusal.value.reason == "no_presence"
            with pytest.raises(ValueError, match="JSON"):
                await ada.publish("orders:1", math.inf)
            with pytest.raises(RelayError) as refusal:
                await ada.publish("orders:1", "x" * 100_000)
            assert refusal.value.code == "too_large"
            with pytest.raises(RelayError) as refusal:
                await ada.room("nowhere").info()
            assert (refusal.value.code, refusal.value.temporary) == ("not_found", False)
            assert await ada.publish("orders:1", "short", echo=False) is not None

    run(loop, test)


@on_both
def test_rooms_and_notifications(server: RelayProcess, loop: str) -> None:
    """Messages, typing, members, presence, and the end of a room."""

    async def test() -> None:
        signals: list[Signal] = []
        ada_name, bob_name = f"ada-{loop}", f"bob-{loop}"
        async with (
            client(server, ada_name, on_signal=signals.append) as ada,
            client(server, bob_name) as bob,
            backend(server) as publisher,
        ):
            id_ = (await ada.create_room("Gold", type="group"))["id"]
            room, same = ada.room(id_), bob.room(id_)
            await same.join()
            assert [one["userId"] for one in await room.members()] == [ada_name, bob_name]
            async with room.subscribe() as at_ada, same.subscribe() as at_bob:
                sent = await same.send("Hello", id="m1")
                assert (await same.send("Hello", id="m1"))["messageId"] == sent["messageId"]
                for one in (at_ada, at_bob):
                    got = await anext(one)
                    assert (got.type, got.data["message"], got.data["userId"]) == ("chat:message", "Hello", bob_name)
                await same.typing()
                await until(lambda: any(one.type == "chat:typing" for one in signals))
                assert [one["message"] for one in await room.messages()] == ["Hello"]
                assert (await ada.presence(room.channel)).count == 2
                assert (await room.update(name="Silver"))["name"] == "Silver"
                await room.remove_member(bob_name)
                with pytest.raises(RelayError) as end:
                    await anext(at_bob)
                assert (end.value.code, end.value.reason) == ("forbidden", "no longer a member")
                assert at_bob.state == "unsubscribed"
                await room.delete()
                with pytest.raises(RelayError, match="the room was deleted"):
                    await anext(at_ada)
                assert signals[-1].type == "chatroom:deleted"
            async with ada.notifications.subscribe() as notifications:
                await publisher.publish(f"user:{ada_name}", {"message": "Hi"})
                assert (await anext(notifications)).data["message"] == "Hi"
            [stored] = await ada.notifications.list()
            assert (await ada.notifications.read(stored["id"]))["read"] is True
            assert await ada.notifications.read_all() == 0
            assert id_ not in {one["id"] for one in await ada.rooms(limit=100)}

    run(loop, test)
