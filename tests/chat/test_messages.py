"""Messages: what is posted by users and published by backends, what it costs, and paging."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import trio

from relay.ground.clock import iso_ms
from relay.ground.errors import Code, RequestError
from tests.chat.acts import BOB, CORA, MIA, code_of, make, messages, publish
from tests.kept import recent
from tests.parts import START_MS, Ear, listening, open_parts, post, user

# -- messages ----------------------------------------------------------------------------------------------------------


async def test_post(tmp_path: Path) -> None:
    """A message is trimmed, stored, counted, and published as the seed shows it, to the sender in its own words."""
    async with open_parts(tmp_path) as parts:
        room = await make(parts)
        parts.clock.ms += 1234
        async with (
            listening(parts, BOB, f"chatroom:{room.id}") as bob,
            listening(parts, CORA, f"chatroom:{room.id}") as me,
        ):
            for ear in (bob, me):
                ear.take()
            posted = await post(parts, CORA, room.id, " \n Hi  there\t", origin=me)
            data = {
                "chatroomId": room.id,
                "messageId": posted.message.id,
                "userId": "cora",
                "message": "Hi  there",
                "timestamp": iso_ms(START_MS + 1234),
            }
            assert bob.take() == [{"type": "chat:message", "offset": 1, "data": data}]
            assert me.take() == [{"own": data, "offset": 1}]
        assert not posted.repeated
        assert re.fullmatch(r"msg_[A-Za-z0-9_-]{16,}", posted.message.id)
        assert (posted.message.text, posted.message.created_at) == ("Hi  there", START_MS + 1234)
        assert (posted.publication.data, posted.publication.offset) == (data, 1)
        after = await parts.rooms.get(BOB, room.id)
        assert (after.message_count, after.last_message_at) == (1, START_MS + 1234)


@pytest.mark.parametrize("text", ["", " \t\n", "\u2003", "x" * 4001, "😀" * 4001])
async def test_text_that_is_refused(tmp_path: Path, text: str) -> None:
    """Empty after trimming, or over 4,000 characters; nothing of it is stored or heard."""
    async with open_parts(tmp_path) as parts:
        room = await make(parts)
        async with listening(parts, BOB, f"chatroom:{room.id}") as bob:
            with pytest.raises(RequestError) as refused:
                await post(parts, CORA, room.id, text)
            assert [problem.field for problem in refused.value.fields] == ["message"]
            assert bob.take() == []
        assert await messages(parts, room.id) == []


async def test_text_of_exactly_the_bounds(tmp_path: Path) -> None:
    """1 and 4,000 characters, counted as characters and after trimming."""
    async with open_parts(tmp_path) as parts:
        room = await make(parts)
        for text in ("x", "😀" * 4000, f"  {'y' * 4000}  "):
            await post(parts, CORA, room.id, text)
        assert await messages(parts, room.id) == ["x", "😀" * 4000, "y" * 4000]


async def test_a_refused_message_leaves_nothing(tmp_path: Path) -> None:
    """Not even a position: the next message is the first."""
    async with open_parts(tmp_path) as parts:
        room = await make(parts, "group")
        assert await code_of(post(parts, BOB, room.id, "x", client_message_id="c")) is Code.FORBIDDEN
        assert (await post(parts, MIA, room.id, "y")).publication.offset == 1
        assert (await parts.rooms.get(MIA, room.id)).message_count == 1
        await parts.rooms.join(BOB, room.id)
        assert not (await post(parts, BOB, room.id, "x", client_message_id="c")).repeated


async def test_a_repeat_counts_once(tmp_path: Path) -> None:
    """Within the period, per user and room, it is answered with the first message, and nobody hears it again."""
    async with open_parts(tmp_path) as parts:
        room, other = await make(parts), await make(parts)
        async with listening(parts, BOB, f"chatroom:{room.id}") as bob:
            first = await post(parts, CORA, room.id, "first", client_message_id="c1")
            parts.clock.ms += 299_000
            again = await post(parts, CORA, room.id, "another text", client_message_id="c1", origin=Ear())
            assert again.repeated
            assert again.message.id == first.message.id
            assert (again.publication.data, again.publication.offset) == (first.publication.data, 1)
            assert [heard["data"]["message"] for heard in bob.take()] == ["first"]
        for who, where in ((BOB, room.id), (CORA, other.id)):
            assert not (await post(parts, who, where, "x", client_message_id="c1")).repeated
        parts.clock.ms += 2_000
        assert not (await post(parts, CORA, room.id, "later", client_message_id="c1")).repeated
    async with open_parts(tmp_path) as parts:  # over a restart, too; the clock is set back
        assert (await post(parts, BOB, room.id, "x", client_message_id="c1")).repeated


async def test_a_repeat_at_the_same_time(tmp_path: Path) -> None:
    """Twenty at once are one."""
    async with open_parts(tmp_path) as parts:
        room = await make(parts)
        ids = set()

        async def post_it() -> None:
            ids.add((await post(parts, CORA, room.id, "x", client_message_id="c")).message.id)

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(post_it)
        assert len(ids) == 1
        assert await messages(parts, room.id) == ["x"]


async def test_a_repeat_by_one_who_was_removed(tmp_path: Path) -> None:
    """The key says nothing about the right."""
    async with open_parts(tmp_path) as parts:
        room = await make(parts, "private")
        await post(parts, MIA, room.id, "x", client_message_id="c")
        await parts.rooms.remove_member(CORA, room.id, "mia")
        assert await code_of(post(parts, MIA, room.id, "x", client_message_id="c")) is Code.NOT_FOUND


@pytest.mark.parametrize("client_id", ["", "x" * 129])
async def test_client_ids_that_are_refused(tmp_path: Path, client_id: str) -> None:
    """1 to 128 characters."""
    async with open_parts(tmp_path) as parts:
        room = await make(parts)
        with pytest.raises(RequestError) as refused:
            await post(parts, CORA, room.id, "x", client_message_id=client_id)
        assert [problem.field for problem in refused.value.fields] == ["clientMessageId"]
        await post(parts, CORA, room.id, "x", client_message_id="x" * 128)


async def test_paging(tmp_path: Path) -> None:
    """Newest first, by offset or from a message on; the latter does not move when more messages come."""
    async with open_parts(tmp_path) as parts:
        await parts.users.seen(user("cora", first_name="Cora"))
        room, other = await make(parts), await make(parts)
        posted = [(await post(parts, CORA, room.id, str(number))).message for number in range(7)]
        foreign = (await post(parts, CORA, other.id, "elsewhere")).message

        async def page(limit: int, offset: int = 0, before: str | None = None) -> tuple[list[str], int]:
            found, total = await parts.messages.page(BOB, room.id, limit=limit, offset=offset, before=before)
            assert all(message.first_name == "Cora" and message.room_id == room.id for message in found)
            return [message.text for message in found], total

        assert await page(3) == (["6", "5", "4"], 7)
        assert await page(3, 6) == (["0"], 7)
        assert await page(3, 7) == ([], 7)
        assert await page(3, before=posted[4].id) == (["3", "2", "1"], 7)
        await post(parts, CORA, room.id, "7")
        assert await page(3, before=posted[4].id) == (["3", "2", "1"], 8)
        assert await page(3, offset=5, before=posted[4].id) == (["3", "2", "1"], 8)
        assert await page(3, before=posted[0].id) == ([], 8)
        for unknown in ("msg_none", foreign.id, ""):
            with pytest.raises(RequestError) as refused:
                await page(3, before=unknown)
            assert [problem.field for problem in refused.value.fields] == ["before"]


class Limit:
    """A limit that counts how often it was spent, and refuses after `allowed`."""

    def __init__(self, allowed: int) -> None:
        self.spent = 0
        self._allowed = allowed

    def __call__(self) -> None:
        """Spend one message."""
        if self.spent == self._allowed:
            raise RequestError(Code.RATE_LIMITED, "You send messages too fast.", retry_after=1.0)
        self.spent += 1


async def test_a_message_that_is_refused_for_its_own_sake_costs_nothing(tmp_path: Path) -> None:
    """Text, client id and right are checked first, and only then is a message spent; what the limit refuses is not published."""
    async with open_parts(tmp_path) as parts:
        room = await make(parts, "private")
        limit = Limit(allowed=1)
        for who, where, text, client_id, code in (
            (MIA, room.id, " ", None, Code.INVALID_REQUEST),
            (MIA, room.id, "x", "", Code.INVALID_REQUEST),
            (BOB, room.id, "x", None, Code.NOT_FOUND),
            (MIA, "nowhere", "x", None, Code.NOT_FOUND),
        ):
            posting = parts.messages.post(who, where, text, limit=limit, client_message_id=client_id)
            assert await code_of(posting) is code
            assert limit.spent == 0
        await parts.messages.post(MIA, room.id, "first", limit=limit)
        assert await code_of(parts.messages.post(MIA, room.id, "second", limit=limit)) is Code.RATE_LIMITED
        assert await messages(parts, room.id) == ["first"]


async def test_the_transaction_checks_the_right_of_a_reader_too(tmp_path: Path) -> None:
    """A sender that is said to be a reader, and lost the right meanwhile, is refused, though the message was spent."""
    async with open_parts(tmp_path) as parts:
        room = await make(parts, "private")
        limit = Limit(allowed=1)
        assert await code_of(parts.messages.post(BOB, room.id, "x", limit=limit, is_reader=True)) is Code.NOT_FOUND
        assert limit.spent == 1
        assert await messages(parts, room.id) == []


# -- messages that a backend publishes ---------------------------------------------------------------------------------


async def test_published_messages_are_messages_of_the_room(tmp_path: Path) -> None:
    """Membership is not asked for; id and time are given, extra fields go through, and a key counts once."""
    async with open_parts(tmp_path) as parts:
        room = await make(parts, "private")
        async with listening(parts, MIA, f"chatroom:{room.id}") as mia:
            mia.take()
            for _ in range(2):
                await publish(
                    parts, f"chatroom:{room.id}", {"userId": "stranger", "message": " Hi ", "extra": [1]}, key="k"
                )
            [heard] = mia.take()
        message_id = heard["data"]["messageId"]
        assert re.fullmatch(r"msg_[A-Za-z0-9_-]{16,}", message_id)
        assert heard["data"] == {
            "userId": "stranger",
            "message": "Hi",
            "extra": [1],
            "chatroomId": room.id,
            "messageId": message_id,
            "timestamp": iso_ms(START_MS),
        }
        [message], total = await parts.messages.page(MIA, room.id, limit=9, offset=0, before=None)
        assert (message.id, message.user_id, message.text, total) == (message_id, "stranger", "Hi", 1)


async def test_published_messages_may_bring_their_id_and_time(tmp_path: Path) -> None:
    """They are kept; an id that is taken refuses that message alone."""
    async with open_parts(tmp_path) as parts:
        room = await make(parts)
        body = {"userId": "u", "message": "x", "messageId": "msg_790", "timestamp": "2025-10-21T12:00:00.000Z"}
        async with listening(parts, MIA, f"chatroom:{room.id}") as mia:
            mia.take()
            outcomes = await publish(parts, f"chatroom:{room.id}", body, body, {"userId": "u", "message": "y"})
            heard = mia.take()
        assert heard[0]["data"] == {**body, "chatroomId": room.id}
        assert [one["data"]["message"] for one in heard] == ["x", "y"]
        assert [one["offset"] for one in heard] == [1, 2]
        assert isinstance(outcomes[1], RequestError)
        assert outcomes[1].code is Code.CONFLICT
        assert (await parts.rooms.get(MIA, room.id)).message_count == 2


async def test_published_to_no_room(tmp_path: Path) -> None:
    """404, and nothing is kept."""
    async with open_parts(tmp_path) as parts:
        for outcome in await publish(parts, "chatroom:nowhere", *[{"userId": "u", "message": "x"}] * 2):
            assert isinstance(outcome, RequestError)
            assert outcome.code is Code.NOT_FOUND
        assert (await recent(parts.broker, parts.namespaces.parse("chatroom:nowhere")))[0].offset == 0


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"message": "x" * 4001}, "message"),
        ({"userId": "a\nb"}, "userId"),
        ({"userId": "x" * 257}, "userId"),
        ({"messageId": 5}, "messageId"),
        ({"messageId": None}, "messageId"),
        ({"messageId": ""}, "messageId"),
        ({"messageId": "x" * 65}, "messageId"),
    ],
)
async def test_published_messages_that_are_refused(tmp_path: Path, fields: dict[str, Any], wrong: str) -> None:
    """What is wrong is named."""
    async with open_parts(tmp_path) as parts:
        room = await make(parts)
        with pytest.raises(RequestError) as refused:
            await publish(parts, f"chatroom:{room.id}", {"userId": "u", "message": "x", **fields})
        assert [problem.field for problem in refused.value.fields] == [wrong]
