"""The HTTP client: what is sent, which responses count, how connections are kept, and what a hostile server achieves."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from functools import partial
from ipaddress import ip_address
from pathlib import Path

import pytest
import trio
import trio.testing

from relay.hooks import egress
from relay.hooks.addresses import Address, networks
from relay.hooks.egress import IDLE_PERIOD, MAX_HEAD_BYTES, EgressError, Failure, Target
from tests.backend import Backend, Received, Reply, backend, result
from tests.certificates import write_certificate
from tests.waiting import until

LOOPBACK = networks(["127.0.0.0/8"])


async def fine(request: Received) -> Reply:
    """Answer every request."""
    return result({"number": request.connection})


def target_of(running: Backend, **options: object) -> Target:
    return Target(running.url("/hook?a=1"), **{"allowed": LOOPBACK, **options})  # type: ignore[arg-type]


async def failure_of(target: Target, *, timeout: float = 10.0) -> tuple[Failure, str]:
    with pytest.raises(EgressError) as caught:
        await target.post(b"{}", timeout=timeout)
    return caught.value.failure, str(caught.value)


# -- requests and responses --------------------------------------------------------------------------------------------


async def test_a_request_as_the_server_sees_it() -> None:
    async with backend(fine) as running:
        with target_of(running) as target:
            response = await target.post(b'{"x":1}', timeout=10.0, headers={"webhook-id": "evt_1"})
            assert (response.status, response.body) == (200, b'{"number": 1}')
            assert response.headers["content-type"] == "application/json"
            await target.get(timeout=10.0)
        [posted, got] = running.received
        assert (posted.method, posted.target, posted.body) == ("POST", "/hook?a=1", b'{"x":1}')
        assert posted.headers == {
            "host": f"127.0.0.1:{running.port}",
            "user-agent": "Relay",
            "accept": "application/json",
            "accept-encoding": "identity",
            "content-length": "7",
            "content-type": "application/json",
            "webhook-id": "evt_1",
        }
        assert (got.method, got.body) == ("GET", b"")


@pytest.mark.parametrize("status", [204, 301, 302, 307, 308, 410, 500])
async def test_every_status_is_a_response_and_no_redirect_is_followed(status: int) -> None:
    async def answer(_: Received) -> Reply:
        return Reply(status, headers={"Location": "http://169.254.169.254/latest/", "Retry-After": "7"})

    async with backend(answer) as running:
        with target_of(running) as target:
            response = await target.post(b"{}", timeout=10.0)
            assert (response.status, response.headers["retry-after"]) == (status, "7")
        assert len(running.received) == 1


@pytest.mark.parametrize("url", ["ftp://example.org/", "http:///x", "https://user:secret@example.org/", "example.org"])
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(ValueError, match="is not an http or https URL"):
        Target(url)


# -- hostile responses -------------------------------------------------------------------------------------------------

BROKEN: dict[str, tuple[bytes, Failure]] = {
    "nothing": (b"", Failure.PROTOCOL),
    "garbage": (b"nonsense\r\n\r\n", Failure.PROTOCOL),
    "a body that ends early": (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", Failure.PROTOCOL),
    "a head that ends early": (b"HTTP/1.1 200 OK\r\nContent-", Failure.PROTOCOL),
    "chunks that are none": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", Failure.PROTOCOL),
    "a huge head": (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 10 * MAX_HEAD_BYTES, Failure.PROTOCOL),
    "a switch of protocols": (b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", Failure.PROTOCOL),
    "a huge body without a length": (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1_000_000, Failure.TOO_LARGE),
    "a huge body with a length": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1_000_000,
        Failure.TOO_LARGE,
    ),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_responses_that_are_none(name: str) -> None:
    """Each is an error that repeats nothing of the response, and leaves no connection."""
    data, failure = BROKEN[name]

    async def answer(_: Received) -> bytes:
        return data

    async with backend(answer) as running:
        with target_of(running) as target:
            found, message = await failure_of(target)
            assert found is failure
            assert "nonsense" not in message
            assert target.idle_count == 0
        await until(lambda: running.open == 0)


async def test_the_deadline_is_one_for_everything() -> None:
    """A server that announces its response again and again gains no time by it."""

    async def drip(stream: trio.SocketStream) -> None:
        with pytest.raises(trio.BrokenResourceError):
            while True:
                await stream.send_all(b"HTTP/1.1 100 Continue\r\n\r\n")
                await trio.sleep(0.01)

    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(trio.serve_tcp, drip, 0, host="127.0.0.1"))
        url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}/"
        with Target(url, allowed=LOOPBACK) as target:
            assert await failure_of(target, timeout=0.1) == (Failure.TIMEOUT, "no complete response within 0.1 seconds")
        nursery.cancel_scope.cancel()


async def test_a_name_that_is_not_resolved_in_time(autojump_clock: trio.testing.MockClock) -> None:
    async def resolve(_: str) -> Sequence[Address]:
        await trio.sleep_forever()
        raise AssertionError

    with Target("http://example.org/", resolve=resolve) as target:
        begun = trio.current_time()
        assert (await failure_of(target, timeout=3.0))[0] is Failure.TIMEOUT
        assert trio.current_time() - begun == pytest.approx(3.0)


async def test_where_no_server_listens() -> None:
    with Target("http://127.0.0.1:1/", allowed=LOOPBACK) as target:
        failure, message = await failure_of(target)
        assert failure is Failure.CONNECT
        assert "refused" in message
    with Target("http://no-such-name.invalid/") as target:
        failure, message = await failure_of(target)
        assert (failure, message.startswith("no-such-name.invalid has no address")) == (Failure.CONNECT, True)


# -- addresses ---------------------------------------------------------------------------------------------------------


class Names:
    """A DNS that answers differently each time."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def resolve(self, host: str) -> Sequence[Address]:
        """Return the next answer."""
        await trio.lowlevel.checkpoint()
        self.asked.append(host)
        return [ip_address(text) for text in self.answers.pop(0)]


@pytest.mark.parametrize(
    "addresses", [["127.0.0.1"], ["1.1.1.1", "10.0.0.1"], ["169.254.169.254"], ["::ffff:127.0.0.1"]]
)
async def test_a_name_with_one_private_address_is_not_reached(addresses: list[str]) -> None:
    async with backend(fine) as running:
        names = Names(addresses)
        with target_of(running, allowed=(), resolve=names.resolve) as target:
            failure, message = await failure_of(target)
            assert (failure, "is not public and not allowed" in message) == (Failure.ADDRESS, True)
        assert running.connections == 0


async def test_the_connection_goes_to_the_address_that_was_checked() -> None:
    """A name whose next address is another one has one look-up for each connection, and no second one behind it."""
    async with backend(fine) as running:
        names = Names(["127.0.0.1"], ["169.254.169.254"])
        url = f"http://rebinding.example:{running.port}/"
        with Target(url, allowed=LOOPBACK, resolve=names.resolve) as target:
            for _ in range(3):
                assert (await target.post(b"{}", timeout=10.0)).status == 200
            assert names.asked == ["rebinding.example"]
        with Target(url, allowed=LOOPBACK, resolve=names.resolve) as target:
            assert (await failure_of(target))[0] is Failure.ADDRESS
        assert running.received[0].headers["host"] == f"rebinding.example:{running.port}"


async def test_the_next_address_is_tried() -> None:
    async with backend(fine) as running:
        names = Names(["127.0.0.2", "127.0.0.1"])
        with target_of(running, resolve=names.resolve) as target:
            assert (await target.post(b"{}", timeout=10.0)).status == 200


# -- connections -------------------------------------------------------------------------------------------------------


async def test_a_connection_is_kept_and_closed_at_the_end() -> None:
    async with backend(fine) as running:
        with target_of(running) as target:
            for _ in range(5):
                await target.post(b"{}", timeout=10.0)
            assert (running.connections, target.idle_count) == (1, 1)
        await until(lambda: running.open == 0)


async def test_requests_at_once_are_bounded_and_the_wait_counts() -> None:
    """With a bound of two, the third request waits, and its deadline passes."""
    release = trio.Event()

    async def answer(_: Received) -> Reply:
        await release.wait()
        return Reply()

    async def post(target: Target) -> None:
        assert (await target.post(b"{}", timeout=60.0)).status == 200

    async with backend(answer) as running:
        with target_of(running, max_connections=2) as target:
            async with trio.open_nursery() as nursery:
                for _ in range(2):
                    nursery.start_soon(post, target)
                await until(lambda: len(running.received) == 2)
                assert (await failure_of(target, timeout=0.05))[0] is Failure.TIMEOUT
                release.set()
            assert target.idle_count == 2
        assert (running.connections, len(running.received)) == (2, 2)


async def test_a_kept_connection_that_the_server_closes_is_replaced() -> None:
    async def once(request: Received) -> Reply | bytes:
        return b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"  # and then the end, which it does not announce

    async with backend(once) as running:
        with target_of(running) as target:
            for _ in range(3):
                assert (await target.post(b"{}", timeout=10.0)).body == b"{}"
        assert (running.connections, len(running.received)) == (3, 3)


async def test_a_request_on_a_kept_connection_is_sent_again_if_it_ended_without_a_byte() -> None:
    async def answer(request: Received) -> Reply | None:
        return None if len(running.received) == 2 else Reply()

    async with backend(answer) as running:
        with target_of(running) as target:
            for _ in range(2):
                assert (await target.post(b"{}", timeout=10.0)).status == 200
        assert [request.connection for request in running.received] == [1, 1, 2]


@pytest.mark.parametrize("more", [b"HTTP/1.1 200 OK\r\n\r\n", b"\r\n"])
async def test_a_connection_with_bytes_past_the_response_is_not_kept(more: bytes) -> None:
    """They would be taken for the response to the next request."""

    async def answer(_: Received) -> bytes:
        return b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}" + more

    async with backend(answer) as running:
        with target_of(running) as target:
            await target.post(b"{}", timeout=10.0)
            assert target.idle_count == 0


async def test_an_unused_connection_is_not_kept_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    assert IDLE_PERIOD < 60.0
    monkeypatch.setattr(egress, "IDLE_PERIOD", 0.0)
    async with backend(fine) as running:
        with target_of(running) as target:
            await target.post(b"{}", timeout=10.0)
            await target.post(b"{}", timeout=10.0)
        assert running.connections == 2


async def test_the_connections_of_a_burst_are_closed_while_one_is_in_use(mock_clock: trio.testing.MockClock) -> None:
    mock_clock.rate = 1.0

    async def answer(_: Received) -> Reply:
        await until(lambda: running.connections == 3)
        return Reply()

    async def post(target: Target) -> None:
        assert (await target.post(b"{}", timeout=10.0)).status == 200

    async with backend(answer) as running:
        with target_of(running, max_connections=3) as target:
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(post, target)
            assert target.idle_count == 3
            for _ in range(3):
                mock_clock.jump(IDLE_PERIOD / 2)
                await post(target)
            assert (running.connections, target.idle_count) == (3, 1)


async def test_a_cancelled_request_closes_its_connection() -> None:
    async def answer(_: Received) -> Reply:
        await trio.sleep_forever()
        raise AssertionError

    async with backend(answer) as running:
        with target_of(running) as target, trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(failure_of, target)
                await until(lambda: len(running.received) == 1)
                scope.cancel()
        assert target.idle_count == 0


# -- TLS ---------------------------------------------------------------------------------------------------------------


def contexts(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return the TLS of a server for localhost and 127.0.0.1, and one that trusts it."""
    write_certificate(folder)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(folder / "relay.crt", folder / "relay.key")
    return server, ssl.create_default_context(cafile=folder / "relay.crt")


async def test_tls_is_verified_by_the_name_of_the_url(tmp_path: Path) -> None:
    server, trusting = contexts(tmp_path)
    async with backend(fine, tls=server) as running:
        for host in ("127.0.0.1", "localhost"):
            names = Names(["127.0.0.1"])
            with Target(running.url(host=host), allowed=LOOPBACK, tls=trusting, resolve=names.resolve) as target:
                for _ in range(2):
                    assert (await target.post(b"{}", timeout=10.0)).status == 200
        assert running.connections == 2
        names = Names(["127.0.0.1"])
        with Target(running.url(host="other.example"), allowed=LOOPBACK, tls=trusting, resolve=names.resolve) as target:
            failure, message = await failure_of(target)
            assert (failure, "mismatch" in message) == (Failure.TLS, True)
        with target_of(running) as target:
            failure, message = await failure_of(target)
            assert (failure, "CERTIFICATE_VERIFY_FAILED" in message) == (Failure.TLS, True)


async def test_a_server_without_tls(tmp_path: Path) -> None:
    async with backend(fine) as running:
        url = running.url().replace("http:", "https:")
        with Target(url, allowed=LOOPBACK, tls=contexts(tmp_path)[1]) as target:
            assert (await failure_of(target))[0] is Failure.TLS
