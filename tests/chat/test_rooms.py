"""Rooms: rights, members, and what happens to those who listen."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from relay.ground.errors import Code
from relay.model.principal import Principal
from relay.store.rooms import Room, RoomType
from tests.chat.acts import BOB, CORA, MIA, ROOT, code_of, make, messages
from tests.kept import recent
from tests.parts import START_MS, Ear, Parts, admin, listening, open_parts, post, user

TYPES: tuple[RoomType, ...] = ("public", "group", "private")
MEMBERS_ONLY: tuple[RoomType, ...] = ("group", "private")


# -- rights ------------------------------------------------------------------------------------------------------------

WAYS_TO_READ: list[Callable[[Parts, Principal, str], Awaitable[Any]]] = [
    lambda parts, who, room: parts.rooms.readable(who, room),
    lambda parts, who, room: post(parts, who, room, "x"),
    lambda parts, who, room: parts.messages.page(who, room, limit=1, offset=0, before=None),
    lambda parts, who, room: parts.rooms.members(who, room, limit=1, offset=0),
]
WAYS_TO_SEE: list[Callable[[Parts, Principal, str], Awaitable[Any]]] = [
    lambda parts, who, room: parts.rooms.get(who, room),
    lambda parts, who, room: parts.rooms.leave(who, room),
    lambda parts, who, room: parts.rooms.join(who, room),
]
WAYS_TO_MANAGE: list[Callable[[Parts, Principal, str], Awaitable[Any]]] = [
    lambda parts, who, room: parts.rooms.update(who, room, {"name": "x"}),
    lambda parts, who, room: parts.rooms.add_member(who, room, "zoe"),
    lambda parts, who, room: parts.rooms.remove_member(who, room, "zoe"),
    lambda parts, who, room: parts.rooms.delete(who, room),
]


@pytest.mark.parametrize("type_", TYPES)
async def test_who_may_do_what(tmp_path: Path, type_: RoomType) -> None:
    """Public: everyone reads; group: members, the rest is told so; private: the rest is told nothing. Managing: creator, admin."""
    reads = {"public": None, "group": Code.FORBIDDEN, "private": Code.NOT_FOUND}
    sees = {"public": None, "group": None, "private": Code.NOT_FOUND}
    manages = {"public": Code.FORBIDDEN, "group": Code.FORBIDDEN, "private": Code.NOT_FOUND}
    async with open_parts(tmp_path) as parts:
        for who, read, see, manage in (
            (BOB, reads[type_], sees[type_], manages[type_]),
            (MIA, None, None, Code.FORBIDDEN),
            (CORA, None, None, None),
            (ROOT, None, None, None),
        ):
            for ways, expected in ((WAYS_TO_READ, read), (WAYS_TO_SEE, see), (WAYS_TO_MANAGE, manage)):
                for number, way in enumerate(ways):
                    room = await make(parts, type_)
                    assert await code_of(way(parts, who, room.id)) is expected, (who.user_id, number)


@pytest.mark.parametrize("room_id", ["room_none", "", "a b", "../x", "x" * 300, "é", "\0"])
async def test_a_room_that_is_not_there(tmp_path: Path, room_id: str) -> None:
    """What no room is called, or could be, is not found, for an admin too."""
    async with open_parts(tmp_path) as parts:
        for way in (*WAYS_TO_READ, *WAYS_TO_SEE, *WAYS_TO_MANAGE):
            assert await code_of(way(parts, ROOT, room_id)) is Code.NOT_FOUND


async def test_listing_shows_what_one_sees_newest_first(tmp_path: Path) -> None:
    """A private room is listed to its members, its creator and admins; a type filters; the total counts what is visible."""
    async with open_parts(tmp_path) as parts:
        for type_ in TYPES:
            await make(parts, type_, name=type_)

        async def listed(who: Principal, type_: RoomType | None = None, limit: int = 9, offset: int = 0) -> Any:
            rooms, total = await parts.rooms.visible(who, type_=type_, limit=limit, offset=offset)
            return [room.name for room in rooms], total

        for who in (CORA, MIA, ROOT):
            assert await listed(who) == (["private", "group", "public"], 3)
            assert await listed(who, "private") == (["private"], 1)
        assert await listed(BOB) == (["group", "public"], 2)
        assert await listed(BOB, "private") == ([], 0)
        assert await listed(BOB, limit=1, offset=1) == (["public"], 2)
        assert await listed(BOB, limit=1, offset=9) == ([], 2)


# -- rooms -------------------------------------------------------------------------------------------------------------


async def test_create(tmp_path: Path) -> None:
    """A new room has an unguessable id and its creator as a member, and what it was given comes back as it was, also later."""
    name = "'); DROP TABLE rooms; -- <script>alert(1)</script> é😀"
    async with open_parts(tmp_path) as parts:
        created = await parts.rooms.create(CORA, name=name, description="", type_="group")
        assert re.fullmatch(r"room_[A-Za-z0-9_-]{16,}", created.id)
        assert created == Room(created.id, name, "", "group", "cora", START_MS, 1, 0, None)
        other = await parts.rooms.create(CORA, name=name, description=None, type_="group")
        assert other.id != created.id
    async with open_parts(tmp_path) as parts:
        assert await parts.rooms.get(CORA, created.id) == created
        assert await parts.rooms.get(CORA, other.id) == other


async def test_an_admin_may_choose_the_id(tmp_path: Path) -> None:
    """Only an admin may; an id that is taken is a conflict that leaves the first room alone."""

    def create(parts: Parts, who: Principal, id_: str) -> Awaitable[Room]:
        return parts.rooms.create(who, name="x", description=None, type_="public", id_=id_)

    async with open_parts(tmp_path) as parts:
        assert await code_of(create(parts, CORA, "lobby")) is Code.FORBIDDEN
        assert (await create(parts, ROOT, "lobby")).id == "lobby"
        assert await code_of(create(parts, admin("other"), "lobby")) is Code.CONFLICT
        assert (await parts.rooms.get(ROOT, "lobby")).created_by == "root"
        assert (await create(parts, ROOT, "x" * 64)).id == "x" * 64
        for wrong in ("", "x" * 65, "a b", "a:b", "é", "a/b", "a\n"):
            assert await code_of(create(parts, ROOT, wrong)) is Code.INVALID_REQUEST


async def test_update_changes_what_it_names(tmp_path: Path) -> None:
    """Each field alone, none, and all."""
    async with open_parts(tmp_path) as parts:
        room = await make(parts)
        assert (await parts.rooms.update(CORA, room.id, {})) == room
        named = await parts.rooms.update(CORA, room.id, {"name": "New"})
        assert (named.name, named.description, named.type) == ("New", None, "public")
        described = await parts.rooms.update(ROOT, room.id, {"description": "D"})
        assert (described.name, described.description, described.type) == ("New", "D", "public")
        changed = await parts.rooms.update(CORA, room.id, {"description": None, "type": "private", "name": "P"})
        assert (changed.name, changed.description, changed.type, changed.member_count) == ("P", None, "private", 2)
        assert await parts.rooms.get(CORA, room.id) == changed


@pytest.mark.parametrize("type_", MEMBERS_ONLY)
async def test_a_room_that_closes_ends_the_subscriptions_of_strangers(tmp_path: Path, type_: RoomType) -> None:
    """Members and admins go on to listen; whoever has no right any more is told so, and hears nothing after."""
    async with open_parts(tmp_path) as parts:
        room = await make(parts)
        channel = f"chatroom:{room.id}"
        async with (
            listening(parts, BOB, channel) as bob,
            listening(parts, MIA, channel) as mia,
            listening(parts, ROOT, channel) as root,
        ):
            for ear in (bob, mia, root):
                ear.take()
            await parts.rooms.update(CORA, room.id, {"name": "still public"})
            assert bob.take() == []
            await parts.rooms.update(CORA, room.id, {"type": type_})
            await post(parts, CORA, room.id, "secret")
            assert [heard.get("revoked") for heard in bob.take()] == [channel]
            for ear in (mia, root):
                assert [heard["data"]["message"] for heard in ear.take()] == ["secret"]
            assert parts.presence.users(parts.namespaces.parse(channel)) == ["mia", "root"]


async def test_a_right_that_is_lost_while_it_is_looked_up(tmp_path: Path) -> None:
    """A subscription that is only asked for ends with the right, too: nothing of the room is delivered to it."""
    async with open_parts(tmp_path) as parts:
        room = await make(parts)
        ear = Ear()
        with parts.broker.attach(ear, lambda publication: publication.json) as subscriber:
            parts.broker.identify(subscriber, Principal("bob"))
            name = parts.namespaces.parse(f"chatroom:{room.id}")
            with parts.broker.reserved(subscriber, [name], maximum=10) as [subscription]:
                await parts.rooms.readable(BOB, room.id)
                await parts.rooms.update(CORA, room.id, {"type": "private"})
                assert subscription.ended


async def test_delete(tmp_path: Path) -> None:
    """Subscribers are told, then lose their subscription; nothing of the room is left, and a new one of its id begins empty."""
    async with open_parts(tmp_path) as parts:
        await parts.rooms.create(ROOT, name="x", description=None, type_="public", id_="lobby")
        async with listening(parts, BOB, "chatroom:lobby") as bob, listening(parts, ROOT, "chatroom:lobby") as root:
            first = await post(parts, BOB, "lobby", "old", client_message_id="c1")
            for ear in (bob, root):
                ear.take()
            await parts.rooms.delete(ROOT, "lobby")
            for ear in (bob, root):
                told, revoked = ear.take()
                assert told == {"type": "chatroom:deleted", "offset": 0, "data": {"chatroomId": "lobby"}}
                assert revoked["revoked"] == "chatroom:lobby"
            assert await code_of(post(parts, BOB, "lobby", "x")) is Code.NOT_FOUND
            # A repeat must not be told that a message stands which is gone.
            assert await code_of(post(parts, BOB, "lobby", "old", client_message_id="c1")) is Code.NOT_FOUND
            for ear in (bob, root):
                assert ear.take() == []
        tables = ("rooms", "members", "messages", "publications", "idempotency")
        left = await parts.database.read(
            lambda connection: [connection.execute(f"SELECT * FROM {table}").fetchall() for table in tables]
        )
        assert left == [[], [], [], [], []]
        assert parts.rooms.active_now("lobby") == 0

        again = await parts.rooms.create(ROOT, name="y", description=None, type_="public", id_="lobby")
        assert (again.member_count, again.message_count, again.last_message_at) == (1, 0, None)
        posted = await post(parts, BOB, "lobby", "new", client_message_id="c1")
        assert not posted.repeated
        # The old position must never be answered with what is new.
        assert posted.publication.offset == first.publication.offset + 1
        position, kept = await recent(parts.broker, parts.namespaces.parse("chatroom:lobby"))
        assert ([publication.offset for publication in kept], position.offset) == ([2], 2)
        assert await messages(parts, "lobby") == ["new"]


# -- members -----------------------------------------------------------------------------------------------------------


async def test_join_and_leave_are_idempotent(tmp_path: Path) -> None:
    """Joining twice counts once, leaving twice too, and each answers the room as it is then."""
    async with open_parts(tmp_path) as parts:
        for type_ in ("public", "group"):
            room = await make(parts, type_)
            assert [(await parts.rooms.join(BOB, room.id)).member_count for _ in range(2)] == [3, 3]
            assert (await parts.rooms.readable(BOB, room.id)).member_count == 3
            assert [(await parts.rooms.leave(BOB, room.id)).member_count for _ in range(2)] == [2, 2]
            assert [(await parts.rooms.leave(ROOT, room.id)).member_count for _ in range(2)] == [2, 2]


async def test_members_are_listed_in_the_order_in_which_they_joined(tmp_path: Path) -> None:
    """With their names, where they were seen."""
    async with open_parts(tmp_path) as parts:
        await parts.users.seen(user("mia", first_name="Mia", last_name="M", avatar="https://a"))
        room = await make(parts)
        parts.clock.ms += 5
        await parts.rooms.add_member(CORA, room.id, "ann")
        parts.clock.ms += 5
        await parts.rooms.add_member(CORA, room.id, "mia")  # she is one already
        members, total = await parts.rooms.members(BOB, room.id, limit=9, offset=0)
        assert [member.user_id for member in members] == ["cora", "mia", "ann"]
        assert total == 3
        assert (members[1].first_name, members[1].last_name, members[1].avatar) == ("Mia", "M", "https://a")
        assert (members[2].first_name, members[2].joined_at) == (None, START_MS + 5)
        page, total = await parts.rooms.members(BOB, room.id, limit=1, offset=2)
        assert ([member.user_id for member in page], total) == (["ann"], 3)


@pytest.mark.parametrize("type_", TYPES)
@pytest.mark.parametrize("how", ["removed", "left"])
async def test_who_is_no_member_any_more(tmp_path: Path, type_: RoomType, how: str) -> None:
    """It loses its subscription where only members may read, and none where everyone may; other members lose nothing."""
    async with open_parts(tmp_path) as parts:
        room = await make(parts, type_)
        channel = f"chatroom:{room.id}"
        async with listening(parts, MIA, channel) as mia, listening(parts, CORA, channel) as cora:
            for ear in (mia, cora):
                ear.take()
            if how == "left":
                await parts.rooms.leave(MIA, room.id)
            else:
                await parts.rooms.remove_member(CORA, room.id, "mia")
            await post(parts, CORA, room.id, "after")
            assert [heard["data"]["message"] for heard in cora.take()] == ["after"]
            heard = mia.take()
            if type_ == "public":
                assert [one["data"]["message"] for one in heard] == ["after"]
            else:
                assert [one.get("revoked") for one in heard] == [channel]
                assert heard[0]["reason"]
                refused = Code.FORBIDDEN if type_ == "group" else Code.NOT_FOUND
                assert await code_of(parts.rooms.readable(MIA, room.id)) is refused


async def test_an_admin_that_is_removed_listens_on(tmp_path: Path) -> None:
    """An admin needs no membership."""
    async with open_parts(tmp_path) as parts:
        room = await make(parts, "private")
        await parts.rooms.add_member(CORA, room.id, "root")
        async with listening(parts, ROOT, f"chatroom:{room.id}") as root:
            await parts.rooms.remove_member(CORA, room.id, "root")
            await post(parts, CORA, room.id, "x")
            assert [heard["type"] for heard in root.take()] == ["chat:message"]


async def test_the_creator_leaves_only_by_itself(tmp_path: Path) -> None:
    """It cannot be removed; having left it sees and manages the room, reads nothing, and may join again."""
    async with open_parts(tmp_path) as parts:
        room = await make(parts, "private")
        for who in (CORA, ROOT):
            assert await code_of(parts.rooms.remove_member(who, room.id, "cora")) is Code.CONFLICT
        assert (await parts.rooms.leave(CORA, room.id)).member_count == 1
        assert await code_of(parts.rooms.readable(CORA, room.id)) is Code.FORBIDDEN
        assert (await parts.rooms.update(CORA, room.id, {"name": "N"})).name == "N"
        assert [one.id for one in (await parts.rooms.visible(CORA, type_=None, limit=9, offset=0))[0]] == [room.id]
        await parts.rooms.join(CORA, room.id)
        assert (await parts.rooms.readable(CORA, room.id)).member_count == 2


async def test_many_join_and_leave_at_once(tmp_path: Path) -> None:
    """The count of members is right whatever runs at the same time."""
    async with open_parts(tmp_path) as parts:
        room = await make(parts)
        async with trio.open_nursery() as nursery:
            for number in range(60):
                nursery.start_soon(parts.rooms.join, user(f"u{number % 30}"), room.id)
                nursery.start_soon(parts.rooms.leave, user(f"u{number % 30}"), room.id)
        members, total = await parts.rooms.members(ROOT, room.id, limit=100, offset=0)
        assert len(members) == total


async def test_active_now_counts_users(tmp_path: Path) -> None:
    """Two connections of one user are one."""
    async with open_parts(tmp_path) as parts:
        room = await make(parts)
        channel = f"chatroom:{room.id}"
        assert parts.rooms.active_now(room.id) == 0
        async with listening(parts, BOB, channel), listening(parts, BOB, channel), listening(parts, MIA, channel):
            assert parts.rooms.active_now(room.id) == 2
        assert parts.rooms.active_now(room.id) == 0
