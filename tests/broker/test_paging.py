"""Pages of a channel's history: their order, their bounds, and history that is not in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from relay.broker.paging import read_page
from relay.model.publication import Draft, Position
from tests.parts import Parts, open_parts


async def publish(parts: Parts, count: int, data: Any) -> Position:
    """Publish to `community:c`, and return the position of the last one."""
    channel = parts.namespaces.parse("community:c")
    outcomes = await parts.broker.publish_many(
        [Draft(channel, "post:created", data, parts.clock.now_ms()) for _ in range(count)]
    )
    last = outcomes[-1]
    assert not isinstance(last, Exception)
    return last.position


async def offsets(parts: Parts, **asked: Any) -> tuple[list[int], bool | None]:
    """Return the offsets of a page."""
    page = await read_page(parts.broker.channels, parts.namespaces.parse("community:c"), **asked)
    return [publication.offset for publication in page.publications], page.recovered


async def test_pages_of_history_that_is_in_the_store_alone(tmp_path: Path) -> None:
    async with open_parts(tmp_path) as parts:
        head = await publish(parts, 5, {})
        assert parts.broker.channels.get(parts.namespaces.parse("community:c")) is None
        assert await offsets(parts, limit=2) == ([5, 4], None)
        assert await offsets(parts, limit=9, before=4) == ([3, 2, 1], None)
        assert await offsets(parts, limit=9, before=1) == ([], None)
        assert await offsets(parts, limit=2, since=Position(1, head.epoch)) == ([2, 3], True)
        assert await offsets(parts, limit=2, since=head) == ([], True)
        assert await offsets(parts, limit=2, since=Position(1, "other")) == ([1, 2], False)
        assert await offsets(parts, limit=2, since=Position(9, head.epoch)) == ([1, 2], False)


async def test_a_page_is_bounded_in_bytes(tmp_path: Path) -> None:
    """One publication that is larger than the bound is a page of its own."""
    async with open_parts(tmp_path) as parts:
        await publish(parts, 4, {"text": "x" * 30})
        assert await offsets(parts, limit=9, max_bytes=100) == ([4, 3], None)
        await publish(parts, 1, {"text": "x" * 300})
        assert await offsets(parts, limit=9, max_bytes=100) == ([5], None)


async def test_expired_publications_are_on_no_page(tmp_path: Path) -> None:
    async with open_parts(tmp_path) as parts:
        head = await publish(parts, 2, {})
        parts.clock.ms += 2 * 86_400_000
        assert await offsets(parts, limit=9) == ([], None)
        assert await offsets(parts, limit=9, since=Position(0, head.epoch)) == ([], False)
        assert await offsets(parts, limit=9, since=head) == ([], True)
