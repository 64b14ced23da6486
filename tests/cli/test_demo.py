"""`relay demo`: a port that is taken. The running demo is tested with a browser."""

from __future__ import annotations

import socket

from tests.cli.commands import failed


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        text = failed("demo", "--port", str(taken.getsockname()[1]))
    assert "Address already in use; use another --port" in text


def test_a_port_that_cannot_be() -> None:
    assert "70000" in failed("demo", "--port", "70000", code=2)
