"""The processes that are beside the measured ones: slow clients, and the publisher of what they cannot take."""

from __future__ import annotations

import json
import socket
import sys
import time

import trio

from tests.e2e.wire import PONG, frame, handshake, text

CHANNEL = "community:flood"
PUBLISH_INTERVAL = 0.05
PUBLICATION_BYTES = 16_000
RECEIVE_BUFFER_BYTES = 8192
LIFE_INTERVAL = 1.0
"""Seconds between two bytes, and two signs of life."""


async def slow_clients(address: str, token: str, count: int) -> None:
    """Keep so many clients connected; every other one reads nothing, the rest a byte a second.

    Prints a line whenever one was closed.
    """
    async with trio.open_nursery() as nursery:
        for number in range(count):
            await nursery.start(_slow_client, address, token, bool(number % 2))
        print("ready", flush=True)


async def _slow_client(
    address: str, token: str, reads: bool, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    host, _, port = address.rpartition(":")
    hello = handshake("/v1/live") + text({"type": "auth", "token": token})
    hello += text({"type": "subscribe", "channel": "trades"})
    hello += text({"type": "subscribe", "channel": "community", "communityId": CHANNEL.partition(":")[2]})
    while True:
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
            sock.setblocking(False)
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
            await stream.socket.connect((host, int(port)))
            await stream.send_all(hello)
            task_status.started()
            task_status = trio.TASK_STATUS_IGNORED
            try:
                while True:
                    await trio.sleep(LIFE_INTERVAL)
                    # Who does not read sees no end; what it says to a connection that is over is refused.
                    await stream.send_all(frame(PONG))
                    if reads:
                        await stream.receive_some(1)
            except trio.BrokenResourceError:
                pass
        print("closed", flush=True)


def publisher(address: str, key: str) -> None:
    """Publish to the channel of the slow clients, for ever."""
    line = json.dumps({"channel": CHANNEL, "data": {"filling": "x" * PUBLICATION_BYTES}}).encode() + b"\n"
    host, _, port = address.rpartition(":")
    head = (
        f"POST /v1/publish HTTP/1.1\r\nHost: {host}\r\nX-API-Key: {key}\r\nContent-Type: application/x-ndjson\r\n"
        "Transfer-Encoding: chunked\r\n\r\n"
    )
    with socket.create_connection((host, int(port))) as sock:
        sock.sendall(head.encode())
        print("ready", flush=True)
        while True:
            sock.sendall(b"%x\r\n%b\r\n" % (len(line), line))
            time.sleep(PUBLISH_INTERVAL)


if __name__ == "__main__":
    what, where, *rest = sys.argv[1:]
    if what == "slow":
        trio.run(slow_clients, where, rest[0], int(rest[1]))
    else:
        publisher(where, rest[0])
