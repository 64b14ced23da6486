"""Clients in a process of their own, which can be killed or stopped: `python -m tests.e2e.crowd ADDRESS ROOM USER...`.

Each user connects twice, in each of the two dialects that know rooms, and subscribes. Then it says that all are there.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import trio
from trio_websocket import WebSocketConnection, open_websocket_url

from tests.running import token

START_TIMEOUT = 20.0


@asynccontextmanager
async def crowd(address: str, room: str, users: Sequence[str]) -> AsyncIterator[trio.Process]:
    """Have users connect from another process; yields it when they are there, and it is gone at the end."""
    command = [sys.executable, "-m", "tests.e2e.crowd", address, room, *users]
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        with trio.fail_after(START_TIMEOUT):
            said = b""
            while not said.endswith(b"\n"):
                said += (part := await process.stdout.receive_some())
                assert part, "the crowd ended"
        yield process
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
        assert process.stdout is not None
        await process.stdout.aclose()


async def _read(connection: WebSocketConnection) -> None:
    while True:
        await connection.get_message()


async def _main(address: str, room: str, users: Sequence[str]) -> None:
    async with trio.open_nursery() as nursery:

        async def enter(
            path: str, *messages: object, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
        ) -> None:
            async with open_websocket_url(f"ws://{address}{path}") as connection:
                for message in messages:
                    await connection.send_message(json.dumps(message))
                while json.loads(await connection.get_message())["type"] != "subscribed":
                    pass
                task_status.started()
                await _read(connection)

        live = {"type": "subscribe", "channel": "chatroom", "chatroomId": room}
        generic = {"type": "subscribe", "data": {"channel": f"conversation:{room}"}}
        async with trio.open_nursery() as entering:
            for user in users:
                entering.start_soon(nursery.start, enter, "/v1/live", {"type": "auth", "token": token(user)}, live)
                entering.start_soon(nursery.start, enter, f"/api/ws?token={token(user)}", generic)
        print("here", flush=True)


if __name__ == "__main__":
    trio.run(_main, sys.argv[1], sys.argv[2], sys.argv[3:])
