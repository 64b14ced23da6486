"""The process of a server: signals, the limit of open files, and systemd."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from functools import partial

import trio

from relay.cluster.node import default_name
from relay.config.loading import ConfigError
from relay.config.reloading import Source
from relay.config.tree import Config
from relay.dialects.base import Factory
from relay.dialects.registry import DIALECTS
from relay.ground import logs
from relay.ops.open_files import raise_open_files
from relay.ops.signals import release
from relay.ops.systemd import Notifier, take_listeners, take_notifier
from relay.server.server import Server, open_server

SIGNALS = (signal.SIGTERM, signal.SIGINT)
"""The signals that stop the server. A second one ends the process at once."""

log = logs.get("relay")


def serve(
    config: Config,
    *,
    dialects: Sequence[Factory] = DIALECTS,
    ready: Callable[[str], None] = lambda url: None,
    source: Source | None = None,
) -> None:
    """Run the server until a signal stops it. A second signal ends the process at once, with exit code 1.

    A signal that stops the server while it starts lets the start finish, so that the end is recorded as clean.

    `ready` is called synchronously with the server's URL once it listens. `source`: as for `open_server`.

    Raises:
        SystemdError: a socket or variable from systemd cannot be used.
        OSError, StoreError: as `open_server`, in an exception group.
    """
    node = (config.server.node_name or default_name()) if config.store.url is not None else config.server.node_name
    logs.configure(config.log.format, config.log.level, node=node)
    raise_open_files()
    notifier, passed = take_notifier(os.environ), take_listeners(os.environ)
    trio.run(
        partial(_serve_until_signal, config, ready, notifier=notifier, passed=passed, dialects=dialects, source=source)
    )


async def _serve_until_signal(
    config: Config,
    ready: Callable[[str], None],
    *,
    notifier: Notifier,
    passed: Sequence[socket.socket],
    dialects: Sequence[Factory],
    source: Source | None,
) -> None:
    with trio.open_signal_receiver(*SIGNALS) as signals, trio.open_signal_receiver(signal.SIGHUP) as hangups:
        release()
        stop = trio.Event()
        async with trio.open_nursery() as ending:
            ending.start_soon(_stop_at_signal, signals, stop, config.server.shutdown_grace)
            async with open_server(
                config, dialects=dialects, passed=passed, notifier=notifier, source=source
            ) as server:
                await notifier.ready(server.status)
                ending.start_soon(_reload_at_hangup, hangups, server, notifier)
                ready(server.urls[0])
                await stop.wait()
                server.refuse_new_work()
                await notifier.stopping("Shutting down: sessions are disconnected, requests may finish.")
                await server.drain()
            ending.cancel_scope.cancel()
    log.info("stopped")


async def _reload_at_hangup(hangups: AsyncIterator[int], server: Server, notifier: Notifier) -> None:
    """Reload at each SIGHUP, also at one of the start. Signals that come meanwhile count as one."""
    async for _ in hangups:
        await notifier.reloading()
        with suppress(ConfigError):  # it is logged
            await server.reloader.reload()
        await notifier.ready(server.status)


async def _stop_at_signal(signals: AsyncIterator[int], stop: trio.Event, grace: float) -> None:
    """Set `stop` at the first signal, also while the server starts: it stops in order then. End the process at the second."""
    async for _ in signals:
        if stop.is_set():
            log.warning("second signal, ending at once")
            os._exit(1)
        log.info("shutting down", grace=grace)
        stop.set()
