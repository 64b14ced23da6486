"""The port of a server that restarts."""

from __future__ import annotations

import socket

import pytest

from relay.bench.local_server import reserved_port


def test_a_reserved_port_is_for_listeners_alone() -> None:
    """Again and again. Any other socket finds it in use."""
    with reserved_port() as port:
        for _ in range(2):
            with socket.create_server(("127.0.0.1", port)), socket.create_connection(("127.0.0.1", port)):
                pass
            with socket.socket() as other, pytest.raises(OSError, match="in use"):
                other.bind(("127.0.0.1", port))
