"""What a backend sends is checked to the last field before anything is published."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from relay.access import publishing as module
from relay.access.publishing import MAX_ITEM_BYTES, MAX_UNKNOWN_NAMED, Publishing
from relay.ground.errors import Code, RequestError
from relay.model.namespaces import ChannelName, Namespaces
from relay.model.publication import Draft, Published
from relay.store.publications import forget_channel
from tests.parts import START_MS, Parts, admin, listening, open_parts, user


@asynccontextmanager
async def open_publishing(folder: Path) -> AsyncIterator[tuple[Publishing, Parts]]:
    """Open publishing on the parts that it works with."""
    with trio.fail_after(20):
        async with open_parts(folder) as parts:
            yield (
                Publishing(
                    parts.namespaces,
                    parts.broker,
                    parts.messages,
                    parts.notifications,
                    parts.connections,
                    parts.clock,
                    idempotency_period=300.0,
                ),
                parts,
            )


def draft(publishing: Publishing, item: object, *, scope: str = "key:1", size: int = 100) -> Draft:
    """Return the draft of an item."""
    return publishing.draft(item, scope=scope, size=size)


def refusal(publishing: Publishing, item: object, *, size: int = 100) -> RequestError:
    """Return the refusal of an item; it is a failure if there is none."""
    with pytest.raises(RequestError) as refused:
        draft(publishing, item, size=size)
    return refused.value


async def test_an_item_becomes_a_complete_draft(tmp_path: Path) -> None:
    async with open_publishing(tmp_path) as (publishing, _):
        made = draft(publishing, {"channel": "market:btc", "data": {"price": 1.5, "more": [1]}}, size=42)
    assert made.channel.text == "market:BTC"
    assert made.type == "market:price"
    assert made.data == {"symbol": "BTC", "price": 1.5, "more": [1]}
    assert (made.published_ms, made.size) == (START_MS, 42)
    assert made.idempotency is None
    assert made.prepare is None


@pytest.mark.parametrize("item", [{"type": None}, {"type": "market:price"}, {"idempotencyKey": None}])
async def test_type_and_key_may_be_left_out_or_null(tmp_path: Path, item: dict[str, Any]) -> None:
    async with open_publishing(tmp_path) as (publishing, _):
        made = draft(publishing, {"channel": "market:BTC", "data": {"price": 1}, **item})
    assert (made.type, made.idempotency) == ("market:price", None)


async def test_what_was_sent_is_not_changed(tmp_path: Path) -> None:
    item = {"channel": "market:btc", "data": {"price": 1.5}}
    async with open_publishing(tmp_path) as (publishing, _):
        draft(publishing, item)
    assert item == {"channel": "market:btc", "data": {"price": 1.5}}


@pytest.mark.parametrize(
    ("item", "fields"),
    [
        ({}, ["channel", "data"]),
        ({"channel": 1, "data": {}}, ["channel"]),
        ({"channel": None, "data": {}}, ["channel"]),
        ({"channel": "trades"}, ["data"]),
        ({"channel": "trades", "data": []}, ["data"]),
        ({"channel": "trades", "data": "{}"}, ["data"]),
        ({"channel": "trades", "data": None}, ["data"]),
        ({"channel": "trades", "data": {}, "type": 1}, ["type"]),
        ({"channel": "trades", "data": {}, "type": ""}, ["type"]),
        ({"channel": "trades", "data": {}, "idempotencyKey": 1}, ["idempotencyKey"]),
        ({"channel": "trades", "data": {}, "idempotencyKey": ""}, ["idempotencyKey"]),
        ({"channel": "trades", "data": {}, "idempotencyKey": "x" * 129}, ["idempotencyKey"]),
        ({"channel": "trades", "data": {}, "chanel": "x"}, ["chanel"]),
        ({"channel": "trades", "data": {}, "offset": 1, "epoch": "x"}, ["offset", "epoch"]),
        ({"channel": 1, "type": 1, "data": 1, "idempotencyKey": 1, "x": 1},
         ["channel", "type", "data", "idempotencyKey", "x"]),
        ({"channel": "market:BTC", "data": {}}, ["price"]),
        ({"channel": "market:BTC", "data": {"price": True}}, ["price"]),
        ({"channel": "market:BTC", "data": {"price": 1, "symbol": "ETH"}}, ["symbol"]),
        ({"channel": "broadcast", "data": {}}, ["type"]),
        ({"channel": "nothing:1", "data": {}}, ["channel"]),
    ],
)  # fmt: skip
async def test_a_refusal_names_every_field_that_is_wrong(tmp_path: Path, item: object, fields: list[str]) -> None:
    async with open_publishing(tmp_path) as (publishing, _):
        error = refusal(publishing, item)
    assert [problem.field for problem in error.fields] == fields
    assert all(field in error.message or error.code is Code.UNKNOWN_CHANNEL for field in fields)


@pytest.mark.parametrize("item", [None, 1, "trades", [], [{"channel": "trades", "data": {}}]])
async def test_an_item_is_an_object(tmp_path: Path, item: object) -> None:
    async with open_publishing(tmp_path) as (publishing, _):
        assert refusal(publishing, item).code is Code.INVALID_REQUEST


@pytest.mark.parametrize("name", ["", "market", "market:", "trades:1", "chatroom:a b", "event:x", "user:\n"])
async def test_a_channel_that_cannot_be_is_refused(tmp_path: Path, name: str) -> None:
    async with open_publishing(tmp_path) as (publishing, _):
        error = refusal(publishing, {"channel": name, "data": {"price": 1, "message": "x", "ratios": [1]}})
    assert error.code in (Code.INVALID_REQUEST, Code.UNKNOWN_CHANNEL)


async def test_what_is_refused_does_not_come_back_at_any_length(tmp_path: Path) -> None:
    item = {"channel": "trades", "data": {}, **{f"{number}{'x' * 1000}": 1 for number in range(50)}}
    async with open_publishing(tmp_path) as (publishing, _):
        error = refusal(publishing, item)
        long = refusal(publishing, {"channel": "x" * 60_000, "data": {}})
    assert len(error.fields) == MAX_UNKNOWN_NAMED
    assert len(error.message) < 2000
    assert len(long.message) < 1000


async def test_an_item_has_at_most_its_bytes(tmp_path: Path) -> None:
    async with open_publishing(tmp_path) as (publishing, _):
        item = {"channel": "trades", "data": {}}
        assert draft(publishing, item, size=MAX_ITEM_BYTES).size == MAX_ITEM_BYTES
        assert refusal(publishing, item, size=MAX_ITEM_BYTES + 1).code is Code.TOO_LARGE


async def test_an_idempotency_key_counts_within_its_sender_and_channel(tmp_path: Path) -> None:
    async with open_publishing(tmp_path) as (publishing, _):

        def item(channel: str) -> dict[str, Any]:
            data = {"price": 1, "status": "x", "message": "x"}
            return {"channel": channel, "data": data, "idempotencyKey": "k" * 128}

        channels = ("trades", "market:BTC", "task:1", "user:1")
        drafts = [
            draft(publishing, item(channel), scope=scope) for scope in ("key:1", "user:1") for channel in channels
        ]
        first = await publishing.publish_many(drafts)
        again = await publishing.publish_many([draft(publishing, item(channel)) for channel in channels])
    published = [outcome for outcome in first if isinstance(outcome, Published)]
    assert [outcome.position.offset for outcome in published] == [1, 1, 1, 1, 2, 2, 2, 2]
    assert not any(outcome.repeated for outcome in published)
    for earlier, repeat in zip(published, again, strict=False):
        assert isinstance(repeat, Published)
        assert (repeat.position, repeat.repeated) == (earlier.position, True)


async def test_an_idempotency_key_is_not_one_of_another_name_with_spaces(tmp_path: Path) -> None:
    """A channel and a user may have spaces in their names."""
    async with open_publishing(tmp_path) as (publishing, parts):

        def made(channel: str, scope: str) -> Draft:
            return draft(publishing, {"channel": channel, "data": {"status": "x"}, "idempotencyKey": "k"}, scope=scope)

        senders = [("task:a", "user:b user:c"), ("task:a user:b", "user:c")]
        for channel, scope in senders:
            [published] = await publishing.publish_many([made(channel, scope)])
            assert isinstance(published, Published)
            assert not published.repeated
        await parts.database.write(lambda connection: forget_channel(connection, "task:a"))
        outcomes = [await publishing.publish_many([made(channel, scope)]) for channel, scope in senders]
    assert [one.repeated for [one] in outcomes if isinstance(one, Published)] == [False, True]


async def test_a_room_that_was_made_anew_knows_no_keys(tmp_path: Path) -> None:
    """What was published to the one before under a key is no reason to publish nothing to this one."""
    async with open_publishing(tmp_path) as (publishing, parts):
        item = {"channel": "chatroom:r", "data": {"userId": "u", "message": "hi"}, "idempotencyKey": "welcome"}
        for _ in range(2):
            await parts.rooms.create(admin(), name="R", description=None, type_="public", id_="r")
            [outcome] = await publishing.publish_many([draft(publishing, item)])
            assert isinstance(outcome, Published)
            assert not outcome.repeated
            assert (await parts.rooms.get(admin(), "r")).message_count == 1
            await parts.rooms.delete(admin(), "r")


async def test_a_chat_message_becomes_a_message_of_its_room(tmp_path: Path) -> None:
    async with open_publishing(tmp_path) as (publishing, parts):
        room = await parts.rooms.create(admin(), name="Room", description=None, type_="private")
        item = {"channel": f"chatroom:{room.id}", "data": {"userId": "bot", "message": " Hello ", "tone": "warm"}}
        async with listening(parts, admin(), f"chatroom:{room.id}") as ear:
            [outcome] = await publishing.publish_many([draft(publishing, item)])
            [heard] = ear.take()
        messages, total = await parts.messages.page(admin(), room.id, limit=10, offset=0, before=None)
    assert isinstance(outcome, Published)
    assert heard["type"] == "chat:message"
    assert heard["data"]["message"] == "Hello"
    assert heard["data"]["tone"] == "warm"
    assert (total, messages[0].user_id, messages[0].text) == (1, "bot", "Hello")
    assert messages[0].id == heard["data"]["messageId"]


async def test_a_chat_message_to_a_room_that_there_is_not_is_not_published(tmp_path: Path) -> None:
    async with open_publishing(tmp_path) as (publishing, _):
        lost = {"channel": "chatroom:none", "data": {"userId": "bot", "message": "Hello"}}
        other = {"channel": "task:1", "data": {"status": "done"}}
        outcomes = await publishing.publish_many([draft(publishing, item) for item in (lost, other)])
    assert isinstance(outcomes[0], RequestError)
    assert outcomes[0].code is Code.NOT_FOUND
    assert isinstance(outcomes[1], Published)


async def test_another_type_to_a_room_is_published_as_it_is(tmp_path: Path) -> None:
    async with open_publishing(tmp_path) as (publishing, _):
        made = draft(publishing, {"channel": "chatroom:room", "type": "chat:poll", "data": {"question": "?"}})
        [outcome] = await publishing.publish_many([made])
    assert made.data == {"question": "?", "chatroomId": "room"}
    assert isinstance(outcome, Published)


async def test_a_notification_is_stored_with_an_id(tmp_path: Path) -> None:
    async with open_publishing(tmp_path) as (publishing, parts):
        item = {"channel": "user:alice", "data": {"message": "Hello", "priority": "high"}}
        async with listening(parts, user("alice"), "user:alice") as ear:
            await publishing.publish_many([draft(publishing, item)])
            [heard] = ear.take()
        [stored], total = await parts.notifications.list("alice", limit=10, offset=0)
    assert heard["data"]["id"] == stored.id
    assert (total, stored.data["message"], stored.data["priority"]) == (1, "Hello", "high")


async def test_the_order_within_a_channel_is_that_of_the_items(tmp_path: Path) -> None:
    items = [
        {"channel": channel, "data": {"number": number, "status": "x"}}
        for number in range(50)
        for channel in ("trades", "task:1")
    ]
    async with (
        open_publishing(tmp_path) as (publishing, parts),
        listening(parts, admin(), "trades") as trades,
        listening(parts, admin(), "task:1") as tasks,
    ):
        outcomes = await publishing.publish_many([draft(publishing, item) for item in items])
        heard = [[one["data"]["number"] for one in ear.take()] for ear in (trades, tasks)]
    assert heard == [list(range(50))] * 2
    offsets = [outcome.position.offset for outcome in outcomes if isinstance(outcome, Published)]
    assert offsets == [number for number in range(1, 51) for _ in range(2)]


async def test_the_channels_that_are_remembered_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CHANNELS_CACHED", 3)
    parsed = []
    parse = Namespaces.parse

    def counting(namespaces: Namespaces, text: str) -> ChannelName:
        parsed.append(text)
        return parse(namespaces, text)

    monkeypatch.setattr(Namespaces, "parse", counting)
    async with open_publishing(tmp_path) as (publishing, _):
        for _ in range(10):
            draft(publishing, {"channel": "trades", "data": {}})
        assert parsed == ["trades"], "a name is taken apart once"
        for number in range(20):
            draft(publishing, {"channel": f"market:{number}", "data": {"price": 1}})
            assert len(publishing._channels) <= 3
