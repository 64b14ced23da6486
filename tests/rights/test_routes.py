"""Every role against every REST route: what each is answered, and that no answer tells anyone what is not theirs.

The table is total: a route that is not in it fails the test, and so does one of it that there is not.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import pytest
import trio

from tests.http_client import HttpConnection, http_connection
from tests.rights.world import ROOM_TYPES, Cell, World, leaks, open_world, table

# `*` is whoever is nobody. {member} is a user, {note} the owner's notification, {page} one of the handbook; the rooms are the owner's.
ROUTES = table("""
                                                 *   stranger removed member owner admin connect publish operator
GET /v1/chatrooms                               401    200     200     200    200   200    403     403     200
GET /v1/chatrooms?type=private                  401    200     200     200    200   200    403     403     200
GET /v1/chatrooms?type=group&limit=1            401    200     200     200    200   200    403     403     200
POST /v1/chatrooms                              401    201     201     201    201   201    403     403     201
POST /v1/chatrooms own-id                       401    403     403     403    403   201    403     403     201
GET /v1/chatrooms/{public}                      401    200     200     200    200   200    403     403     200
GET /v1/chatrooms/{group}                       401    200     200     200    200   200    403     403     200
GET /v1/chatrooms/{private}                     401    404     404     200    200   200    403     403     200
GET /v1/chatrooms/{missing}                     401    404     404     404    404   404    403     403     404
PUT /v1/chatrooms/{public}                      401    403     403     403    200   200    403     403     200
PUT /v1/chatrooms/{group}                       401    403     403     403    200   200    403     403     200
PUT /v1/chatrooms/{private}                     401    404     404     403    200   200    403     403     200
PUT /v1/chatrooms/{missing}                     401    404     404     404    404   404    403     403     404
DELETE /v1/chatrooms/{public}                   401    403     403     403    200   200    403     403     200
DELETE /v1/chatrooms/{group}                    401    403     403     403    200   200    403     403     200
DELETE /v1/chatrooms/{private}                  401    404     404     403    200   200    403     403     200
DELETE /v1/chatrooms/{missing}                  401    404     404     404    404   404    403     403     404
POST /v1/chatrooms/{public}/join                401    200     200     200    200   200    403     403     200
POST /v1/chatrooms/{group}/join                 401    200     200     200    200   200    403     403     200
POST /v1/chatrooms/{private}/join               401    404     404     200    200   200    403     403     200
POST /v1/chatrooms/{missing}/join               401    404     404     404    404   404    403     403     404
POST /v1/chatrooms/{public}/leave               401    200     200     200    200   200    403     403     200
POST /v1/chatrooms/{group}/leave                401    200     200     200    200   200    403     403     200
POST /v1/chatrooms/{private}/leave              401    404     404     200    200   200    403     403     200
POST /v1/chatrooms/{missing}/leave              401    404     404     404    404   404    403     403     404
GET /v1/chatrooms/{public}/members              401    200     200     200    200   200    403     403     200
GET /v1/chatrooms/{group}/members               401    403     403     200    200   200    403     403     200
GET /v1/chatrooms/{private}/members             401    404     404     200    200   200    403     403     200
GET /v1/chatrooms/{missing}/members             401    404     404     404    404   404    403     403     404
POST /v1/chatrooms/{public}/members             401    403     403     403    200   200    403     403     200
POST /v1/chatrooms/{group}/members              401    403     403     403    200   200    403     403     200
POST /v1/chatrooms/{private}/members            401    404     404     403    200   200    403     403     200
POST /v1/chatrooms/{missing}/members            401    404     404     404    404   404    403     403     404
DELETE /v1/chatrooms/{public}/members/{member}  401    403     403     403    200   200    403     403     200
DELETE /v1/chatrooms/{group}/members/{member}   401    403     403     403    200   200    403     403     200
DELETE /v1/chatrooms/{private}/members/{member}  401   404     404     403    200   200    403     403     200
DELETE /v1/chatrooms/{private}/members/{owner}  401    404     404     403    409   409    403     403     409
DELETE /v1/chatrooms/{missing}/members/{member}  401   404     404     404    404   404    403     403     404
GET /v1/chatrooms/{public}/messages             401    200     200     200    200   200    403     403     200
GET /v1/chatrooms/{group}/messages              401    403     403     200    200   200    403     403     200
GET /v1/chatrooms/{private}/messages            401    404     404     200    200   200    403     403     200
GET /v1/chatrooms/{missing}/messages            401    404     404     404    404   404    403     403     404
GET /v1/chatrooms/{public}/messages before      401    400     400     400    400   400    403     403     400
POST /v1/chatrooms/{public}/messages            401    201     201     201    201   201    403     403     201
POST /v1/chatrooms/{group}/messages             401    403     403     201    201   201    403     403     201
POST /v1/chatrooms/{private}/messages           401    404     404     201    201   201    403     403     201
POST /v1/chatrooms/{missing}/messages           401    404     404     404    404   404    403     403     404
GET /v1/notifications                           401    200     200     200    200   200    403     403     200
POST /v1/notifications/send                     401    403     403     403    403   201    403     201     201
PUT /v1/notifications/{note}/read               401    404     404     404    200   404    403     403     404
PUT /v1/notifications/read-all                  401    200     200     200    200   200    403     403     200
POST /v1/publish room                           401    403     403     403    403   200    403     200     200
POST /v1/publish notification                   401    403     403     403    403   200    403     200     200
GET /metrics                                    401    403     403     403    403   200    403     403     200
GET /healthz                                    200    200     200     200    200   200    200     200     200
GET /readyz                                     200    200     200     200    200   200    200     200     200
GET /docs                                       200    200     200     200    200   200    200     200     200
GET /docs/{page}                                200    200     200     200    200   200    200     200     200
GET /docs/style.css                             200    200     200     200    200   200    200     200     200
GET /relay.js                                   200    200     200     200    200   200    200     200     200
GET /relay.d.ts                                 200    200     200     200    200   200    200     200     200
GET /docs/screens/{picture}                     200    200     200     200    200   200    200     200     200
GET /demo                                       404    404     404     404    404   404    404     404     404
GET /demo/demo.js                               404    404     404     404    404   404    404     404     404
GET /demo/demo.css                              404    404     404     404    404   404    404     404     404
GET /demo/icon.svg                              404    404     404     404    404   404    404     404     404
GET /socket.io/                                 200    200     200     200    200   200    200     200     200
POST /socket.io/                                400    400     400     400    400   400    400     400     400
PUT /socket.io/                                 400    400     400     400    400   400    400     400     400
PATCH /socket.io/                               400    400     400     400    400   400    400     400     400
DELETE /socket.io/                              400    400     400     400    400   400    400     400     400
POST /api/{method}                              401    403     403     403    403   200    403     403     200
POST /api/{method} publish                      401    403     403     403    403   200    403     200     200
GET /v1/admin/connections                       401    403     403     403    403   200    403     403     200
GET /v1/admin/connections?channel=nothing       401    403     403     403    403   400    403     403     400
GET /v1/admin/channels                          401    403     403     403    403   200    403     403     200
GET /v1/admin/busiest                           401    403     403     403    403   200    403     403     200
POST /v1/admin/reload                           401    403     403     403    403   200    403     403     200
GET /v1/admin/limits                            401    403     403     403    403   200    403     403     200
POST /v1/admin/why                              401    403     403     403    403   200    403     403     200
POST /v1/admin/disconnect                       401    403     403     403    403   200    403     403     200
POST /v1/admin/unsubscribe                      401    403     403     403    403   200    403     403     200
GET /v1/admin/keys                              401    403     403     403    403   200    403     403     200
POST /v1/admin/keys                             401    403     403     403    403   201    403     403     201
DELETE /v1/admin/keys/{key}                     401    403     403     403    403   404    403     403     404
GET /v1/admin/connections/{connection}          401    403     403     403    403   404    403     403     404
GET /v1/admin/history?channel=trades            401    403     403     403    403   200    403     403     200
POST /v1/admin/publish                          401    403     403     403    403   200    403     403     200
GET /v1/admin/server                            401    403     403     403    403   200    403     403     200
GET /v1/admin/nodes                             401    403     403     403    403   200    403     403     200
POST /v1/admin/token                            401    403     403     403    403   201    403     403     201
POST /v1/admin/keys/{key}/tier                  401    403     403     403    403   404    403     403     404
GET /v1/admin/rooms                             401    403     403     403    403   200    403     403     200
POST /v1/admin/rooms                            401    403     403     403    403   201    403     403     201
GET /v1/admin/rooms/{private}/members           401    403     403     403    403   200    403     403     200
POST /v1/admin/rooms/{private}/members          401    403     403     403    403   200    403     403     200
DELETE /v1/admin/rooms/{private}/members/{member}  401    403     403     403    403   200    403     403     200
GET /console                                    404    404     404     404    404   404    404     404     404
GET /console/{file}                             404    404     404     404    404   404    404     404     404
GET /console/session                            404    404     404     404    404   404    404     404     404
POST /console/session                           404    404     404     404    404   404    404     404     404
DELETE /console/session                         404    404     404     404    404   404    404     404     404
GET /v1/admin/webhooks                          401    403     403     403    403   200    403     403     200
GET /v1/admin/webhooks/{hook}/deliveries        401    403     403     403    403   404    403     403     404
POST /v1/admin/webhooks/{hook}/test             401    403     403     403    403   404    403     403     404
POST /v1/admin/webhooks/{hook}/replay           401    403     403     403    403   404    403     403     404
POST /v1/admin/webhooks/{hook}/discard          401    403     403     403    403   404    403     403     404
POST /v1/admin/webhooks/{hook}/enable           401    403     403     403    403   404    403     403     404
GET /openapi.json                               200    200     200     200    200   200    200     200     200
GET /asyncapi.json                              200    200     200     200    200   200    200     200     200
GET /                                           200    200     200     200    200   200    200     200     200
GET /v1/channels/{room}/history                 401    404     404     200    200   200    403     403     200
GET /v1/channels/{room}/presence                401    404     404     200    200   200    403     403     200
POST /v1/channels/{channel}/publish             401    403     403     403    403   200    403     200     200
POST /v1/tickets                                401    201     201     201    201   201    403     403     403
GET /nothing                                    404    404     404     404    404   404    404     404     404
""")

TOLD = {
    "GET /v1/chatrooms": ("word-public-name", "word-group-name"),
    **{f"GET /v1/chatrooms/{{{type_}}}": (f"word-{type_}-name",) for type_ in ROOM_TYPES},
    **{f"GET /v1/chatrooms/{{{type_}}}/messages": (f"word-{type_}-text",) for type_ in ROOM_TYPES},
    "GET /v1/channels/{room}/history": ("word-private-text",),
}
"""What those who are answered 200 must have been told: a search that can find nothing would prove nothing."""

BODIES: dict[str, Any] = {
    "POST /v1/chatrooms": {"name": "New"},
    "POST /v1/chatrooms own-id": {"name": "New", "id": "chosen"},
    "PUT /v1/chatrooms/{}": {"name": "word-changed"},
    "POST /v1/chatrooms/{}/members": {"userId": "guest"},
    "POST /v1/chatrooms/{}/messages": {"message": "Hello"},
    "POST /api/{method}": {},
    "POST /api/{method} publish": {"channel": "market:BTC", "data": {"price": 1}},
    "POST /v1/admin/why": {"user": "owner", "channel": "user:owner"},
    "POST /v1/admin/disconnect": {"user": "nobody-here"},
    "POST /v1/admin/unsubscribe": {"user": "nobody-here", "channel": "trades"},
    "POST /v1/admin/keys": {"user": "guest"},
    "POST /v1/admin/publish": {"channel": "market:BTC", "data": {"price": 1}},
    "POST /v1/admin/token": {"user": "guest"},
    "POST /v1/admin/keys/{key}/tier": {"tier": "pro"},
    "POST /v1/admin/rooms": {"name": "New"},
    "POST /v1/admin/rooms/{}/members": {"user": "guest"},
    "POST /console/session": {"key": "rk_live_wrong"},
    "POST /v1/channels/{channel}/publish": {"data": {"price": 1}},
    "POST /v1/tickets": {"channels": ["market:BTC"]},
    "POST /v1/notifications/send": {"userId": "guest", "title": "T", "message": "M"},
}


def body_of(row: str, cell: Cell) -> Any:
    """Return the body of a row's request."""
    if row == "POST /v1/publish room":
        return {"channel": f"chatroom:{cell.rooms['private']}", "data": {"userId": "owner", "message": "Hi"}}
    if row == "POST /v1/publish notification":
        return {"channel": "user:guest", "data": {"message": "M"}}
    return BODIES.get(re.sub(r"\{(public|group|private|missing)\}", "{}", row))


def path_of(row: str, cell: Cell) -> str:
    """Return the path of a row's request."""
    named = {"member": "member", "owner": "owner", "note": cell.notification, "page": "security", "key": "key_nothing"}
    named |= {"hook": "nothing"}
    named |= {"room": f"chatroom:{cell.rooms['private']}", "channel": "market:BTC"}
    named |= {"connection": "none-1", "file": "app.js", "picture": "overview-light.webp"}
    method = "publish" if row.endswith(" publish") else "info"
    path = row.split()[1].format(**cell.rooms, **named, method=method)
    if row.endswith(" before"):
        path += f"?before={cell.private_message}"
    if path == "/socket.io/":
        path += "?EIO=4&transport=polling"
    return path


async def ask(connection: HttpConnection, row: str, cell: Cell) -> tuple[int, bytes]:
    """Make a row's request; returns the status and what was said."""
    return await connection.request_bytes(row.split()[0], path_of(row, cell), body_of(row, cell))


async def check(world: World, role: str, connection: HttpConnection, cell: Cell) -> tuple[list[str], Cell]:
    """Make every request of a role; returns what was wrong, and the cell that the next role may go on with."""
    wrong = []
    state = await world.state(cell)

    async def nothing_changed(before: str) -> None:
        if await world.state(cell) != state:
            wrong.append(f"{role} was refused, and changed something before {before}")

    for row, expected in ROUTES.items():
        may_change = not row.startswith("GET") and "/socket.io/" not in row
        if may_change and expected[role] < "400":
            await nothing_changed(row)
        status, said = await ask(connection, row, cell)
        if str(status) != expected[role]:
            wrong.append(f"{row}: {role} was answered {status}, not {expected[role]}: {said[:200]!r}")
        if found := leaks(role, [said]):
            wrong.append(f"{row}: {role} was told {found}")
        if status == 200 and (missing := [word for word in TOLD.get(row, ()) if word.encode() not in said]):
            wrong.append(f"{row}: {role} was not told {missing}")
        if may_change and status < 400:
            if row == "PUT /v1/notifications/read-all" and role != "owner":
                await nothing_changed("their own notifications were read")
            if row == "POST /v1/chatrooms own-id":
                await connection.request_bytes("DELETE", "/v1/chatrooms/chosen", None)
            cell = await world.cell()
            state = await world.state(cell)
    await nothing_changed("the end")
    return wrong, cell


@pytest.mark.slow(8)
async def test_every_role_against_every_route(tmp_path: Path) -> None:
    """Each is answered what the table says, is told nothing that is not theirs, and changes nothing where it is refused."""
    with trio.fail_after(60):
        async with open_world(tmp_path) as world:
            cell, wrong = await world.cell(), []
            for role in ROUTES["GET /v1/chatrooms"]:
                async with http_connection(world.address, world.headers(role)) as connection:
                    found, cell = await check(world, role, connection, cell)
                    wrong += found
    assert not wrong, "\n".join(wrong)


async def test_what_is_hidden_is_not_counted_either(tmp_path: Path) -> None:
    """How many rooms there are is how many one sees, with whatever filter."""
    with trio.fail_after(20):
        async with open_world(tmp_path) as world:
            await world.cell()
            for role in ("stranger", "removed", "member", "owner", "admin", "operator"):
                async with http_connection(world.address, world.headers(role)) as connection:
                    for query, all_there_are in (
                        ("", 3),
                        ("?type=private", 1),
                        ("?type=group", 1),
                        ("?type=public", 1),
                    ):
                        _, body = await connection.request("GET", f"/v1/chatrooms{query}")
                        hidden = role in ("stranger", "removed") and query in ("", "?type=private")
                        assert (len(body["data"]), body["pagination"]["total"]) == (all_there_are - hidden,) * 2, (
                            role,
                            query,
                        )


async def test_the_table_has_every_route_that_there_is(tmp_path: Path) -> None:
    """A route that is added must say here who may do what by it; HEAD is GET without the body."""
    async with open_world(tmp_path) as world:
        app = cast(Any, world.server.http).asgi._app.app
        there = {
            f"{method} {re.sub('<[^>]*>', '<>', rule.rule)}"
            for rule in app.url_map.iter_rules()
            for method in rule.methods - {"HEAD", "OPTIONS"}
        }
    named = (" ".join(row.split()[:2]).partition("?")[0] for row in ROUTES)
    listed = {re.sub(r"\{[^}]*\}", "<>", row) for row in named} - {"GET /nothing"}
    there.remove("GET /v1/sse")  # streams have a table of their own, in `test_streams`
    assert there - listed == set(), "routes without a row in ROUTES"
    assert listed - there == set(), "rows without a route"


@pytest.mark.slow
async def test_head_is_answered_as_get_is(tmp_path: Path) -> None:
    """Another method is no other way in."""
    with trio.fail_after(20):
        async with open_world(tmp_path) as world:
            cell = await world.cell()
            for role in ("nobody", "stranger", "member", "publish"):
                async with http_connection(world.address, world.headers(role)) as connection:
                    for row in [row for row in ROUTES if row.startswith("GET /v1")]:
                        status, said = await connection.request_bytes("HEAD", path_of(row, cell), None)
                        assert (str(status), said) == (ROUTES[row][role], b""), (row, role)
