"""`python -m tests.e2e.frozen ADDRESS ROOM TOKEN KEY`: one client of each dialect, in a process that will be stopped.

It prints the ports of its connections when all are ready, and once it goes on, the close code that each one got. Plain blocking
sockets: it is stopped in the middle of nothing.
"""

from __future__ import annotations

import json
import re
import signal
import socket
import sys

from tests.e2e.wire import CLOSE, frame, handshake, text

TIMEOUT = 10.0


class Peer:
    """One connection."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), TIMEOUT)
        self._received = b""

    @property
    def port(self) -> int:
        """This end's."""
        return int(self._socket.getsockname()[1])

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self._socket.sendall(data)

    def until(self, mark: bytes) -> bytes:
        """Read until something was said; returns all that came."""
        while mark not in self._received:
            data = self._socket.recv(65536)
            if not data:
                raise SystemExit(f"the connection ended after {self._received!r}")
            self._received += data
        return self._received

    def close_code(self) -> int | None:
        """Read to the end; returns the code of a close frame, if one came."""
        try:
            while data := self._socket.recv(65536):
                self._received += data
        except OSError:
            pass  # reset: what came is here all the same
        frames = self._received.partition(b"\r\n\r\n")[2]
        code = None
        while len(frames) > 1:
            opcode, size = frames[0] & 0xF, frames[1]
            begin = 2
            if size > 125:
                begin = 4 if size == 126 else 10
                size = int.from_bytes(frames[2:begin], "big")
            if opcode == CLOSE:
                code = int.from_bytes(frames[begin : begin + 2], "big")
            frames = frames[begin + size :]
        return code


def connect(address: str, room: str, token: str, key: str) -> dict[str, Peer]:
    """Open a connection of each dialect, and subscribe."""
    peers = {}
    live = peers["live"] = Peer(address)
    live.send(handshake("/v1/live") + text({"type": "auth", "token": token}))
    live.send(text({"type": "subscribe", "channel": "chatroom", "chatroomId": room}))
    live.until(b'"subscribed"')
    channels = peers["channels"] = Peer(address)
    channels.send(handshake(f"/api/ws?token={token}") + text({"type": "ping"}))
    channels.until(b'"pong"')
    feeds = peers["feeds"] = Peer(address)
    feeds.send(handshake("/api/v1/ws/trades"))
    feeds.until(b'"init"')
    prices = peers["socketio"] = Peer(address)
    prices.send(handshake("/socket.io/?EIO=4&transport=websocket"))
    prices.until(b"maxPayload")
    prices.send(frame(1, b'40/api-ws,{"apiKey":"%b"}' % key.encode()))
    prices.until(b"initial-prices")
    polling = peers["polling"] = Peer(address)
    polling.send(b"GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: x\r\n\r\n")
    sid = re.search(rb'"sid":"([^"]+)"', polling.until(b"maxPayload"))
    assert sid is not None
    polling.send(
        b"GET /socket.io/?EIO=4&transport=polling&sid=%b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % sid[1]
    )
    return peers


def main() -> None:
    """Connect, wait to be stopped and continued, and tell what came."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCONT})
    peers = connect(*sys.argv[1:5])
    print(json.dumps([peer.port for peer in peers.values()]), flush=True)
    signal.sigwait({signal.SIGCONT})
    print(json.dumps({name: peer.close_code() for name, peer in peers.items()}), flush=True)


if __name__ == "__main__":
    main()
