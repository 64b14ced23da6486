"""`Backend`: publications that count once, whatever becomes of the connection or the server."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from relay.client.python import Backend, Client, Draft, Position, Receipt, RelayError
from tests.client.loops import backend, client, cutter, on_both, restart, run, until, unused_port
from tests.running import RelayProcess, token
from tests.waiting import TIMEOUT


async def kept(reader: Client, channel: str) -> list[object]:
    """Return the data of every publication of a channel, the oldest first."""
    history = await reader.history(channel, limit=1000)
    return [one.data for one in reversed(history.publications)]


@on_both
def test_one_publication(server: RelayProcess, loop: str) -> None:
    """Each field arrives, and each answer comes back."""
    channel = f"orders:one-{loop}"

    async def test() -> None:
        async with backend(server) as publisher, client(server) as reader:
            first = await publisher.publish(channel, {"a": "ü"}, type="order:paid", version=7)
            assert first.channel == channel
            assert first.position is not None
            assert first.position.offset == 1
            late = await publisher.publish(channel, {"a": 2}, version=6)
            assert (late.skipped, late.position) == (True, first.position)
            again = [await publisher.publish(channel, number, idempotency_key="k") for number in (3, 4)]
            assert again[0] == again[1] == Receipt(channel, Position(2, first.position.epoch))
            assert (await publisher.publish(f"cursors:{loop}", None)).position is None
            async with reader.subscribe(channel, last=5) as orders:
                got = [await anext(orders) for _ in range(2)]
                assert [(one.type, one.data) for one in got] == [("order:paid", {"a": "ü"}), ("orders:event", 3)]
                await publisher.publish(channel, "not to ada", exclude=reader.connection_id)
                await publisher.publish(channel, "to ada")
                assert (await anext(orders)).data == "to ada"
                last = await publisher.publish(channel, "not to ada", exclude=reader.connection_id)
                await until(lambda: orders.position == last.position)

    run(loop, test)


@on_both
def test_refusals(server: RelayProcess, loop: str) -> None:
    """An error has the server's code, reason and fields, and is not retried."""

    async def test() -> None:
        async with backend(server) as publisher:
            with pytest.raises(RelayError, match="unknown_namespace") as refusal:
                await publisher.publish("nope:1", {})
            assert (refusal.value.code, refusal.value.reason) == ("invalid_request", "unknown_namespace")
            with pytest.raises(RelayError) as refusal:
                await publisher.publish("market:BTC", {"price": "a lot"})
            assert [field["field"] for field in refusal.value.fields] == ["price"]
            assert not refusal.value.temporary
            with pytest.raises(ValueError, match="JSON"):
                await publisher.publish("orders:1", math.nan)
        async with backend(server, token=token("ada")) as publisher:
            with pytest.raises(RelayError) as refusal:
                await publisher.publish("orders:1", {})
            assert refusal.value.code == "forbidden"
        async with Backend(f"http://{server.address}", api_key="rk_live_wrong") as publisher:
            with pytest.raises(RelayError) as refusal:
                await publisher.publish("orders:1", {})
            assert refusal.value.code == "unauthorized"

    run(loop, test)


@on_both
def test_an_array(server: RelayProcess, loop: str) -> None:
    """More items than a request may have, in order; a refused one stops no other."""
    channel = f"orders:array-{loop}"

    async def test() -> None:
        drafts = [Draft(channel, number) for number in range(1500)]
        drafts[700] = Draft("nope:1", {})
        async with backend(server) as publisher, client(server) as reader:
            results = await publisher.publish_many(drafts)
            assert len(results) == 1500
            refused = results.pop(700)
            assert isinstance(refused, RelayError)
            assert refused.reason == "unknown_namespace"
            offsets = [one.position.offset for one in results if isinstance(one, Receipt) and one.position]
            assert offsets == list(range(1, 1500))
            assert await kept(reader, channel) == [number for number in range(499, 1500) if number != 700]
            assert await publisher.publish_many([]) == []

    run(loop, test)


@pytest.mark.slow
@on_both
def test_a_lost_answer_counts_once(server: RelayProcess, loop: str) -> None:
    """The publication is committed, its answer is lost with the connection, and the repetition is not published."""
    channel = f"orders:lost-{loop}"

    async def test() -> None:
        async with cutter(server.port) as proxy, backend(proxy) as publisher, client(server) as reader:
            proxy.lose_answers = 3
            assert (await publisher.publish(channel, "once")).position is not None
            assert proxy.lose_answers == 0
            proxy.lose_answers = 1
            results = await publisher.publish_many([Draft(channel, "first"), Draft(channel, "second")])
            assert all(isinstance(one, Receipt) for one in results)
            assert await kept(reader, channel) == ["once", "first", "second"]

    run(loop, test)


@pytest.mark.slow
@on_both
def test_kept_connections(server: RelayProcess, loop: str) -> None:
    """Requests share connections. One that the server closed meanwhile is not used."""
    channel = f"orders:kept-{loop}"

    async def test() -> None:
        async with cutter(server.port) as proxy, backend(proxy) as publisher:
            for number in range(5):
                await publisher.publish(channel, number)
            assert proxy.count == 1
            proxy.cut()
            await publisher.publish(channel, 5)
            assert (await publisher.rest("GET", "/v1/admin/limits"))["limits"]
            assert proxy.count == 2
            async with anyio.create_task_group() as tasks:
                for number in range(40):
                    tasks.start_soon(publisher.publish, channel, number)
            assert proxy.count <= 9

    run(loop, test)


@pytest.mark.slow
@on_both
def test_each_counts_once_while_the_server_is_killed(server: RelayProcess, loop: str) -> None:
    """Publications go on over two kills; every one is there, exactly once, in order."""
    channel = f"orders:killed-{loop}"

    async def test() -> None:
        published: list[int] = []

        async def publish(publisher: Backend) -> None:
            for number in range(300):
                await publisher.publish(channel, number)
                published.append(number)
                await anyio.sleep(0.005)

        async with backend(server) as publisher, client(server) as reader, anyio.create_task_group() as tasks:
            tasks.start_soon(publish, publisher)
            for _ in range(2):
                await anyio.sleep(0.4)
                await restart(server)
            with anyio.fail_after(30):
                while len(published) < 300:
                    await anyio.sleep(0.01)
            assert await kept(reader, channel) == list(range(300))

    run(loop, test)


@pytest.mark.slow
@on_both
def test_no_server(loop: str) -> None:
    """The last error is raised when the time is up."""

    async def test() -> None:
        async with Backend(f"http://127.0.0.1:{unused_port()}", api_key="k", timeout=0.5) as publisher:
            with pytest.raises(RelayError) as error, anyio.fail_after(TIMEOUT):
                await publisher.publish("orders:1", {})
            assert (error.value.code, error.value.temporary) == ("disconnected", True)
            assert "refused" in str(error.value)

    run(loop, test)


@pytest.mark.slow
@on_both
def test_the_end_of_the_time_hides_no_error(loop: str) -> None:
    """The server answers 503, and the second attempt is cut short: that one does not say what is wrong."""
    answers = Answers(("503 Service Unavailable", UNAVAILABLE))

    async def test() -> None:
        async with answering(answers) as port, Backend(f"http://127.0.0.1:{port}", api_key="k", timeout=1) as publisher:
            with pytest.raises(RelayError) as error, anyio.fail_after(TIMEOUT):
                await publisher.publish("orders:1", {})
            assert len(answers.bodies) == 2
            assert (error.value.code, error.value.message) == ("unavailable", "The database cannot be written.")

    run(loop, test)


@pytest.mark.slow
@on_both
def test_a_server_that_does_not_answer(server: RelayProcess, loop: str) -> None:
    """An attempt has an end, and so has the publication. Cancelled, nothing stays open."""

    async def test() -> None:
        async with cutter(server.port) as proxy, backend(proxy, timeout=0.6, attempt_timeout=0.2) as publisher:
            proxy.is_silent = True
            with pytest.raises(RelayError) as error:
                await publisher.publish("orders:1", {})
            assert (error.value.code, error.value.temporary) == ("timeout", True)
            assert proxy.count >= 2
            with anyio.move_on_after(0.05) as scope:
                await publisher.publish("orders:1", {})
            assert scope.cancelled_caught
            proxy.is_silent = False
            assert (await publisher.publish("orders:1", {})).position is not None

    run(loop, test)


class Answers:
    """A server that answers requests as it is told, and keeps their bodies. Then it is silent."""

    def __init__(self, *answers: tuple[str, str]) -> None:
        self._answers = list(answers)
        self.bodies: list[bytes] = []

    async def serve(self, stream: anyio.abc.ByteStream) -> None:
        """Answer one request, and close."""
        async with stream:
            data = b""
            while b"\r\n\r\n" not in data:
                data += await stream.receive()
            head, _, body = data.partition(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            while len(body) < length:
                body += await stream.receive()
            self.bodies.append(body)
            if not self._answers:
                await anyio.sleep_forever()
            status, text = self._answers.pop(0)
            await stream.send(
                f"HTTP/1.1 {status}\r\nContent-Length: {len(text)}\r\nConnection: close\r\n\r\n{text}".encode()
            )


@asynccontextmanager
async def answering(answers: Answers) -> AsyncIterator[int]:
    """Run such a server, and return its port."""
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, answers.serve)
        yield listener.extra(anyio.abc.SocketAttribute.local_port)
        tasks.cancel_scope.cancel()


UNAVAILABLE = '{"success":false,"status":503,"message":"The database cannot be written."}'
REFUSED = {"error": {"code": "unavailable", "message": "The database cannot be written."}}


def item(offset: int) -> dict[str, object]:
    """Return what became of an item that was published."""
    return {"channel": "orders:1", "offset": offset, "epoch": "e"}


def success(*data: object) -> tuple[str, str]:
    """Return an answer to a request."""
    return "200 OK", json.dumps({"success": True, "status": 200, "data": data})


@pytest.mark.slow
@on_both
def test_what_the_server_cannot_take_is_sent_again(loop: str) -> None:
    """With the same keys: a whole request after 503, a proxy's 502 or 429, and single items of an array."""
    answers = Answers(
        ("503 Service Unavailable\r\nRetry-After: 0", UNAVAILABLE),
        ("502 Bad Gateway", "<html>"),
        ("429 Too Many Requests", "{}"),
        success(item(1)),
        success(item(2), REFUSED, item(3)),
        success(item(4)),
    )

    async def test() -> None:
        async with answering(answers) as port, Backend(f"http://127.0.0.1:{port}", api_key="k") as publisher:
            assert await publisher.publish("orders:1", 1) == Receipt("orders:1", Position(1, "e"))
            assert Counter(answers.bodies).most_common() == [(answers.bodies[0], 4)]
            results = await publisher.publish_many([Draft("orders:1", number) for number in range(3)])
            offsets = [one.position.offset for one in results if isinstance(one, Receipt) and one.position]
            assert offsets == [2, 4, 3]
            *_, array, item = answers.bodies
            assert item[1:-1] in array

    run(loop, test)


@pytest.mark.parametrize("options", [{}, {"api_key": "k", "token": "t"}, {"api_key": "k", "timeout": 0}])
def test_options_that_are_wrong(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"API key|timeout"):
        Backend("http://127.0.0.1", **options)  # type: ignore[arg-type]
