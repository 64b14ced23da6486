"""Notifications: published to their user, stored, and marked as read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from relay.ground.errors import Code, RequestError
from tests.chat.acts import publish
from tests.parts import START_MS, Parts, listening, open_parts, user


async def listed(parts: Parts, user_id: str, limit: int = 9, offset: int = 0) -> tuple[list[Any], int]:
    """Return the texts of a user's notifications and whether they were read."""
    found, total = await parts.notifications.list(user_id, limit=limit, offset=offset)
    return [(one.data["message"], one.read_at is not None) for one in found], total


async def test_send(tmp_path: Path) -> None:
    """It reaches its user as the seed shows it, is stored, and is there after a restart."""
    async with open_parts(tmp_path) as parts:
        async with listening(parts, user("bob"), "user:bob") as bob, listening(parts, user("eve"), "user:eve") as eve:
            sent = await parts.notifications.send("bob", title="T <b>", message="M '--", priority="high")
            assert bob.take() == [{"type": "notification:new", "offset": 1, "data": sent}]
            assert eve.take() == []
        assert re.fullmatch(r"notif_[A-Za-z0-9_-]{16,}", sent["id"])
        assert sent == {"id": sent["id"], "title": "T <b>", "message": "M '--", "priority": "high"}
    async with open_parts(tmp_path) as parts:
        [stored], total = await parts.notifications.list("bob", limit=9, offset=0)
        assert (stored.id, stored.data, stored.created_at, stored.read_at, total) == (
            sent["id"],
            sent,
            START_MS,
            None,
            1,
        )
        assert await listed(parts, "eve") == ([], 0)


async def test_priority_is_medium_by_default(tmp_path: Path) -> None:
    """Sent or published."""
    async with open_parts(tmp_path) as parts:
        assert (await parts.notifications.send("bob", title="T", message="M"))["priority"] == "medium"
        async with listening(parts, user("bob"), "user:bob") as bob:
            await publish(parts, "user:bob", {"message": "M", "level": "info"})
            [heard] = bob.take()
        assert heard["data"] == {"id": heard["data"]["id"], "message": "M", "level": "info", "priority": "medium"}


async def test_a_published_notification_is_stored_once(tmp_path: Path) -> None:
    """With the id that it brings; a repeat of its key adds nothing, and an id that is taken refuses that one alone."""
    async with open_parts(tmp_path) as parts:
        body = {"id": "notif_123", "title": None, "message": "M", "priority": "urgent", "url": "/x"}
        async with listening(parts, user("bob"), "user:bob") as bob:
            for _ in range(2):
                await publish(parts, "user:bob", body, key="k")
            assert [heard["data"] for heard in bob.take()] == [body]
            taken, other = await publish(parts, "user:bob", body, {"message": "other"})
            assert isinstance(taken, RequestError)
            assert taken.code is Code.CONFLICT
            assert not isinstance(other, RequestError)
            assert [heard["offset"] for heard in bob.take()] == [2]
        assert await listed(parts, "bob") == ([("other", False), ("M", False)], 2)


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"id": 5}, "id"),
        ({"id": None}, "id"),
        ({"id": ""}, "id"),
        ({"id": "x" * 65}, "id"),
        ({"title": 5}, "title"),
        ({"title": ["T"]}, "title"),
        ({"priority": "huge"}, "priority"),
        ({"priority": None}, "priority"),
        ({"priority": ["high"]}, "priority"),
    ],
)
async def test_published_notifications_that_are_refused(tmp_path: Path, fields: dict[str, Any], wrong: str) -> None:
    """What is wrong is named."""
    async with open_parts(tmp_path) as parts:
        with pytest.raises(RequestError) as refused:
            await publish(parts, "user:bob", {"message": "M", **fields})
        assert [problem.field for problem in refused.value.fields] == [wrong]
        assert await listed(parts, "bob") == ([], 0)


async def test_read(tmp_path: Path) -> None:
    """One by one, or all; another user's is not found, and reading again changes nothing."""
    async with open_parts(tmp_path) as parts:
        sent = [await parts.notifications.send("bob", title="T", message=str(number)) for number in range(3)]
        await parts.notifications.send("eve", title="T", message="eve's")
        parts.clock.ms += 1000
        for _ in range(2):
            read = await parts.notifications.mark_read("bob", sent[1]["id"])
            assert (read.data, read.read_at) == (sent[1], START_MS + 1000)
            parts.clock.ms += 1000
        for user_id, id_ in (("eve", sent[0]["id"]), ("bob", "notif_none"), ("bob", "")):
            with pytest.raises(RequestError) as refused:
                await parts.notifications.mark_read(user_id, id_)
            assert refused.value.code is Code.NOT_FOUND
        assert await listed(parts, "bob") == ([("2", False), ("1", True), ("0", False)], 3)
        assert await parts.notifications.mark_all_read("bob") == 2
        assert await parts.notifications.mark_all_read("bob") == 0
        assert await listed(parts, "bob", limit=2, offset=1) == ([("1", True), ("0", True)], 3)
        assert await listed(parts, "eve") == ([("eve's", False)], 1)


@pytest.mark.parametrize("user_id", ["", "x" * 257, "a\nb"])
async def test_send_to_no_user(tmp_path: Path, user_id: str) -> None:
    """A user need not have been seen, but the id must be one."""
    async with open_parts(tmp_path) as parts:
        with pytest.raises(RequestError) as refused:
            await parts.notifications.send(user_id, title="T", message="M")
        assert refused.value.code is Code.INVALID_REQUEST
