"""The connection that listens for NOTIFY."""

from __future__ import annotations

import psycopg
import pytest

from relay.store.postgres.listener import open_listener
from tests.postgres import shared_server
from tests.waiting import until


async def test_a_connection_that_cannot_listen_is_closed() -> None:
    """At once, and not by the garbage collector: the error keeps the frame that has the connection."""
    server = shared_server()
    with pytest.raises(psycopg.errors.SyntaxError) as caught:
        async with open_listener(f"{server.url()}&application_name=deaf", None, 'a"b'):
            pass
    deaf = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'deaf'"
    await until(lambda: server.execute(deaf) == [(0,)], timeout=3)
    assert caught.value.__traceback__ is not None
