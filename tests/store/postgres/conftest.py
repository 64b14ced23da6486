"""A database for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.postgres import PostgresServer, shared_server


@pytest.fixture
def server() -> PostgresServer:
    """The PostgreSQL of the session."""
    return shared_server()


@pytest.fixture
def name(server: PostgresServer) -> Iterator[str]:
    """A database of the test's own."""
    with server.database() as name:
        yield name
