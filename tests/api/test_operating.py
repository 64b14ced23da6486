"""The routes of the console beside those for connections and keys: rooms, history, publishing, nodes, tokens."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any
from urllib.parse import quote

import attrs
import pytest

from tests.api.test_admin import HOSTILE, administered
from tests.clients import connect, live
from tests.running import bearer


async def test_rooms_and_members(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Pages of both, and each change has its line in the log."""
    with caplog.at_level(logging.INFO, "relay.audit"):
        async with administered(tmp_path) as admin:
            ids = [
                (await admin.post("/rooms", 201, name=f"Room {number}", type="private"))["id"] for number in range(3)
            ]
            await admin.post("/rooms", 201, name=HOSTILE)
            page = await admin.get("/rooms", limit=2)
            assert ([one["name"] for one in page["rooms"]], page["total"]) == ([HOSTILE, "Room 2"], 4)
            rest = await admin.get("/rooms", limit=2, cursor=page["cursor"])
            assert ([one["name"] for one in rest["rooms"]], rest["cursor"]) == (["Room 1", "Room 0"], None)
            assert [one["type"] for one in (await admin.get("/rooms", type="group"))["rooms"]] == ["group"]
            path = f"/rooms/{ids[0]}/members"
            for user in ("ada", HOSTILE, "with/slash"):
                await admin.post(path, user=user)
            members = await admin.get(path, limit=3)
            assert [one["userId"] for one in members["members"]][1:] == ["ada", HOSTILE]
            rest = await admin.get(path, cursor=members["cursor"])
            assert ([one["userId"] for one in rest["members"]], rest["cursor"]) == (["with/slash"], None)
            answer = await admin.http.delete(f"/v1/admin{path}/{quote('with/slash')}")
            assert answer.json()["data"]["members"] == 3
            assert (await admin.http.delete(f"/v1/admin{path}/{members['members'][0]['userId']}")).status_code == 409, (
                "the creator"
            )
            assert (await admin.http.get("/v1/admin/rooms/none/members")).status_code == 404
            for body in ({}, {"name": " "}, {"name": "x" * 101}, {"name": "x", "type": "open"}, {"name": "\x1b[31m"}):
                await admin.post("/rooms", 400, **body)
            for body in ({}, {"user": " "}, {"user": "\x1b[31m"}):
                await admin.post(path, 400, **body)
            for query in ("cursor=x", "cursor=-1", "limit=0", "limit=201", "type=open"):
                assert (await admin.http.get(f"/v1/admin/rooms?{query}")).status_code == 400, query
    lines = [record.getMessage() for record in caplog.records]
    assert {"room created", "member added", "member removed"} <= set(lines)


async def test_pages_of_rooms_and_members_skip_and_repeat_nothing_that_stays(tmp_path: Path) -> None:
    async with administered(tmp_path) as admin:
        ids = [(await admin.post("/rooms", 201, name=f"Room {number}", type="group"))["id"] for number in range(6)]
        page = await admin.get("/rooms", limit=3)
        await admin.post("/rooms", 201, name="New")
        gone = await admin.http.delete(f"/v1/chatrooms/{ids[5]}")
        assert gone.status_code == 200
        shown = [one["id"] for one in page["rooms"]]
        while page["cursor"] is not None:
            page = await admin.get("/rooms", limit=2, cursor=page["cursor"])
            shown += [one["id"] for one in page["rooms"]]
        assert shown == ids[::-1]

        users = [f"user-{number}" for number in range(7)]
        path = f"/rooms/{ids[0]}/members"
        for user in users:
            await admin.post(path, user=user)
        page, removed = await admin.get(path, limit=3), []
        while page["members"]:
            for one in page["members"]:
                if one["userId"] in users:
                    await admin.http.delete(f"/v1/admin{path}/{one['userId']}")
                    removed.append(one["userId"])
            if page["cursor"] is None:
                break
            page = await admin.get(path, limit=3, cursor=page["cursor"])
        assert removed == users
        for wrong in ("x", "1-", "-a", f"{'1' * 16}-a", f"1-{'a' * 257}"):
            assert (await admin.http.get(f"/v1/admin{path}?cursor={wrong}")).status_code == 400


async def test_a_member_that_is_removed_loses_the_room(tmp_path: Path) -> None:
    async with administered(tmp_path) as admin, live(admin.address, "ada") as ada:
        room = (await admin.post("/rooms", 201, name="R", type="private"))["id"]
        await admin.post(f"/rooms/{room}/members", user="ada")
        assert (await ada.ask(type="subscribe", channel="chatroom", chatroomId=room))["type"] == "subscribed"
        await admin.http.delete(f"/v1/admin/rooms/{room}/members/ada")
        assert (await ada.until("unsubscribed"))["data"]["reason"] == "no longer a member"


async def test_history_comes_in_pages(tmp_path: Path) -> None:
    """The newest first; a channel that has none has an empty one."""
    async with administered(tmp_path) as admin:
        for number in range(5):
            await admin.publish("community:c1", n=number, text=HOSTILE)
        page = await admin.get("/history", channel="community:c1", limit=3)
        assert [one["data"]["n"] for one in page["publications"]] == [4, 3, 2]
        assert (page["offset"], page["publications"][0]["type"]) == (5, "post:created")
        rest = await admin.get("/history", channel="community:c1", limit=3, cursor=page["cursor"])
        assert ([one["data"]["n"] for one in rest["publications"]], rest["cursor"]) == ([1, 0], None)
        assert (await admin.get("/history", channel="community:none"))["publications"] == []
        for query in ("", "channel=", "channel=nothing:1", "channel=trades&cursor=x"):
            assert (await admin.http.get(f"/v1/admin/history?{query}")).status_code in (400, 404), query


async def test_publish(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As POST /v1/publish, with a line in the log that has no data."""
    with caplog.at_level(logging.INFO, "relay.audit"):
        async with administered(tmp_path) as admin, connect(admin.address, "/api/v1/ws/assets/BTC/price") as feed:
            done = await admin.post("/publish", channel="market:BTC", data={"price": 1.5, "note": "secret-word"})
            assert (done["channel"], done["offset"]) == ("market:BTC", 1)
            assert (await feed.receive())["price"] == 1.5
            for body in ({}, {"channel": "market:BTC"}, {"channel": "market:BTC", "data": 7}):
                await admin.post("/publish", 400, **body)
            await admin.post("/publish", 400, channel="nothing:1", data={})
    assert "secret-word" not in caplog.text
    [line] = [record for record in caplog.records if record.getMessage() == "publish"]
    assert line.name == "relay.audit"


async def test_a_publication_may_be_as_large_as_its_namespace_allows(tmp_path: Path) -> None:
    """On both routes that publish one item; the bodies of other routes keep their bound, and so does this item."""
    large = {"namespaces.large.max_data_bytes": 200_000, "namespaces.large.publish": "users"}
    async with administered(tmp_path, **large) as admin:

        async def status(path: str, **body: Any) -> int:
            return (await admin.http.post(path, json=body)).status_code

        for size, expected in ((199_998, 200), (199_999, 413), (204_096, 413)):
            data = "x" * size
            assert await status("/v1/publish", channel="large:1", data=data) == expected
            assert await status("/v1/admin/publish", channel="large:1", data=data) == expected
            assert await status("/v1/channels/large%3A1/publish", data=data) == expected
        assert await status("/v1/admin/disconnect", user="x" * 65_536) == 413
        admin.server.core.config = attrs.evolve(
            admin.server.core.config, limits=attrs.evolve(admin.server.core.config.limits, max_publish_bytes=70_000)
        )
        assert await status("/v1/admin/publish", channel="large:1", data="x" * 70_000) == 413
        assert await status("/v1/channels/large%3A1/publish", data="x" * 70_000) == 413


async def test_one_connection(tmp_path: Path) -> None:
    async with administered(tmp_path) as admin, live(admin.address, HOSTILE) as ann:
        await ann.ask(type="subscribe", channel="community", communityId="c1")
        [one] = (await admin.get("/connections"))["connections"]
        found = await admin.get(f"/connections/{one['id']}")
        assert (found["userId"], "community:c1" in found["channels"]) == (HOSTILE, True)
        for id_ in ("none", f"{one['id']}0", "x" * 300):
            assert (await admin.http.get(f"/v1/admin/connections/{id_}")).status_code == 404


async def test_a_key_moves_to_a_tier(tmp_path: Path) -> None:
    async with administered(tmp_path) as admin:
        key = await admin.post("/keys", 201, user="back")
        await admin.post(f"/keys/{key['id']}/tier", tier="pro")
        assert "pro" in {one["tier"] for one in (await admin.get("/keys"))["keys"]}
        await admin.post(f"/keys/{key['id']}/tier", 400, tier="gold")
        await admin.post("/keys/key_none/tier", 404, tier="pro")


async def test_a_test_token(tmp_path: Path) -> None:
    """It is a user's, short-lived, and no admin's."""
    async with administered(tmp_path) as admin:
        made = await admin.post("/token", 201, user="tester")
        assert 0 < made["seconds"] <= 600
        async with connect(admin.address, "/v1/live") as client:
            answer = await client.ask(type="auth", token=made["token"])
            assert (answer["type"], answer["data"]["userId"]) == ("auth:success", "tester")
        headers = {"Authorization": f"Bearer {made['token']}"}
        del admin.http.headers["X-API-Key"]
        assert (await admin.http.get("/v1/admin/server", headers=headers)).status_code == 403
        assert (await admin.http.get("/v1/admin/server", headers=bearer("root", admin=True))).status_code == 200


async def test_the_server_and_its_node(tmp_path: Path) -> None:
    async with administered(tmp_path, **{"server.node_name": "one"}) as admin, live(admin.address, "ann"):
        server = await admin.get("/server")
        assert (server["ready"], server["node"], server["signsTokens"]) == (True, "one", True)
        assert server["dialects"] == ["live", "channels", "feeds", "socketio", "sse"]
        [node] = (await admin.get("/nodes"))["nodes"]
        assert (node["name"], node["self"], node["connections"], node["users"]) == ("one", True, 1, 1)
