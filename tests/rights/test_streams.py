"""Every role against every kind of channel over event streams, by its own credentials and by a ticket."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from tests.http_client import http_client
from tests.rights.test_frames import happen
from tests.rights.world import KEY_ROLES, TOKEN_ROLES, UNKNOWN_ROLES, Cell, World, leaks, open_world, table
from tests.streams import stream

STREAMS = table("""
                  nobody  forged  expired  none  revoked  stranger  removed  member  owner  admin  connect  publish  operator
chatroom/public   401     401     401      401   401      200       200      200     200    200    403      403      403
chatroom/group    401     401     401      401   401      403       403      200     200    200    403      403      403
chatroom/private  401     401     401      401   401      404       404      200     200    200    403      403      403
chatroom/missing  401     401     401      401   401      404       404      404     404    404    403      403      403
user/owner        401     401     401      401   401      403       403      403     200    200    403      403      403
market/BTC        200     401     401      401   401      200       200      200     200    200    403      403      403
trades            200     401     401      401   401      200       200      200     200    200    403      403      403
event/1           200     401     401      401   401      200       200      200     200    200    403      403      403
community/1       401     401     401      401   401      200       200      200     200    200    403      403      403
broadcast         401     401     401      401   401      200       200      200     200    200    403      403      403
task/1            401     401     401      401   401      200       200      200     200    200    403      403      403
nothing/1         400     401     401      401   401      400       400      400     400    400    403      403      403
""")


def name_of(row: str, cell: Cell) -> str:
    """Return the name of a row's channel."""
    kind, _, id_ = row.partition("/")
    if kind == "chatroom":
        id_ = cell.rooms[id_]
    return f"{kind}:{id_}" if id_ else kind


@pytest.mark.slow
async def test_every_role_against_every_channel_of_streams(tmp_path: Path) -> None:
    """A stream is let in or refused by the table, alone or beside a public channel, and what is sent is theirs to know."""
    wrong = []
    with trio.fail_after(60):
        async with open_world(tmp_path) as world:
            cell = await world.cell()
            for row, expected in STREAMS.items():
                name = name_of(row, cell)
                for role in (*UNKNOWN_ROLES, *TOKEN_ROLES, *KEY_ROLES):
                    for names in ([name], ["market:X", name]):
                        async with stream(world.address, names, headers=world.headers(role), last=10) as answer:
                            # A name that does not exist is refused before anyone is asked who they are.
                            status = "400" if row == "nothing/1" else expected[role]
                            if str(answer.status) != status:
                                wrong.append(f"{names}: {role} was answered {answer.status}, not {status}")
                            with trio.move_on_after(0 if answer.status == 200 else 5):
                                await answer.body()
                            # An admin may subscribe to every user's channel, and to no list of notifications.
                            known = {"word-notification"} if role == "admin" else set()
                            if found := set(leaks(role, [answer.text])) - known:
                                wrong.append(f"{names}: {role} was told {found}")
            namespaces = {namespace.name for namespace in world.server.core.namespaces}
    assert not wrong, "\n".join(wrong)
    assert namespaces == {row.partition("/")[0] for row in STREAMS} - {"nothing"}


@pytest.mark.slow
async def test_a_ticket_gives_what_its_token_does(tmp_path: Path) -> None:
    wrong = []
    with trio.fail_after(60):
        async with open_world(tmp_path) as world, http_client(world.address) as http:
            cell = await world.cell()
            for row, expected in STREAMS.items():
                name = name_of(row, cell)
                for role in TOKEN_ROLES:
                    answer = await http.post("/v1/tickets", json={"channels": [name]}, headers=world.headers(role))
                    if answer.status_code != int(expected[role].replace("200", "201")):
                        wrong.append(f"{name}: {role} was answered {answer.status_code} for a ticket")
                    if answer.status_code == 201:
                        ticket = answer.json()["data"]["ticket"]
                        async with stream(world.address, [name], ticket=ticket) as opened:
                            if opened.status != 200:
                                wrong.append(f"{name}: {role} was answered {opened.status} with a ticket")
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
async def test_who_hears_what_over_streams(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with open_world(tmp_path) as world:
            heard = {role: await said_to(world, await world.cell(), role) for role in ("stranger", "member", "owner")}
    for role, said in heard.items():
        assert ("said-message-private" in said) == (role != "stranger")
        assert ("said-notification-owner" in said) == (role == "owner")
        assert "said-market" in said
        assert not leaks(role, [said.encode()])


async def said_to(world: World, cell: Cell, role: str) -> str:
    """Return what a role is told that asks for every channel that it may have, while everything happens."""
    names = [name_of(row, cell) for row, expected in STREAMS.items() if expected[role] == "200"]
    async with stream(world.address, names, headers=world.headers(role)) as taken:
        for _ in names:
            assert (await taken.event())["event"] == "relay:subscribed"
        await happen(world, cell)
        text = ""
        while not ("said-status" in text and "said-market" in text):  # prices come when they may, the rest in order
            await taken.event()
            text = taken.text.decode()
        return text
