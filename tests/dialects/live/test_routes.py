"""The REST routes of `live`, asked over real sockets of a real server."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from relay.store import api_keys as keys
from tests.http_client import http_client
from tests.running import bearer, config_for, running
from tests.stores import transaction

ROOMS = "/v1/chatrooms"
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
ODD = """'); DROP TABLE rooms; -- <script>alert("x")</script> %s é😀"""
ROOM_FIELDS = {
    *("id", "name", "description", "type", "memberCount", "activeNow", "lastMessageAt", "createdBy", "createdAt")
}  # fmt: skip


class Http:
    """A server, and the people who ask it."""

    def __init__(self, client: httpx.AsyncClient, folder: Path) -> None:
        self.client = client
        self._folder = folder

    def key(self, *scopes: str) -> dict[str, str]:
        """Make an API key; returns the header that sends it."""
        with transaction(self._folder) as connection:
            _, secret = keys.create(
                connection, prefix="rk", mode="live", user_id="backend", tier="free", scopes=scopes, now_ms=1
            )
        return {"X-API-Key": secret}

    async def ask(
        self, method: str, path: str, who: Mapping[str, str], body: Any = None, *, status: int = 200, **options: Any
    ) -> Any:
        """Send a request and return the answer's body, whose outer form is checked."""
        if body is not None:
            options["json"] = body
        answer = await self.client.request(method, path, headers=who, **options)
        assert answer.status_code == status, answer.text
        decoded = answer.json()
        assert decoded["status"] == status
        assert decoded["success"] is (status < 400)
        if status >= 400:
            assert decoded["message"] == decoded["error"] != ""
            assert decoded["meta"]["errorId"] == decoded["errorId"]
            assert TIME.fullmatch(decoded["meta"]["timestamp"])
            assert decoded["meta"]["version"] == "v1"
        return decoded

    async def make(self, who: Mapping[str, str], **fields: Any) -> str:
        """Create a room; returns its path."""
        made = await self.ask("POST", ROOMS, who, {"name": "Room", **fields}, status=201)
        return f"{ROOMS}/{made['data']['id']}"

    async def wrong(
        self, method: str, path: str, who: Mapping[str, str], body: Any = None, **options: Any
    ) -> list[str]:
        """Send a request that is not valid; returns the fields that it is told about."""
        answer = await self.ask(method, path, who, body, status=400, **options)
        for problem in answer["errors"]:
            assert set(problem) == {"field", "message"}
            assert f"{problem['field']} {problem['message']}" in answer["message"]
        return [problem["field"] for problem in answer["errors"]]


@asynccontextmanager
async def serving(folder: Path, overrides: Mapping[str, Any] | None = None) -> AsyncIterator[Http]:
    """Run a server for the block."""
    async with (
        running(config_for(folder, overrides)) as (_, address),
        http_client(address) as client,
    ):
        yield Http(client, folder)


CORA = bearer("cora", first_name="Cora", last_name="C")
MIA, BOB = bearer("mia"), bearer("bob")
ROOT = bearer("root", admin=True)


# -- who may do what ---------------------------------------------------------------------------------------------------

READ = (("GET", "/messages", None, 200), ("GET", "/members", None, 200), ("POST", "/messages", {"message": "x"}, 201))
SEE = (("GET", "", None, 200), ("POST", "/join", None, 200), ("POST", "/leave", None, 200))
MANAGE = (
    ("PUT", "", {"name": "New"}, 200),
    ("POST", "/members", {"userId": "zoe"}, 200),
    ("DELETE", "/members/mia", None, 200),
    ("DELETE", "", None, 200),
)
STRANGERS = {  # reading, seeing and managing a room of each type
    "public": (None, None, 403),
    "group": (403, None, 403),
    "private": (404, 404, 404),
}


@pytest.mark.slow
@pytest.mark.parametrize("type_", list(STRANGERS))
async def test_every_role_at_every_route(tmp_path: Path, type_: str) -> None:
    """Each role gets what the type of the room gives it, and nothing changes where it is refused."""
    async with serving(tmp_path) as http:
        roles: dict[str, tuple[Mapping[str, str], tuple[int | None, int | None, int | None]]] = {
            "anonymous": ({}, (401, 401, 401)),
            "bad token": ({"Authorization": "Bearer nonsense"}, (401, 401, 401)),
            "bad key": ({"X-API-Key": "rk_live_nonsense"}, (401, 401, 401)),
            "stranger": (BOB, STRANGERS[type_]),
            "member": (MIA, (None, None, 403)),
            "creator": (CORA, (None, None, None)),
            "admin": (ROOT, (None, None, None)),
            "admin key": (http.key("admin"), (None, None, None)),
            "key without scope": (http.key("connect", "publish"), (403, 403, 403)),
            "bad key beside a token": ({**MIA, "X-API-Key": "nonsense"}, (None, None, 403)),
            "admin key beside a token": ({**MIA, **http.key("admin")}, (None, None, 403)),
        }
        for role, (who, refusals) in roles.items():
            for routes, refused in zip((READ, SEE, MANAGE), refusals, strict=True):
                for method, path, body, status in routes:
                    room = await http.make(CORA, type=type_)
                    await http.ask("POST", f"{room}/members", CORA, {"userId": "mia"})
                    before = await http.ask("GET", room, CORA)
                    case = f"{role}: {method} {path}"
                    answer = await http.client.request(method, f"{room}{path}", headers=who, json=body)
                    assert answer.status_code == (refused or status), case
                    if refused:
                        assert await http.ask("GET", room, CORA) == before, case
                    if refused == 401:
                        assert answer.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("room_id", ["room_none", "a%20b", "%F0%9F%98%80", "x" * 300, "%00", "a%0Ab"])
async def test_rooms_that_are_not_there(tmp_path: Path, room_id: str) -> None:
    """404 at every route, for an admin too."""
    async with serving(tmp_path) as http:
        for method, path, body, _ in (*READ, *SEE, *MANAGE):
            await http.ask(method, f"{ROOMS}/{room_id}{path}", ROOT, body, status=404)


async def test_hidden_and_missing_look_alike(tmp_path: Path) -> None:
    """A stranger cannot tell a private room from one that does not exist."""
    async with serving(tmp_path) as http:
        room = await http.make(CORA, type="private")
        for method, path, body, _ in (*READ, *SEE, *MANAGE):
            hidden = await http.ask(method, f"{room}{path}", BOB, body, status=404)
            missing = await http.ask(method, f"{ROOMS}/room_none{path}", BOB, body, status=404)
            assert hidden["message"] == missing["message"]


async def test_listing_by_role(tmp_path: Path) -> None:
    """Private rooms are listed to their members and to admins, and counted for them alone."""
    async with serving(tmp_path) as http:
        for type_ in STRANGERS:
            await http.make(CORA, type=type_, name=type_)
        for who, names in (
            (BOB, ["group", "public"]),
            (CORA, ["private", "group", "public"]),
            (ROOT, ["private", "group", "public"]),
            (http.key("admin"), ["private", "group", "public"]),
        ):
            answer = await http.ask("GET", ROOMS, who)
            assert [room["name"] for room in answer["data"]] == names
            assert answer["pagination"] == {"page": 1, "limit": 20, "total": len(names), "pages": 1}
        await http.ask("GET", ROOMS, {}, status=401)
        await http.ask("POST", ROOMS, {}, {"name": "x"}, status=401)


# -- rooms -------------------------------------------------------------------------------------------------------------


async def test_a_room_from_beginning_to_end(tmp_path: Path) -> None:
    """Created, read, listed, changed, joined, left and deleted: each answer shows the whole room, as the seed does."""
    async with serving(tmp_path) as http:
        body = {"name": ODD, "description": ODD, "type": "group", "extra": 1}
        made = await http.ask("POST", ROOMS, CORA, body, status=201)
        assert set(made) == {"success", "status", "data"}
        room = made["data"]
        assert set(room) == ROOM_FIELDS
        assert re.fullmatch(r"room_[A-Za-z0-9_-]{16,}", room["id"])
        assert TIME.fullmatch(room["createdAt"])
        shown: dict[str, Any] = {"name": ODD, "description": ODD, "type": "group", "createdBy": "cora"}
        shown |= {"memberCount": 1, "activeNow": 0, "lastMessageAt": None}
        assert {name: room[name] for name in shown} == shown
        path = f"{ROOMS}/{room['id']}"
        assert (await http.ask("GET", path, BOB))["data"] == room
        assert (await http.ask("GET", f"{path}/", BOB))["data"] == room
        assert (await http.ask("GET", ROOMS, BOB))["data"] == [room]

        renamed = (await http.ask("PUT", path, CORA, {"name": "N", "createdBy": "bob", "id": "x"}))["data"]
        assert renamed == {**room, "name": "N"}
        assert (await http.ask("PUT", path, CORA, {}))["data"] == renamed
        cleared = (await http.ask("PUT", path, ROOT, {"description": None, "type": "public"}))["data"]
        assert cleared == {**renamed, "description": None, "type": "public"}

        for action, count in (("join", 2), ("join", 2), ("leave", 1), ("leave", 1)):
            answer = await http.ask("POST", f"{path}/{action}", BOB)
            assert answer["data"] == {**cleared, "memberCount": count}

        await http.ask("POST", f"{path}/messages", BOB, {"message": "x"}, status=201)
        assert TIME.fullmatch((await http.ask("GET", path, BOB))["data"]["lastMessageAt"])
        deleted = await http.ask("DELETE", path, CORA)
        assert deleted["message"]
        await http.ask("DELETE", path, CORA, status=404)
        assert (await http.ask("GET", ROOMS, ROOT))["data"] == []


async def test_defaults_and_bounds_of_a_new_room(tmp_path: Path) -> None:
    """The name alone is required."""
    async with serving(tmp_path) as http:
        room = (await http.ask("POST", ROOMS, CORA, {"name": "x" * 100}, status=201))["data"]
        assert (room["name"], room["description"], room["type"]) == ("x" * 100, None, "public")
        empty = (await http.ask("POST", ROOMS, CORA, {"name": "😀" * 100, "description": ""}, status=201))["data"]
        assert (empty["name"], empty["description"]) == ("😀" * 100, "")


async def test_ids_of_an_admins_choice(tmp_path: Path) -> None:
    """An admin may choose an id that is free; others may not choose."""
    async with serving(tmp_path) as http:
        body = {"name": "Lobby", "id": "Lobby_1-a"}
        await http.ask("POST", ROOMS, CORA, body, status=403)
        assert (await http.ask("POST", ROOMS, ROOT, body, status=201))["data"]["id"] == "Lobby_1-a"
        conflict = await http.ask("POST", ROOMS, ROOT, body, status=409)
        assert conflict["errors"] == [{"field": "id", "message": "is taken"}]
        by_key = await http.ask("POST", ROOMS, http.key("admin"), {"name": "x", "id": "k"}, status=201)
        assert (by_key["data"]["id"], by_key["data"]["createdBy"]) == ("k", "backend")
        await http.ask("POST", ROOMS, CORA, {"name": "x", "id": None}, status=201)
        refused: tuple[object, ...] = ("", "a b", " a", "x" * 65, "é", "a/b", 5, ["a"], {})
        for wrong in refused:
            assert await http.wrong("POST", ROOMS, ROOT, {"name": "x", "id": wrong}) == ["id"]


WRONG_TYPES = (5, 1.5, True, ["x"], {"x": "x"})
WRONG: Mapping[str, Iterable[object]] = {
    "name": (*WRONG_TYPES, None, "", "  ", "x" * 101),
    "description": (*WRONG_TYPES, "x" * 2001),
    "type": (*WRONG_TYPES, None, "", "Public", "secret"),
    "message": (*WRONG_TYPES, None, "", " \n", "x" * 4001),
    "clientMessageId": (*WRONG_TYPES, "", "x" * 129),
    "userId": (*WRONG_TYPES, None, "", "x" * 257, "a\nb"),
    "title": (*WRONG_TYPES, None, "", " ", "x" * 201),
    "priority": (*WRONG_TYPES, None, "", "huge"),
}


@pytest.mark.slow
async def test_every_wrong_field_is_named(tmp_path: Path) -> None:
    """Alone, and all together, in one answer."""
    async with serving(tmp_path) as http:
        room = await http.make(CORA)
        send = "/v1/notifications/send"
        valid: dict[tuple[str, str], dict[str, Any]] = {
            ("POST", ROOMS): {"name": "x", "description": "x", "type": "public"},
            ("PUT", room): {"name": "x", "description": "x", "type": "public"},
            ("POST", f"{room}/messages"): {"message": "x", "clientMessageId": "x"},
            ("POST", f"{room}/members"): {"userId": "x"},
            ("POST", send): {"userId": "u", "title": "x", "message": "x", "priority": "low"},
        }
        for (method, path), body in valid.items():
            for field in body:
                for wrong in WRONG[field]:
                    told = await http.wrong(method, path, ROOT, {**body, field: wrong})
                    assert told == [field], (method, path, field, wrong)
            everything = dict.fromkeys(body, 5)
            assert await http.wrong(method, path, ROOT, everything) == list(body)
            if method == "POST":
                required = {"name", "message", "userId", "title"} & body.keys()
                assert set(await http.wrong(method, path, ROOT, {})) == required
        assert (await http.ask("GET", room, CORA))["data"]["name"] == "Room"


UNREADABLE = (
    *(b"", b"{", b"[]", b'"x"', b"null", b"\xff", b"{}x", b'{"name": NaN}', b'{"name": "\\ud800"}'),
    b'{"name":"x","message":"x","userId":"x","n":99999999999999999999}',
)


@pytest.mark.slow
async def test_bodies_that_cannot_be_read(tmp_path: Path) -> None:
    """Malformed JSON and what is no object are 400, another media type 415, one that is too large 413."""
    async with serving(tmp_path) as http:
        room = await http.make(CORA)
        as_json = {**CORA, "Content-Type": "application/json; charset=utf-8"}
        for method, path in (("POST", ROOMS), ("PUT", room), ("POST", f"{room}/messages"), ("POST", f"{room}/members")):
            for content in UNREADABLE:
                await http.ask(method, path, as_json, status=400, content=content)
            await http.ask(method, path, {**CORA, "Content-Type": "text/plain"}, status=415, content=b"{}")
            await http.ask(method, path, CORA, status=415, content=b"{}")
            await http.ask(method, path, as_json, status=413, content=b'{"x":"' + b"x" * 65536 + b'"}')
        fitting = b'{"name":"x","pad":"' + b"x" * 65515 + b'"}'
        assert len(fitting) == 65536
        await http.ask("POST", ROOMS, as_json, status=201, content=fitting)


async def test_methods_that_a_route_does_not_take(tmp_path: Path) -> None:
    """405, in the shape of errors, with what it would take."""
    async with serving(tmp_path) as http:
        room = await http.make(CORA)
        for method, path in (("DELETE", ROOMS), ("PATCH", room), ("PUT", f"{room}/messages"), ("GET", f"{room}/join")):
            await http.ask(method, path, CORA, status=405)
        allowed = (await http.client.request("PATCH", room, headers=CORA)).headers["Allow"]
        assert {"GET", "PUT", "DELETE"} <= set(allowed.split(", "))


# -- paging ------------------------------------------------------------------------------------------------------------


async def test_pages_of_rooms(tmp_path: Path) -> None:
    """Newest first; the limit is 20, and 100 where more is asked for; past the end there is nothing, and that is no error."""
    async with serving(tmp_path) as http:
        for number in range(23):
            await http.make(CORA, name=str(number), type="group" if number % 2 else "public")

        async def page(**query: object) -> tuple[list[str], tuple[int, ...]]:
            answer = await http.ask("GET", ROOMS, BOB, params=query)
            assert set(answer) == {"success", "status", "data", "pagination"}
            assert set(answer["pagination"]) == {"page", "limit", "total", "pages"}
            return [room["name"] for room in answer["data"]], tuple(answer["pagination"].values())

        newest = [str(number) for number in reversed(range(23))]
        assert await page() == (newest[:20], (1, 20, 23, 2))
        assert await page(page=2) == (newest[20:], (2, 20, 23, 2))
        assert await page(page=3) == ([], (3, 20, 23, 2))
        assert await page(page=2, limit=5) == (newest[5:10], (2, 5, 23, 5))
        for large in ("100", "101", "0100", "1" + "0" * 30, "9" * 5000):
            assert await page(limit=large) == (newest, (1, 100, 23, 1))
        assert await page(page=10**9, limit=100) == ([], (10**9, 100, 23, 1))
        assert (await page(page=10**30))[0] == []
        assert await page(type="group", limit=2) == (["21", "19"], (1, 2, 11, 6))
        assert await page(type="private") == ([], (1, 20, 0, 0))


@pytest.mark.slow
async def test_queries_that_are_refused(tmp_path: Path) -> None:
    """A page or limit that is no integer from 1, an unknown type; all of them together."""
    async with serving(tmp_path) as http:
        room = await http.make(CORA)
        for path in (ROOMS, f"{room}/messages", f"{room}/members", "/v1/notifications"):
            for name in ("page", "limit"):
                for wrong in ("0", "-1", "1.5", "x", "", " 1", "1e2", "0x1", "٣", "1_0", "+1", "00"):
                    assert await http.wrong("GET", path, CORA, params={name: wrong}) == [name], (path, name, wrong)
            assert await http.wrong("GET", path, CORA, params={"page": "x", "limit": "0"}) == ["page", "limit"]
        for wrong in ("", "secret", "Public"):
            assert await http.wrong("GET", ROOMS, CORA, params={"type": wrong}) == ["type"]
        query = {"page": "0", "limit": "x", "type": "y"}
        assert await http.wrong("GET", ROOMS, CORA, params=query) == ["page", "limit", "type"]


@pytest.mark.slow
async def test_pages_of_messages(tmp_path: Path) -> None:
    """Newest first, 50 at a time; `before` pages from a message on, and the pagination stays that of the room."""
    async with serving(tmp_path) as http:
        room = await http.make(CORA)
        ids = []
        for number in range(52):
            sent = await http.ask("POST", f"{room}/messages", CORA, {"message": str(number)}, status=201)
            ids.append(sent["data"]["id"])

        async def page(**query: object) -> tuple[list[str], dict[str, int]]:
            answer = await http.ask("GET", f"{room}/messages", BOB, params=query)
            return [message["message"] for message in answer["data"]], answer["pagination"]

        newest = [str(number) for number in reversed(range(52))]
        assert await page() == (newest[:50], {"page": 1, "limit": 50, "total": 52, "pages": 2})
        assert await page(page=2) == (newest[50:], {"page": 2, "limit": 50, "total": 52, "pages": 2})
        assert await page(limit=1000) == (newest, {"page": 1, "limit": 100, "total": 52, "pages": 1})
        assert await page(limit=2, before=ids[5]) == (["4", "3"], {"page": 1, "limit": 2, "total": 52, "pages": 26})
        assert (await page(limit=2, before=ids[5], page=7))[0] == ["4", "3"]
        assert await page(before=ids[0]) == ([], {"page": 1, "limit": 50, "total": 52, "pages": 2})
        assert await http.wrong("GET", f"{room}/messages", BOB, params={"before": "msg_none"}) == ["before"]


# -- messages ----------------------------------------------------------------------------------------------------------


async def test_messages_look_as_in_the_seed(tmp_path: Path) -> None:
    """The answer to posting has no `user`; the list has, null until that user was seen."""
    async with serving(tmp_path) as http:
        room = await http.make(CORA)
        sent = await http.ask("POST", f"{room}/messages", CORA, {"message": f"  {ODD}\n"}, status=201)
        assert set(sent) == {"success", "status", "data"}
        message = sent["data"]
        assert re.fullmatch(r"msg_[A-Za-z0-9_-]{16,}", message["id"])
        assert TIME.fullmatch(message["createdAt"])
        assert message == {
            "id": message["id"],
            "chatroomId": room.rpartition("/")[2],
            "userId": "cora",
            "message": ODD,
            "createdAt": message["createdAt"],
        }
        body = {"channel": f"chatroom:{message['chatroomId']}", "data": {"userId": "unseen", "message": "Hi"}}
        await http.ask("POST", "/v1/publish", ROOT, body)
        listed = (await http.ask("GET", f"{room}/messages", BOB))["data"]
        assert listed[1] == {**message, "user": {"firstName": "Cora", "lastName": "C", "avatar": None}}
        assert listed[0]["userId"] == "unseen"
        assert listed[0]["user"] == {"firstName": None, "lastName": None, "avatar": None}
        await http.ask("GET", ROOMS, bearer("unseen", first_name="U"))
        listed = (await http.ask("GET", f"{room}/messages", BOB))["data"]
        assert listed[0]["user"] == {"firstName": "U", "lastName": None, "avatar": None}


async def test_a_client_message_id_counts_once(tmp_path: Path) -> None:
    """A repeat is answered as the first was, within one user and room."""
    async with serving(tmp_path) as http:
        room, other = await http.make(CORA), await http.make(CORA)
        body = {"message": "x", "clientMessageId": "c 1"}
        first = await http.ask("POST", f"{room}/messages", CORA, body, status=201)
        assert await http.ask("POST", f"{room}/messages", CORA, body, status=201) == first
        assert "clientMessageId" not in first["data"]
        ids = {first["data"]["id"]}
        for who, where, client_id in (
            (BOB, room, "c 1"),
            (CORA, other, "c 1"),
            (CORA, room, "c 1 "),
            (CORA, room, None),
        ):
            again = await http.ask(
                "POST", f"{where}/messages", who, {"message": "x", "clientMessageId": client_id}, status=201
            )
            ids.add(again["data"]["id"])
        assert len(ids) == 5


async def test_the_rate_of_messages(tmp_path: Path) -> None:
    """Past the limit 429 with `Retry-After`; what is refused, for whatever reason, costs nothing, and others are not held up."""
    async with serving(tmp_path, {"limits.messages_per_minute": 3}) as http:
        room, closed = await http.make(CORA), await http.make(CORA, type="group")
        for _ in range(5):
            await http.wrong("POST", f"{room}/messages", BOB, {"message": " "})
            await http.ask("POST", f"{closed}/messages", BOB, {"message": "x"}, status=403)
            await http.ask("POST", f"{ROOMS}/room_none/messages", BOB, {"message": "x"}, status=404)
        for _ in range(3):
            await http.ask("POST", f"{room}/messages", BOB, {"message": "x"}, status=201)
        for _ in range(3):
            answer = await http.client.post(f"{room}/messages", headers=BOB, json={"message": "x"})
            assert answer.status_code == 429
            assert 1 <= int(answer.headers["Retry-After"]) <= 20
        await http.ask("POST", f"{room}/messages", MIA, {"message": "x"}, status=201)
        body = {"channel": f"chatroom:{room.rpartition('/')[2]}", "data": {"userId": "bob", "message": "x"}}
        await http.ask("POST", "/v1/publish", ROOT, [body] * 10)
        assert (await http.ask("GET", f"{room}/messages", BOB))["pagination"]["total"] == 14


# -- members -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "user_id", ["zoe", "auth0|65f", "a/b", "https://idp.example//u/1/", "50%", "a?b#c", "é 😀", "x" * 256]
)
async def test_members_come_and_go(tmp_path: Path, user_id: str) -> None:
    """Whatever a user's id looks like; adding and removing twice is the same as once."""
    async with serving(tmp_path) as http:
        room = await http.make(CORA, type="private")
        added = [(await http.ask("POST", f"{room}/members", CORA, {"userId": user_id}))["data"] for _ in range(2)]
        assert [set(one) == ROOM_FIELDS and one["memberCount"] for one in added] == [2, 2]
        listed = await http.ask("GET", f"{room}/members", bearer(user_id, first_name="Z"))
        assert listed["pagination"] == {"page": 1, "limit": 50, "total": 2, "pages": 1}
        cora, zoe = listed["data"]
        assert TIME.fullmatch(cora["joinedAt"])
        assert (cora["userId"], cora["firstName"], cora["lastName"], cora["avatar"]) == ("cora", "Cora", "C", None)
        assert (zoe["userId"], zoe["firstName"]) == (user_id, "Z")
        quoted = "".join(f"%{byte:02X}" for byte in user_id.encode())
        for _ in range(2):
            removed = await http.ask("DELETE", f"{room}/members/{quoted}", CORA)
            assert removed["data"]["memberCount"] == 1
        await http.ask("GET", room, bearer(user_id), status=404)


async def test_the_creator_cannot_be_removed(tmp_path: Path) -> None:
    """409, for itself and for an admin; it may leave."""
    async with serving(tmp_path) as http:
        room = await http.make(CORA)
        for who in (CORA, ROOT):
            await http.ask("DELETE", f"{room}/members/cora", who, status=409)
        assert (await http.ask("POST", f"{room}/leave", CORA))["data"]["memberCount"] == 0


# -- notifications -----------------------------------------------------------------------------------------------------


async def test_who_may_send_notifications(tmp_path: Path) -> None:
    """An admin, and a key with scope admin or publish."""
    async with serving(tmp_path) as http:
        body = {"userId": "bob", "title": "T", "message": "M"}
        for who, status in (
            ({}, 401),
            (BOB, 403),
            (http.key("connect"), 403),
            (http.key("publish"), 201),
            (http.key("admin"), 201),
            (ROOT, 201),
        ):
            await http.ask("POST", "/v1/notifications/send", who, body, status=status)
        assert (await http.ask("GET", "/v1/notifications", BOB))["pagination"]["total"] == 3


async def test_notifications_from_beginning_to_end(tmp_path: Path) -> None:
    """Sent, listed newest first to their user alone, and marked as read one by one or all."""
    async with serving(tmp_path) as http:
        notifications = "/v1/notifications"
        sent = []
        for priority in ("low", "medium", "high", "urgent", None):
            body = {"userId": "bob", "title": ODD, "message": ODD} | ({"priority": priority} if priority else {})
            sent.append((await http.ask("POST", f"{notifications}/send", ROOT, body, status=201))["data"])
        assert [one["priority"] for one in sent] == ["low", "medium", "high", "urgent", "medium"]
        await http.ask("POST", "/v1/publish", ROOT, {"channel": "user:bob", "data": {"message": "untitled", "read": 1}})

        answer = await http.ask("GET", notifications, BOB)
        assert answer["pagination"] == {"page": 1, "limit": 50, "total": 6, "pages": 1}
        newest = answer["data"][0]
        assert (newest["title"], newest["message"], newest["read"]) == (None, "untitled", False)
        assert TIME.fullmatch(newest["createdAt"])
        for shown, one in zip(answer["data"][1:], reversed(sent), strict=True):
            assert re.fullmatch(r"notif_[A-Za-z0-9_-]{16,}", one["id"])
            assert shown == {**one, "read": False, "createdAt": shown["createdAt"]}
            assert (one["title"], one["message"]) == (ODD, ODD)
        assert (await http.ask("GET", notifications, MIA))["data"] == []
        assert (await http.ask("GET", notifications, ROOT))["data"] == []
        await http.ask("GET", notifications, {}, status=401)

        path = f"{notifications}/{sent[0]['id']}/read"
        assert (await http.ask("PUT", path, BOB))["data"] == {**answer["data"][5], "read": True}
        await http.ask("PUT", path, MIA, status=404)
        await http.ask("PUT", path, ROOT, status=404)
        await http.ask("PUT", path, {}, status=401)
        await http.ask("PUT", f"{notifications}/notif_none/read", BOB, status=404)
        listed = (await http.ask("GET", notifications, BOB, params={"limit": 2, "page": 3}))["data"]
        assert [one["read"] for one in listed] == [False, True]
        await http.ask("PUT", f"{notifications}/read-all", {}, status=401)
        assert (await http.ask("PUT", f"{notifications}/read-all", MIA))["data"] == {"updated": 0}
        assert (await http.ask("PUT", f"{notifications}/read-all", BOB))["data"] == {"updated": 5}
        assert {one["read"] for one in (await http.ask("GET", notifications, BOB))["data"]} == {True}
