"""`relay serve`: flags, and servers that cannot start."""

from __future__ import annotations

import errno
import socket
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from relay.config.reloading import Source
from relay.config.tree import Config
from relay.store.errors import StoreError
from tests.cli.commands import configured, done, failed, relay


def test_serve_passes_its_flags_on_and_checks_them() -> None:
    text = failed("serve", "--port", "70000", "--host", "a b")
    assert "server.port: 70000 is not a port; use 0 to 65535 (set by the command line)" in text
    assert "server.host:" in text


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Stand in for the server: it records its configuration and returns at once, or raises `outcome`."""
    module = ModuleType("relay.server.process")
    module.outcome = None  # type: ignore[attr-defined]

    def serve(config: Config, *, source: Source) -> None:
        module.config, module.source = config, source  # type: ignore[attr-defined]
        if isinstance(module.outcome, Exception):
            raise module.outcome

    module.serve = serve  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "relay.server.process", module)
    return module


def test_serve_runs_the_server_with_its_flags(folder: Path, server: Any) -> None:
    configured(folder, "[server]\nport = 1\nhost = '::1'")
    done("serve", "--port", "2")
    assert (server.config.server.host, server.config.server.port) == ("::1", 2)
    done("serve", "--host", "localhost")
    assert (server.config.server.host, server.config.server.port) == ("localhost", 1)
    configured(folder, "[server]\nport = 3")
    again = server.source.load()
    assert (again.server.host, again.server.port) == ("localhost", 3)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            ExceptionGroup("", [ExceptionGroup("", [OSError(errno.EADDRINUSE, "cannot listen on x port 1: in use")])]),
            "cannot listen on x port 1: in use; change server.host or server.port",
        ),
        (
            socket.gaierror(socket.EAI_NONAME, "cannot listen on x port 1: not known"),
            "cannot listen on x port 1: not known; change server.host or server.port",
        ),
        (StoreError("The database is odd."), "The database is odd."),
    ],
)
def test_serve_that_cannot_start_says_why(server: Any, error: Exception, message: str) -> None:
    server.outcome = error
    assert f"Error: {message}" in failed("serve")


def test_serve_does_not_hide_a_defect(server: Any) -> None:
    for error in (OSError(errno.EIO, "x"), ExceptionGroup("", [ValueError("x"), StoreError("y")]), KeyError("x")):
        server.outcome = error
        with pytest.raises(type(error)):
            relay("serve")
