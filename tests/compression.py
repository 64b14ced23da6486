"""What compression saves and costs: `python -m tests.compression`.

One server process delivers publications to subscribers that take compressed frames, and to as many that do not. Each load prints the bytes
and the CPU time of the server for each delivery.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import trio

from tests.e2e.wire import handshake
from tests.http_client import http_connection
from tests.running import RelayProcess, bearer, relay_process

SETTINGS = """
[namespaces.feed]
subscribe = "anyone"
durable = false
[dialects.live]
compression = {compression}
compression_min_bytes = 64
max_anonymous = 10000
[limits]
handshakes_per_minute = 1000000
"""
OFFER = {"Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits"}
SUBSCRIBE = b'{"type":"subscribe","channel":"feed:1"}'
WORDS = ("price", "order", "room", "hello", "value", "status", "pending", "shipped", "customer", "delivery", "note")
AT_A_TIME = 10
"""Publications of one request, so that requests cost little beside deliveries."""


def price(source: random.Random) -> Any:
    """Return a document of about 160 bytes in its frame."""
    return {"price": round(source.random() * 100, 2), "volume": source.randrange(10**6), "at": source.randrange(10**12)}


def message(source: random.Random) -> Any:
    """Return a document of about 1 KB in its frame."""
    text = " ".join(f"{source.choice(WORDS)}{source.randrange(100)}" for _ in range(95))
    return {"userId": f"u{source.randrange(1000)}", "message": text}


def state(rows: int, source: random.Random) -> Any:
    """Return a table, with about 65 bytes a row."""
    return [
        {
            "id": f"o{source.randrange(10**6)}",
            "status": source.choice(["open", "paid", "shipped"]),
            "price": round(source.random() * 100, 2),
            "count": source.randrange(10),
        }
        for _ in range(rows)
    ]


DOCUMENTS = {
    "price": price,
    "message": message,
    "2 KB": lambda source: state(30, source),
    "16 KB": lambda source: state(250, source),
}


class Crowd:
    """Subscribers, which read everything and count its bytes."""

    def __init__(self) -> None:
        self.bytes = 0

    async def join(self, port: int, *, compressed: bool, nursery: trio.Nursery) -> None:
        """Connect one subscriber, and read for it from then on."""
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        await stream.send_all(
            handshake(changes=OFFER if compressed else None) + b"\x81%c\0\0\0\0" % (0x80 | len(SUBSCRIBE)) + SUBSCRIBE
        )
        received = b""
        while b'"subscribed"' not in received:
            received += await stream.receive_some()
        assert (b"permessage-deflate" in received) == compressed
        nursery.start_soon(self._read, stream)

    async def _read(self, stream: trio.SocketStream) -> None:
        async with stream:
            while data := await stream.receive_some():
                self.bytes += len(data)


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def measure(
    server: RelayProcess, make: Any, subscribers: int, seconds: float, *, compressed: bool
) -> dict[str, float]:
    """Publish to subscribers for a time, one publication after the other."""
    source, crowd = random.Random(1), Crowd()
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(http_connection(server.address, bearer("root", admin=True)))
        nursery = await stack.enter_async_context(trio.open_nursery())
        for _ in range(subscribers):
            await crowd.join(server.port, compressed=compressed, nursery=nursery)
        await trio.sleep(0.2)
        crowd.bytes = count = size = 0
        before, end = cpu_seconds(server.pid), time.monotonic() + seconds
        while time.monotonic() < end:
            documents = [make(source) for _ in range(AT_A_TIME)]
            size += sum(len(json.dumps(document, separators=(",", ":"))) for document in documents)
            items = [{"channel": "feed:1", "data": document} for document in documents]
            assert (await http.request("POST", "/v1/publish", items))[0] == 200
            count += AT_A_TIME
        await trio.sleep(0.5)
        used = cpu_seconds(server.pid) - before
        nursery.cancel_scope.cancel()
    deliveries = count * subscribers
    return {
        "document_bytes": round(size / count),
        "bytes_per_delivery": round(crowd.bytes / deliveries, 1),
        "cpu_us_per_delivery": round(used / deliveries * 1e6, 2),
        "publications_per_s": round(count / seconds),
    }


async def run(subscribers: int, seconds: float) -> None:
    """Run every load, with compression and without, in turns."""
    for compression in ("false", "true"):
        with tempfile.TemporaryDirectory() as folder:
            async with relay_process(Path(folder), SETTINGS.format(compression=compression)) as server:
                for name, make in DOCUMENTS.items():
                    taken = await measure(server, make, subscribers, seconds, compressed=compression == "true")
                    print(f"compression={compression} {name}: {json.dumps(taken)}", flush=True)


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description="Measure what compression saves and costs.")
    parser.add_argument("--subscribers", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=4.0)
    options = parser.parse_args()
    trio.run(run, options.subscribers, options.seconds)


if __name__ == "__main__":
    main()
