"""Who may subscribe and who may publish, for every audience and every kind of principal; and that the tables are total."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import attrs
import pytest

from relay.access.publishing import Publishing
from relay.access.rules import check_publish, check_subscribe
from relay.chat.rooms import Rooms
from relay.ground.errors import RequestError
from relay.model.namespaces import ChannelName, PublishRule, SubscribeRule
from relay.model.principal import Principal
from tests.parts import Parts, admin, open_parts, user

Check = Callable[[Rooms, Principal | None, ChannelName], Awaitable[None]]

PRINCIPALS: dict[str, Principal | None] = {
    "nobody": None,
    "stranger": user("stranger"),
    "member": user("member"),
    "owner": user("bob"),
    "publisher": Principal("stranger", scopes=frozenset({"publish"}), key_id="k1"),
    "admin": admin(),
}
CHANNELS = {
    SubscribeRule.ANYONE: "market:BTC",
    SubscribeRule.USERS: "community:c1",
    SubscribeRule.OWNER: "user:bob",
    SubscribeRule.ROOM: "chatroom:den",
}
U, F, N = "unauthorized", "forbidden", "not_found"
SUBSCRIBE = {
    #                 nobody stranger member owner publisher admin
    "market:BTC":    ("ok", "ok", "ok", "ok", "ok", "ok"),
    "trades":        ("ok", "ok", "ok", "ok", "ok", "ok"),
    "event:1":       ("ok", "ok", "ok", "ok", "ok", "ok"),
    "community:c1":  (U,    "ok", "ok", "ok", "ok", "ok"),
    "broadcast":     (U,    "ok", "ok", "ok", "ok", "ok"),
    "task:1":        (U,    "ok", "ok", "ok", "ok", "ok"),
    "user:bob":      (U,    F,    F,    "ok", F,    "ok"),
    "chatroom:den":  (U,    N,    "ok", N,    N,    "ok"),
    "chatroom:hall": (U,    "ok", "ok", "ok", "ok", "ok"),
    "chatroom:none": (U,    N,    N,    N,    N,    N),
}  # fmt: skip
PUBLISH = {
    "market:BTC":    (U, F,    F,    F,    "ok", "ok"),
    "trades":        (U, F,    F,    F,    "ok", "ok"),
    "event:1":       (U, F,    F,    F,    "ok", "ok"),
    "community:c1":  (U, F,    F,    F,    "ok", "ok"),
    "broadcast":     (U, F,    F,    F,    "ok", "ok"),
    "task:1":        (U, F,    F,    F,    "ok", "ok"),
    "user:bob":      (U, F,    F,    F,    "ok", "ok"),
    "chatroom:den":  (U, N,    "ok", N,    "ok", "ok"),
    "chatroom:hall": (U, "ok", "ok", "ok", "ok", "ok"),
    "chatroom:none": (U, N,    N,    N,    "ok", N),
}  # fmt: skip


async def make_rooms(parts: Parts) -> None:
    """Make a private room with one member beside its creator, and a public room."""
    creator = admin("creator")
    await parts.rooms.create(creator, name="Den", description=None, type_="private", id_="den")
    await parts.rooms.add_member(creator, "den", "member")
    await parts.rooms.create(creator, name="Hall", description=None, type_="public", id_="hall")


@pytest.mark.parametrize(("check", "expected"), [(check_subscribe, SUBSCRIBE), (check_publish, PUBLISH)])
async def test_every_principal_against_every_kind(
    tmp_path: Path, check: Check, expected: dict[str, tuple[str, ...]]
) -> None:
    async with open_parts(tmp_path) as parts:
        await make_rooms(parts)
        for channel, row in expected.items():
            for (name, principal), outcome in zip(PRINCIPALS.items(), row, strict=True):
                try:
                    await check(parts.rooms, principal, parts.namespaces.parse(channel))
                    got = "ok"
                except RequestError as refusal:
                    got = refusal.code.value
                assert got == outcome, (channel, name)
        assert {kind.name for kind in parts.namespaces} == {channel.partition(":")[0] for channel in expected}


@pytest.mark.parametrize("audience", SubscribeRule)
@pytest.mark.parametrize("publishers", PublishRule)
async def test_the_rules_are_total(tmp_path: Path, audience: SubscribeRule, publishers: PublishRule) -> None:
    """A kind with any pair of rules is decided: an admin may, and nobody publishes without a principal."""
    async with open_parts(tmp_path) as parts:
        await make_rooms(parts)
        channel = parts.namespaces.parse(CHANNELS.get(audience, "community:c1"))
        namespace = attrs.evolve(channel.namespace, subscribe=audience, publish=publishers)
        channel = attrs.evolve(channel, namespace=namespace)
        await check_subscribe(parts.rooms, admin(), channel)
        await check_publish(parts.rooms, admin(), channel)
        with pytest.raises(RequestError, match="Authenticate first"):
            await check_publish(parts.rooms, None, channel)


async def test_what_a_publication_is_stored_as_is_said_by_its_kind(tmp_path: Path) -> None:
    """A kind that has the type of chat messages, but no record, makes no messages: nothing is asked for its fields."""
    async with open_parts(tmp_path) as parts:
        parts.namespaces._namespaces["task"] = attrs.evolve(
            parts.namespaces["task"], default_type="chat:message", check=None
        )
        publishing = Publishing(
            parts.namespaces,
            parts.broker,
            parts.messages,
            parts.notifications,
            parts.connections,
            parts.clock,
            idempotency_period=60.0,
        )
        draft = publishing.draft({"channel": "task:1", "data": {"done": True}}, scope="test", size=10)
        assert draft.type == "chat:message"
        assert draft.prepare is None
        await publishing.publish_many([draft])
        stored = publishing.draft(
            {"channel": "chatroom:hall", "data": {"userId": "bob", "message": "Hello"}}, scope="test", size=10
        )
        assert stored.prepare is not None
