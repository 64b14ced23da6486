"""The deletion of a history that is being written at the same moment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from relay.access.this_node import ThisNode
from relay.broker.write_behind import WriteBehind
from relay.model.namespaces import ChannelName
from relay.model.publication import Draft
from tests.kept import recent
from tests.parts import Parts, open_parts
from tests.waiting import TIMEOUT


async def publish(parts: Parts, name: ChannelName) -> None:
    """Publish one."""
    await parts.broker.publish(Draft(name, "t", {}, parts.clock.ms))


async def stored(parts: Parts, name: ChannelName) -> list[int]:
    """Return the offsets of what the store keeps of a channel that is not in use."""
    parts.broker.channels.unload_idle(0.0)
    parts.broker.channels.unload_idle(1e9)
    assert parts.broker.channels.get(name) is None
    return [publication.offset for publication in (await recent(parts.broker, name))[1]]


@pytest.mark.sqlite
async def test_a_deleted_history_is_not_written_again(tmp_path: Path) -> None:
    """A write of what is unwritten begins after the deletion was committed, and before the broker knows of that."""
    async with open_parts(tmp_path) as parts, trio.open_nursery() as nursery:
        name = parts.namespaces.parse("trades")
        write_behind = WriteBehind(parts.broker, parts.broker._store)
        this_node = ThisNode(parts.connections, parts.broker, parts.rooms, parts.database)
        engine: Any = parts.database._engine
        execute = engine.execute

        async def late(loads: Any, writes: Any) -> Any:
            engine.execute = execute
            result = await execute(loads, writes)
            nursery.start_soon(write_behind.write)
            with trio.fail_after(TIMEOUT):
                while not parts.database.waiting_writes:
                    await trio.sleep(0)
            return result

        for _ in range(3):
            await publish(parts, name)
        engine.execute = late
        await this_node.remove_history(name)
        await publish(parts, name)
        await write_behind.write()
        assert await stored(parts, name) == [4]
