"""Runs one load with its target, event loop and signals, and prints its report."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from typing import Any

import attrs

from relay.bench import report
from relay.bench.interrupt import stopping_at_signals
from relay.bench.load import Load
from relay.bench.poller import Poller
from relay.bench.progress import open_progress
from relay.bench.result import Result
from relay.bench.target import TargetError, open_target


@attrs.frozen
class Server:
    """The server, as the options describe it."""

    urls: Sequence[str] = ()
    """Several are nodes of one database. Empty: the command starts a server of its own."""
    tokens: Sequence[str] = ()
    key: str | None = None
    pid: int | None = None
    tls: Callable[[], ssl.SSLContext] = ssl.create_default_context


def run(name: str, settings: dict[str, Any], server: Server, body: Callable[[Load], None], *, as_json: bool) -> bool:
    """Run a load and print its report. Return whether it has no problems.

    Raises:
        TargetError: the server cannot be used for this load.
        ServerError: the server that the command starts does not start.
    """
    result = Result(name, settings)
    with stopping_at_signals() as stop, open_progress() as progress:
        with open_target(server.urls, server.tokens, server.key, server.pid, server.tls) as target:
            poller = Poller()
            try:
                body(Load(target, poller, stop, progress, result))
            except TargetError as error:
                if not result.figures.get("connections"):
                    raise
                result.problems.append(str(error))  # the partial result is shown
            finally:
                poller.close()
        result.interrupted = stop.requested
    result.conclude()
    report.write(result, as_json=as_json)
    return not result.problems
