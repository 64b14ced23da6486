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
    with trio.open_signal_receiver(*SIGNALS) as signals:
        async with trio.open_nursery() as ending:
            async with open_server(
                config, dialects=dialects, passed=passed, notifier=notifier, source=source
            ) as server:
                await ending.start(_reload_at_hangup, server, notifier)
                await notifier.ready(server.status)
                ready(server.urls[0])
                await anext(aiter(signals))
                ending.start_soon(_exit_at_second_signal, signals)
                log.info("shutting down", grace=config.server.shutdown_grace)
                server.refuse_new_work()
                await notifier.stopping("Shutting down: sessions are disconnected, requests may finish.")
                await server.drain()
            ending.cancel_scope.cancel()
    log.info("stopped")


async def _reload_at_hangup(
    server: Server, notifier: Notifier, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Reload at each SIGHUP. Signals that come meanwhile count as one."""
    with trio.open_signal_receiver(signal.SIGHUP) as signals:
        task_status.started()
        async for _ in signals:
            await notifier.reloading()
            with suppress(ConfigError):  # it is logged
                await server.reloader.reload()
            await notifier.ready(server.status)


async def _exit_at_second_signal(signals: AsyncIterator[int]) -> None:
    await anext(aiter(signals))
    log.warning("second signal, ending at once")
    os._exit(1)
