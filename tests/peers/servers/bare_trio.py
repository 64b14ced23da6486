"""The least that a Trio server does for a POST: the head parsed by httptools, the JSON decoded, 200 answered. Nothing is published.

    python tests/peers/servers/bare_trio.py [PORT]
    relay bench posts --url http://127.0.0.1:PORT --key none --pid PID

What a Relay reaches beside it, in one run, is what publishing, rights, bounds and errors leave of the speed of Trio.
"""

from __future__ import annotations

import itertools
import os
import socket
import sys

import httptools
import orjson
import trio

RECEIVE_BYTES = 256 * 1024

offsets = itertools.count(1)


class Connection:
    """One connection; llhttp finds the requests in what comes."""

    def __init__(self) -> None:
        self.parser = httptools.HttpRequestParser(self)
        self.answers: list[bytes] = []
        self._body: list[bytes] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, as a server that looks at some must."""

    def on_body(self, data: bytes) -> None:
        """Take a piece of the body."""
        self._body.append(data)

    def on_message_complete(self) -> None:
        """Decode the body, and answer as a Relay does."""
        value = orjson.loads(b"".join(self._body))
        self._body.clear()
        items = value if isinstance(value, list) else [value]
        data = [{"channel": item["channel"], "offset": next(offsets), "epoch": "none"} for item in items]
        body = orjson.dumps({"success": True, "status": 200, "data": data})
        self.answers.append(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        )


async def serve(sock: socket.socket) -> None:
    """Answer the requests of one connection."""
    with sock:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = Connection()
        while True:
            await trio.lowlevel.wait_readable(sock)
            try:
                data = sock.recv(RECEIVE_BYTES)
                if not data:
                    return
                connection.parser.feed_data(data)
                if connection.answers:
                    sock.send(b"".join(connection.answers))
                    connection.answers.clear()
            except (OSError, httptools.HttpParserError):
                return


async def main(port: int) -> None:
    """Listen on the port, or on a free one for 0."""
    with socket.create_server(("127.0.0.1", port), backlog=1024) as listener:
        listener.setblocking(False)
        print(f"listening on {listener.getsockname()[1]}, process {os.getpid()}", flush=True)
        async with trio.open_nursery() as nursery:
            while True:
                await trio.lowlevel.wait_readable(listener)
                try:
                    sock, _ = listener.accept()
                except BlockingIOError:
                    continue
                nursery.start_soon(serve, sock)


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 0)
