"""A connection whose handler waits for something else than a message: pings and closes are answered, and pongs are seen."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import trio

from tests.actions import make_room
from tests.e2e.hostile import RawConnection, admin_client, raw_websocket
from tests.e2e.slow import authenticate, narrow, sessions_of
from tests.e2e.test_slow_clients import IDLE_TIMEOUT, IMPATIENT, MAX_OUTBOX_BYTES, chat, newcomer
from tests.e2e.wire import CLOSE, PING, PONG, frame, text
from tests.running import config_for, running
from tests.waiting import TIMEOUT

ANSWER_TIMEOUT = 0.8
"""Seconds for an answer: several looks of the background reader, and less than the idle timeout."""
MESSAGES = 500
BYTES_PER_SECOND = 700_000
"""How fast the slow reader reads: it takes some times the idle timeout for all messages, and less than it for what waits."""


@contextmanager
def frozen_store(path: Path) -> Iterator[None]:
    """Have nothing written to a database meanwhile: another connection holds the lock."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


async def until(connection: RawConnection, opcode: int) -> bytes:
    """Return the payload of the next frame of this kind, answering pings on the way."""
    while (got := await connection.next_frame()) is not None:
        if got[0] == opcode:
            return got[1]
        if got[0] == PING:
            await connection.send(frame(PONG, got[1]))
    raise AssertionError("the connection ended")


@pytest.mark.slow
@pytest.mark.sqlite  # whose file is locked
async def test_while_the_store_is_frozen_pings_pongs_and_closes_are_read(tmp_path: Path) -> None:
    config = config_for(tmp_path, IMPATIENT)
    async with running(config) as (server, address):
        room = await make_room(address)
        async with raw_websocket(address) as patient, raw_websocket(address) as leaving:
            for number, connection in enumerate((patient, leaving)):
                await authenticate(connection, f"u{number}")
            post = text({"type": "chat:send", "chatroomId": room, "message": "waits"})
            with frozen_store(config.store.path):
                await patient.send(post + frame(PING, b"are you there?"))
                await leaving.send(post)
                with trio.fail_after(ANSWER_TIMEOUT):
                    assert await until(patient, PONG) == b"are you there?"
                await leaving.send(frame(CLOSE, b"\x03\xe8"))
                with trio.fail_after(ANSWER_TIMEOUT):
                    assert await until(leaving, CLOSE) == b"\x03\xe8"
                # The client sends nothing but pongs, and the handler takes none of them.
                with trio.move_on_after(2.5 * IDLE_TIMEOUT):
                    await until(patient, CLOSE)
                    raise AssertionError("a client that answers pings was closed")
                # What comes meanwhile is handled in its order once the store works again.
                await patient.send(text({"type": "ping", "requestId": 1}) + text({"type": "ping", "requestId": 2}))
                await patient.send(frame(PING, b"again"))
                with trio.fail_after(ANSWER_TIMEOUT):
                    assert await until(patient, PONG) == b"again"
            answers: list[int] = []
            while len(answers) < 2:
                message = await patient.message()
                assert message["type"] != "error", message
                if message["type"] == "pong":
                    answers.append(message["data"]["requestId"])
            assert answers == [1, 2]
        with trio.fail_after(TIMEOUT):
            while server.session_server.session_count:
                await trio.sleep(0.01)


@pytest.mark.slow
async def test_a_client_that_reads_a_large_resume_slowly_is_not_idle(tmp_path: Path) -> None:
    settings = {**IMPATIENT, "dialects.live.idle_timeout": 2 * IDLE_TIMEOUT}
    async with running(config_for(tmp_path, settings)) as (server, address), admin_client(address) as http:
        room = await make_room(address)
        async with raw_websocket(address) as first:
            await authenticate(first, "first")
            await first.send(text({"type": "subscribe", "channel": "chatroom", "chatroomId": room}))
            subscribed = await first.message()
        for _ in range(MESSAGES // 10):
            await chat(http, room, 10)
        before = sessions_of(server)
        async with narrow(address) as slow:
            await authenticate(slow, "slow")
            since = {"offset": 0, "epoch": subscribed["data"]["epoch"]}
            await slow.send(text({"type": "subscribe", "channel": "chatroom", "chatroomId": room, "since": since}))
            session = await newcomer(server, before)
            begun, read, messages, largest = trio.current_time(), 0, 0, 0
            while messages < MESSAGES:
                got = await slow.next_frame()
                assert got is not None
                opcode, payload = got
                assert opcode != CLOSE, payload
                if opcode == PING:
                    await slow.send(frame(PONG, payload))
                messages += b'"chat:message"' in payload
                read += len(payload)
                largest = max(largest, session.outbox.size)
                await trio.sleep_until(begun + read / BYTES_PER_SECOND)
            assert trio.current_time() - begun > 1.2 * 2 * IDLE_TIMEOUT, "it was read too fast to show anything"
            assert largest <= MAX_OUTBOX_BYTES
            assert session.reason is None
