"""Webhooks of a real server and a real receiver."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from tests.backend import Reply
from tests.clients import live
from tests.hooks.receiver import Event, receiver
from tests.running import config_for, running
from tests.waiting import until

pytestmark = pytest.mark.slow

GRACE = {"dialects.live.offline_grace": 0.05, "server.restart_grace": 0.05}


async def test_users_connect_and_leave(tmp_path: Path) -> None:
    """The first connection of a user and the end of the last one are told, once each, with one id for the pair."""
    async with receiver() as backend:
        config = config_for(tmp_path, {**GRACE, **backend.settings(events=["user.*", "connection.*"])})
        async with running(config) as (_, address):
            async with live(address, "alice"):
                await until(lambda: len(backend.events) >= 2)
                async with live(address, "alice"):
                    await until(lambda: len(backend.events) >= 3)
            await until(lambda: len(backend.events) >= 6)
        connected = [event.data for event in backend.events if event.type == "user.connected"]
        [left] = [event.data for event in backend.events if event.type == "user.disconnected"]
        assert [one["userId"] for one in connected] == ["alice"]
        assert (left["userId"], left["spanId"], left["reason"]) == ("alice", connected[0]["spanId"], "closed_by_client")
        assert [event.data["seq"] for event in backend.events] == [1, 2, 3, 4, 5, 6]
        opened = {e.data["connectionId"]: e.data for e in backend.events if e.type == "connection.opened"}
        closed = {e.data["connectionId"]: e.data for e in backend.events if e.type == "connection.closed"}
        assert opened.keys() == closed.keys()
        assert len(opened) == 2
        assert {one["dialect"] for one in opened.values()} == {"live"}
        assert backend.events[-1].type == "user.disconnected"
