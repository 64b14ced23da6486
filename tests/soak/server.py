"""The server of a soak, in a process of its own: Relay as it is, and a route that says which objects are alive.

It forgets idle channels within seconds instead of a minute; nothing else differs from `relay serve`.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
from collections import Counter
from pathlib import Path

import trio
from quart import Blueprint, Response

from relay.broker import registry as channels
from relay.config.loading import load_config
from relay.core import Core
from relay.dialects.base import Dialect
from relay.dialects.registry import DIALECTS
from relay.ground import logs, strictjson
from relay.ops import janitor
from relay.ops.open_files import raise_open_files
from relay.server.server import open_server

IDLE_PERIOD = 1.0
CLEAN_INTERVAL = 0.5
PATH = "/objects"


def open_census(core: Core) -> Dialect:
    """Return a dialect that is nothing but a route: the objects that are alive, by type."""
    routes = Blueprint("census", __name__)

    @routes.get(PATH)
    async def objects() -> Response:
        # Private: of scopes that are over, Trio keeps up to a thousand until their deadlines pass.
        trio._core._run.GLOBAL_RUN_CONTEXT.runner.deadlines._prune()
        for _ in range(3):  # what a finalizer lets go of is garbage of the next turn
            gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        blocks = sys.getallocatedblocks()  # texts, numbers and what else the collector does not know are in it
        counts = Counter(f"{type(one).__module__}.{type(one).__qualname__}" for one in gc.get_objects())
        answer = {"blocks": blocks, "objects": counts}
        return Response(strictjson.dumps(answer), content_type="application/json")

    return Dialect("census", blueprints=[routes])


async def _serve(config_file: Path) -> None:
    config = load_config(config_file, {}, {})
    logs.configure(config.log.format, config.log.level)
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with open_server(config, dialects=[*DIALECTS, open_census]) as server:
            host, port = server.addresses[0]
            print(f"{host}:{port}", flush=True)
            # All is said: whoever started this reads until here. Into a gap SQLite would put a file, whenever it opens its next.
            with Path(os.devnull).open("wb") as nothing:
                os.dup2(nothing.fileno(), sys.stdout.fileno())
            await anext(aiter(signals))
            await server.drain()


if __name__ == "__main__":
    channels.IDLE_PERIOD = IDLE_PERIOD
    janitor.UNLOAD_INTERVAL = CLEAN_INTERVAL
    raise_open_files()
    trio.run(_serve, Path(sys.argv[1]))
