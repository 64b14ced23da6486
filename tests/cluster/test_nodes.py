"""Several nodes in this process over one PostgreSQL: what happens on one is the same on all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from relay.ground.errors import Reason
from tests.actions import join, make_room, publish
from tests.clients import Client, live
from tests.cluster.nodes import eventually, nodes
from tests.http_client import http_client
from tests.running import bearer


async def chat(client: Client, number: int) -> list[tuple[int, str]]:
    """Return the next messages of a room: offset and text of each."""
    messages = [await client.until("chat:message") for _ in range(number)]
    return [(message["offset"], message["data"]["message"]) for message in messages]


@pytest.mark.slow
async def test_a_message_reaches_the_other_node(tmp_path: Path) -> None:
    """With its offset, and the sender's own copy once."""
    async with nodes(tmp_path, 2) as (one, two):
        room = await make_room(one.address)
        async with live(one.address, "alice") as alice, live(two.address, "bob") as bob:
            await join(alice, room)
            await join(bob, room)
            await alice.send(type="chat:send", chatroomId=room, message="Hi", clientMessageId="c1")
            assert await chat(bob, 1) == [(1, "Hi")]
            assert (await alice.until("chat:message"))["data"]["clientMessageId"] == "c1"
            await bob.send(type="chat:send", chatroomId=room, message="Ho")
            assert await chat(alice, 1) == [(2, "Ho")]
            assert await chat(bob, 1) == [(2, "Ho")]
            await alice.nothing()
            await bob.nothing()


@pytest.mark.slow
async def test_one_order_on_three_nodes(tmp_path: Path) -> None:
    """Senders on every node, one room: each node's reader sees the same messages in the same order, dense."""
    each, senders = 30, 4
    async with nodes(tmp_path, 3) as started:
        room = await make_room(started[0].address)
        seen: dict[int, list[tuple[int, str]]] = {}

        async def read(index: int, address: str) -> None:
            async with live(address, f"reader{index}") as reader:
                await join(reader, room)
                joined[index].set()
                seen[index] = await chat(reader, each * senders * 3)
                await reader.nothing()

        async def send(address: str, name: str) -> None:
            async with live(address, name) as sender:
                for number in range(each):
                    await sender.send(type="chat:send", chatroomId=room, message=f"{name} {number}")
                    await sender.until("chat:message")

        joined = [trio.Event() for _ in started]
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for index, node in enumerate(started):
                    nursery.start_soon(read, index, node.address)
                for event in joined:
                    await event.wait()
                for index, node in enumerate(started):
                    for number in range(senders):
                        nursery.start_soon(send, node.address, f"sender{index}-{number}")
        assert [offset for offset, _ in seen[0]] == list(range(1, each * senders * 3 + 1))
        assert seen[0] == seen[1] == seen[2]
        for name in {text.split()[0] for _, text in seen[0]}:
            own = [int(text.split()[1]) for _, text in seen[0] if text.split()[0] == name]
            assert own == list(range(each))


@pytest.mark.slow
async def test_a_large_publication_is_fetched(tmp_path: Path) -> None:
    """A notification has no room for it; those before and after it keep their places."""
    async with nodes(tmp_path, 2) as (one, two), live(two.address, "bob") as bob:
        await bob.ask(type="subscribe", channel="broadcast")
        sizes = [10, 20_000, 10, 7_700, 7_800, 7_900, 10, 50_000]
        items = [{"channel": "broadcast", "type": "word", "data": {"text": "x" * size, "size": size}} for size in sizes]
        await publish(one.address, items)
        found = [await bob.until("word") for _ in sizes]
        assert [message["data"]["size"] for message in found] == sizes
        assert [message["offset"] for message in found] == list(range(1, len(sizes) + 1))
        assert two.server.broker.channels.named("broadcast") is not None


@pytest.mark.slow
async def test_text_of_every_kind_crosses(tmp_path: Path) -> None:
    """Also what PostgreSQL does not store as it is."""
    texts = ["\0", "\ufffe", "a\nb\r\u2028", "é", "😀", '"\\', "1" * 30]
    async with nodes(tmp_path, 2) as (one, two), live(two.address, "bob") as bob:
        await bob.ask(type="subscribe", channel="broadcast")
        await publish(
            one.address,
            [{"channel": "broadcast", "type": "word", "data": {"text": text, "n": 2**60}} for text in texts],
        )
        found = [(await bob.until("word"))["data"] for _ in texts]
        assert found == [{"text": text, "n": 2**60} for text in texts]


@pytest.mark.slow
async def test_a_client_resumes_on_another_node(tmp_path: Path) -> None:
    """Also one whose position is ahead of what that node has delivered."""
    async with nodes(tmp_path, 2) as (one, two):
        room = await make_room(one.address)
        async with live(two.address, "bob") as bob:
            await join(bob, room)  # so that the second node has the channel in memory
            for number in range(5):
                async with http_client(one.address, headers=bearer("alice")) as http:
                    await http.post(f"/v1/chatrooms/{room}/messages", json={"message": str(number)})
                async with live(one.address, "carol") as carol:
                    position = await join(carol, room)
                async with live(two.address, "carol") as carol:
                    since = {"offset": position["offset"], "epoch": position["epoch"]}
                    answer = await join(carol, room, since=since)
                    assert answer["recovered"] is True
                    assert answer["offset"] == number + 1
                async with live(two.address, "carol") as carol:
                    answer = await join(carol, room, since={"offset": 0, "epoch": position["epoch"]})
                    assert answer["recovered"] is True
                    assert await chat(carol, number + 1) == [(n + 1, str(n)) for n in range(number + 1)]


@pytest.mark.slow
async def test_a_client_ahead_of_the_bus_resumes(tmp_path: Path) -> None:
    """The node asks the database before it says that it cannot."""
    async with nodes(tmp_path, 2) as (one, two), live(two.address, "bob") as bob:
        await bob.ask(type="subscribe", channel="broadcast")
        delivery = two.server.core.metrics  # the bus of the second node hears nothing for a while
        assert delivery is not None
        inside = two.server.cluster
        assert inside is not None
        inside.delivery.take = lambda node, lines: None  # type: ignore[method-assign]
        [published] = await publish(one.address, [{"channel": "broadcast", "type": "word", "data": {"text": "x"}}])
        async with live(two.address, "carol") as carol:
            since = {"offset": published["offset"], "epoch": published["epoch"]}
            answer = await carol.ask(type="subscribe", channel="broadcast", since=since)
            assert answer["data"]["recovered"] is True
        assert (await bob.until("word"))["offset"] == published["offset"]


@pytest.mark.slow
async def test_prices_of_two_nodes_have_one_order(tmp_path: Path) -> None:
    """Kinds that SQLite writes behind go through the database, too."""
    async with nodes(tmp_path, 2) as (one, two), live(one.address, "a") as a, live(two.address, "b") as b:
        for client in (a, b):
            await client.ask(type="subscribe", channel="trades")
        async with trio.open_nursery() as nursery:
            for index, node in enumerate((one, two)):
                items = [{"channel": "trades", "data": {"node": index, "n": n}} for n in range(20)]
                nursery.start_soon(publish, node.address, items)
        found = [[await client.until("trade:created") for _ in range(40)] for client in (a, b)]
        assert [message["offset"] for message in found[0]] == list(range(1, 41))
        assert found[0] == found[1]


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
async def test_typing_crosses(tmp_path: Path, victim: int) -> None:
    """A signal is not stored, and reaches the other node's subscribers."""
    async with nodes(tmp_path, 2) as started:
        first, second = started[victim], started[1 - victim]
        room = await make_room(first.address)
        async with live(first.address, "alice") as alice, live(second.address, "bob") as bob:
            await join(alice, room)
            await join(bob, room)
            await bob.send(type="chat:typing", chatroomId=room, isTyping=True)
            assert (await alice.until("chat:typing"))["data"]["userId"] == "bob"
            await bob.send(type="ping")
            while (message := await bob.receive())["type"] != "pong":
                assert message["type"] == "user:online"  # of alice, whose entry may cross with bob's


@pytest.mark.slow
async def test_rights_and_rooms_end_on_every_node(tmp_path: Path) -> None:
    """A removed member, a closed room and a deleted room."""
    async with (
        nodes(tmp_path, 2) as (one, two),
        http_client(one.address, headers=bearer("alice")) as http,
    ):
        room = await make_room(one.address, type="group")
        await http.post(f"/v1/chatrooms/{room}/members", json={"userId": "bob"})
        public = await make_room(one.address)
        async with live(two.address, "bob") as bob:
            await join(bob, room)
            await join(bob, public)
            answer = await http.delete(f"/v1/chatrooms/{room}/members/bob")
            assert answer.status_code < 300, answer.text
            lost = await bob.until("unsubscribed")
            assert lost["data"]["chatroomId"] == room
            answer = await http.put(f"/v1/chatrooms/{public}", json={"type": "private"})
            assert answer.status_code < 300, answer.text
            assert (await bob.until("unsubscribed"))["data"]["chatroomId"] == public
            other = await make_room(one.address)
            await join(bob, other)
            assert (await http.delete(f"/v1/chatrooms/{other}")).status_code < 300
            assert (await bob.until("chatroom:deleted"))["data"]["chatroomId"] == other


@pytest.mark.slow
async def test_each_node_says_its_name(tmp_path: Path) -> None:
    """In `/readyz`, and `/metrics` counts the nodes."""
    async with nodes(tmp_path, 2) as (one, two), http_client() as http:
        for index, node in enumerate((one, two)):
            answer = await http.get(f"http://{node.address}/readyz")
            assert answer.json() == {"status": "ready", "node": f"node{index}"}

        def two_nodes() -> bool:
            inside: Any = one.server.cluster
            return len(inside.node.names) == 2

        await eventually(two_nodes)
        text = (await http.get(f"http://{one.address}/metrics")).text
        assert "relay_nodes 2.0" in text
        assert "relay_bus_connected 1.0" in text


@pytest.mark.slow
async def test_an_operator_disconnects_a_user_on_every_node(tmp_path: Path) -> None:
    async with nodes(tmp_path, 2) as (one, two), live(two.address, "bob") as bob, live(one.address, "eve") as eve:
        ended = await one.server.core.all_nodes.disconnect(user_id="bob", connection_id=None, reason=Reason.RECONNECT)
        assert ended == (1, [])
        assert (await bob.closed())[0] == 1012
        assert (await eve.ask(type="ping"))["type"] == "pong"


@pytest.mark.slow
async def test_nodes_tell_the_others_what_they_carry(tmp_path: Path) -> None:
    """An operator who asks one of them sees the connections of all, and the state of the bus."""
    async with nodes(tmp_path, 2) as (one, two), live(two.address, "bob"), http_client() as http:
        headers, found = bearer("root", admin=True), dict[str, Any]()
        with trio.fail_after(10):
            while [node.get("connections") for node in found.get("nodes", [])] not in ([0, 1], [1, 0]):
                found = (await http.get(f"http://{one.address}/v1/admin/nodes", headers=headers)).json()["data"]
                await trio.sleep(0.05)
        told = {node["name"]: (node["self"], node["connections"], node["users"]) for node in found["nodes"]}
        assert told == {"node0": (True, 0, 0), "node1": (False, 1, 1)}
        assert found["bus"]["connected"]
        assert 0 < found["bus"]["lease"] <= 8
