"""Accepting: a crowd is served in turn, and a listener that stops leaves who is not accepted to others."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

import pytest
import trio
import trio.testing

from relay.admission.rate_limits import ConnectionCounter
from relay.transports.http import HttpServer
from relay.transports.listener import ACCEPTS_PER_TURN, Listener
from relay.transports.request_head import RequestHead
from relay.transports.stream import ByteStream
from tests.activation import listening
from tests.transports.test_contracts import GET, UPGRADE, World, exchange, world
from tests.waiting import TIMEOUT, until

CROWD = 500
TURNS = 20
"""Turns of the loop that a handshake of these tests takes."""


class Handshakes:
    """Counts how many are under way at once."""

    def __init__(self) -> None:
        self.now = 0
        self.most = 0
        self.done = 0

    async def handle(self, head: RequestHead, stream: ByteStream) -> None:
        """Take several turns of the loop for one."""
        self.now += 1
        self.most = max(self.most, self.now)
        for _ in range(TURNS):
            await trio.lowlevel.checkpoint()
        self.now -= 1
        self.done += 1


@asynccontextmanager
async def accepting(sock: socket.socket, handshakes: Handshakes) -> AsyncIterator[Listener]:
    """Run a listener for upgrades alone."""
    http: HttpServer = object()  # type: ignore[assignment]  # nothing comes that it would be asked for
    async with trio.open_nursery() as handlers:
        listener = Listener([sock.dup()], handshakes.handle, http, handlers, ConnectionCounter(10_000))
        await handlers.start(listener.run)
        yield listener
        handlers.cancel_scope.cancel()


async def test_a_crowd_that_is_there_already_is_served_in_turn() -> None:
    """However many wait, no more are begun at once than are accepted in one go."""
    handshakes = Handshakes()
    with ExitStack() as stack:
        sock = stack.enter_context(listening())
        for _ in range(CROWD):
            client = stack.enter_context(socket.create_connection(sock.getsockname()))
            client.sendall(UPGRADE)
        async with accepting(sock, handshakes):
            await until(lambda: handshakes.done >= CROWD, 10)
    assert handshakes.most <= 2 * ACCEPTS_PER_TURN


@pytest.mark.slow
async def test_a_loop_that_is_never_idle_accepts_all_the_same() -> None:
    handshakes = Handshakes()

    async def spin() -> None:
        while True:
            await trio.lowlevel.checkpoint()

    with listening() as sock:
        async with accepting(sock, handshakes), trio.open_nursery() as nursery:
            nursery.start_soon(spin)
            with trio.fail_after(TIMEOUT):
                for number in range(1, 4):
                    async with await trio.open_tcp_stream(*sock.getsockname()) as stream:
                        await stream.send_all(UPGRADE)
                        while handshakes.done < number:
                            await trio.sleep(0)
            nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_who_comes_after_a_stop_is_the_next_listeners() -> None:
    handshakes = Handshakes()
    with listening() as sock:
        async with accepting(sock, handshakes) as listener, await trio.open_tcp_stream(*sock.getsockname()) as early:
            await trio.sleep(0.1)
            assert listener.arriving == 1
            with trio.move_on_after(0.05) as waiting:
                await listener.wait_arrived()
            assert waiting.cancelled_caught
            listener.stop()
            await trio.testing.wait_all_tasks_blocked()
            async with await trio.open_tcp_stream(*sock.getsockname()) as late:
                await late.send_all(UPGRADE)
                await early.send_all(UPGRADE)
                await listener.wait_arrived()
                assert await early.receive_some() == b""
                assert (listener.arriving, handshakes.done) == (0, 1)
                async with accepting(sock, handshakes):
                    assert await late.receive_some() == b""
                assert handshakes.done == 2


async def test_a_shutdown_takes_no_connection_with_a_request_for_an_idle_one() -> None:
    """Whatever the moment in which it begins, a request that was sent is answered."""

    async def ask(relay: World) -> None:
        async with await relay.connect() as stream:
            assert (await exchange(stream, GET)).startswith(b"HTTP/1.1 200"), "the connection was closed unanswered"

    for turns in range(12):
        async with world() as relay, trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(ask, relay)
            while relay.listener._connections.count < 5:
                await trio.lowlevel.checkpoint()
            for _ in range(turns):
                await trio.lowlevel.checkpoint()
            await relay.http.shutdown(trio.current_time() + 5)
