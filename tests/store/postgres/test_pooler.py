"""Poolers between Relay and PostgreSQL. One in transaction mode cannot be used, and `relay check` says what is wrong.

A real PgBouncer is tried too where there is one: as `pgbouncer` on the PATH, or by RELAY_PGBOUNCER.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress

import pytest
import trio

from relay.store.errors import StoreError
from relay.store.postgres.verification import describe
from tests.postgres import SYSTEM_USER, PostgresServer, shared_server

PGBOUNCER = os.environ.get("RELAY_PGBOUNCER") or shutil.which("pgbouncer")
LISTEN = (
    r"LISTEN does not work at store.url: a notification did not arrive. A pooler in transaction mode, such as PgBouncer"
)

pytestmark = pytest.mark.slow


async def _pump(source: trio.SocketStream, sink: trio.SocketStream, *, drops: bool) -> None:
    """Pass on messages; with `drops`, no notification. The first one of a client has no type, and is passed on as it is."""
    data = b""
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        while more := await source.receive_some():
            data += more
            passed = b""
            while drops and len(data) >= 5 and len(data) > (size := int.from_bytes(data[1:5], "big")):
                message, data = data[: size + 1], data[size + 1 :]
                passed += b"" if message[:1] == b"A" else message
            await sink.send_all(passed if drops else data)
            data = data if drops else b""
        await sink.send_eof()


@asynccontextmanager
async def deaf_pooler(server: PostgresServer) -> AsyncIterator[str]:
    """Run a pooler that loses notifications; yields its address as parameters of libpq."""

    async def serve(near: trio.SocketStream) -> None:
        far = await trio.open_unix_socket(str(server.folder / ".s.PGSQL.5432"))
        async with far, trio.open_nursery() as nursery:
            nursery.start_soon(lambda: _pump(near, far, drops=False))
            await _pump(far, near, drops=True)
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(
            lambda task_status: trio.serve_tcp(serve, 0, host="127.0.0.1", task_status=task_status)
        )
        port = listeners[0].socket.getsockname()[1]
        yield f"host=127.0.0.1&port={port}&sslmode=disable&gssencmode=disable"
        nursery.cancel_scope.cancel()


@contextmanager
def pgbouncer(server: PostgresServer, mode: str) -> Iterator[str]:
    """Run PgBouncer in front of a server; yields its address as parameters of libpq."""
    assert PGBOUNCER is not None
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = server.folder / "pgbouncer.ini"
    users = server.folder / "users.txt"
    users.write_text('"postgres" ""\n')
    config.write_text(
        f"[databases]\n* = host={server.folder}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n"
        f"auth_type = trust\nauth_file = {users}\npool_mode = {mode}\nunix_socket_dir =\n"
    )
    user = {"user": SYSTEM_USER} if os.geteuid() == 0 else {}
    process = subprocess.Popen([PGBOUNCER, str(config)], stderr=subprocess.DEVNULL, **user)  # type: ignore[call-overload]
    try:
        address = f"host=127.0.0.1&port={port}"
        for _ in range(100):
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            process.poll()
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.05)
        yield address
    finally:
        process.terminate()
        process.wait(10)


POOLERS = ["deaf", *(["transaction", "session"] if PGBOUNCER else [])]


@pytest.mark.parametrize("pooler", POOLERS)
async def test_a_pooler_that_loses_notifications(pooler: str) -> None:
    """A check says so. In session mode PgBouncer loses none, and the check is content."""
    server = shared_server()
    with server.database() as name, ExitStack() as stack:
        async with deaf_pooler(server) as address:
            if pooler != "deaf":
                address = stack.enter_context(pgbouncer(server, pooler))
            url = f"postgresql:///{name}?user=postgres&{address}"
            if pooler == "session":
                assert "the first start creates its tables" in await trio.to_thread.run_sync(describe, url, None)
            else:
                with pytest.raises(StoreError, match=LISTEN):
                    await trio.to_thread.run_sync(describe, url, None)
        stack.close()  # before its connections keep the database from being dropped
