"""A proxy before a server that spoils what it passes on: `python tampering.py UPSTREAM_PORT MODE...`; it prints its own port.

drop:N          every Nth publication of a connection is not passed on
keep:N          of the publications to a connection only the first N are passed on
repeat:N        every Nth message of a chat is sent to the server twice, under two ids
content:N       every Nth publication gets the mark of the one before, at its own offset
refuse-after:N  WebSockets after the first N are answered with 503
no-metrics      /metrics is answered with 403
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Callable, Iterator

from relay.sessions.frames import text_frame

MODES = {name: int(value or 0) for name, _, value in (mode.partition(":") for mode in sys.argv[2:])}
MARK = re.compile(rb"@@.*?;")
CLIENT_ID = re.compile(rb'("clientMessageId": ").')
websockets = 0

Change = Callable[[bytes, bytes], Iterator[bytes]]
"""From a frame and its payload to what is passed on."""


def refusal(head: bytes) -> str | None:
    """Return the status with which a request is refused, None if it is passed on."""
    global websockets
    if b"\r\nupgrade: websocket" in head.lower():
        websockets += 1
        if "refuse-after" in MODES and websockets > MODES["refuse-after"]:
            return "503 Service Unavailable"
    if "no-metrics" in MODES and head.startswith(b"GET /metrics"):
        return "403 Forbidden"
    return None


def to_server() -> Change:
    """Return the change of what a client says."""
    count = 0

    def change(frame: bytes, payload: bytes) -> Iterator[bytes]:
        nonlocal count
        yield frame
        if b"chat:send" in payload:
            count += 1
            if "repeat" in MODES and count % MODES["repeat"] == 0:
                yield CLIENT_ID.sub(rb"\1Z", frame)

    return change


def to_client() -> Change:
    """Return the change of what the server says."""
    count, last = 0, b""

    def change(frame: bytes, payload: bytes) -> Iterator[bytes]:
        nonlocal count, last
        found = MARK.search(payload)
        if found is None:
            yield frame
            return
        count += 1
        if "drop" in MODES and count % MODES["drop"] == 0:
            return
        if "keep" in MODES and count > MODES["keep"]:
            return
        if "content" in MODES and count % MODES["content"] == 0 and last:
            yield text_frame(payload.replace(found.group(), last))
            return
        last = found.group()
        yield frame

    return change


def split(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the complete frames with their payloads; what clients mask is masked with zeros."""
    at = 0
    while len(data) - at >= 2:
        head, size = 2, data[at + 1] & 127
        if size >= 126:
            wide = 2 if size == 126 else 8
            head, size = 2 + wide, int.from_bytes(data[at + 2 : at + 2 + wide], "big")
        head += 4 if data[at + 1] & 128 else 0
        if len(data) - at < head + size:
            return
        yield data[at : at + head + size], data[at + head : at + head + size]
        at += head + size


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, change: Change | None) -> None:
    """Pass on what comes, frame by frame where it may be changed."""
    rest = b""
    try:
        while data := await reader.read(65536):
            if change is None:
                writer.write(data)
            else:
                rest += data
                for frame, payload in split(rest):
                    rest = rest[len(frame) :]
                    for passed_on in change(frame, payload):
                        writer.write(passed_on)
            await writer.drain()
        writer.write_eof()
    except OSError:
        writer.close()  # one side is gone, so the other goes too


async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one connection."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, OSError):
        writer.close()
        return
    status = refusal(head)
    if status is not None:
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
        writer.close()
        return
    from_server, server = await asyncio.open_connection("127.0.0.1", int(sys.argv[1]))
    server.write(head)
    up: Change | None = None
    down: Change | None = None
    if b"\r\nupgrade: websocket" in head.lower():
        writer.write(await from_server.readuntil(b"\r\n\r\n"))
        up, down = to_server(), to_client()
    await asyncio.gather(pump(reader, server, up), pump(from_server, writer, down))
    server.close()
    writer.close()


async def main() -> None:
    """Listen on a free port."""
    server = await asyncio.start_server(handle, "127.0.0.1", 0, backlog=1000)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
