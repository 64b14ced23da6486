"""`python -m tests.conformance --port 3000`: Relay's WebSocket, Engine.IO and Socket.IO layers, for public protocol suites.

WebSocket `/echo`, a bare Engine.IO echo at `/engine.io/`, and Socket.IO at `/socket.io/` with the namespaces `/` and `/custom`.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import trio

from relay.config.loading import load_config
from relay.config.tree import Config
from relay.server.server import open_server
from tests.conformance.echo import dialects


async def serve(config: Config) -> None:
    """Serve until interrupted."""
    async with open_server(config, dialects=dialects()) as server:
        print(f"listening on {server.addresses}", flush=True)
        await trio.sleep_forever()


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.add_argument("--port", type=int, default=3000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        overrides = {
            "server.port": options.port,
            "store.path": str(Path(folder) / "relay.db"),
            "limits.max_outbox_bytes": 64 * 1024 * 1024,
            "limits.handshakes_per_minute": 1_000_000,
            "limits.max_body_bytes": 1_000_000,
        }
        trio.run(serve, load_config(None, {}, overrides))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
