"""Pings and pongs of a feed, in real time."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from tests.clients import connect
from tests.running import config_for, running

pytestmark = pytest.mark.slow(3)


@pytest.mark.timed
async def test_only_a_pong_keeps_a_feed_client(tmp_path: Path) -> None:
    """One that only sends text is gone at the deadline, one that answers pings stays."""
    config = config_for(tmp_path, {"dialects.feeds.ping_interval": 0.4, "dialects.feeds.pong_timeout": 1.0})
    async with running(config) as (_, address), trio.open_nursery() as nursery:
        host, _, port = address.rpartition(":")
        async with (
            connect(address, "/api/v1/ws/trades") as answering,
            await trio.open_tcp_stream(host, int(port)) as mute,
        ):
            await mute.send_all(
                b"GET /api/v1/ws/trades HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
            )

            async def talk() -> None:
                while True:
                    await mute.send_all(b"\x81\x82\0\0\0\0hi")
                    await trio.sleep(0.1)

            nursery.start_soon(talk)
            begun = trio.current_time()
            received = b""
            while b"\x88\x06\x03\xe9idle" not in received:
                with trio.fail_after(3):
                    received += await mute.receive_some()
            assert 0.9 < trio.current_time() - begun < 1.6
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
                assert answering.connection.closed is None
