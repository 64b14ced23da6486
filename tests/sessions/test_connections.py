"""The record of open connections, against a list that does the same slowly."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.ground.errors import RETRY_AFTER, Code, RequestError
from relay.sessions import connections as module
from relay.sessions.connections import ClientConnection, Connections
from tests.fakes import FakeConnection

USERS = ("ann", "bob", "cid")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.just(0), st.just("")),
        st.tuples(st.just("remove"), st.integers(0, 30), st.just("")),
        st.tuples(st.just("identify"), st.integers(0, 30), st.sampled_from(USERS)),
    ),
    max_size=120,
)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_it_holds_what_a_list_holds(steps: list[tuple[str, int, str]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "COMPACT_ENTRIES", 3)
        connections, there = Connections(), list[FakeConnection]()
        ended: list[str] = []
        for step, which, user in steps:
            if step == "add":
                there.append(FakeConnection())
                connections.add(there[-1])
            elif there and step == "identify":
                connections.identify(there[which % len(there)], user)
            elif there:
                gone = there.pop(which % len(there))
                ended.append(connections.id_of(gone))
                connections.remove(gone)
            assert len(connections) == len(there)
            assert list(connections.after(0)) == there
            for connection in there:
                assert connections.get(connections.id_of(connection)) is connection
            assert [id_ for id_ in ended if connections.get(id_) is not None] == []
            by_user = {user: [connection for connection in there if connection.user_id == user] for user in USERS}
            assert {
                user: sorted(connections.of_user(user), key=lambda connection: connection.number) for user in USERS
            } == by_user
            assert connections.user_count == sum(map(bool, by_user.values()))
        middle = there[len(there) // 2].number if there else 0
        assert list(connections.after(middle)) == [connection for connection in there if connection.number > middle]


def test_an_id_of_another_run_or_of_nothing_finds_nothing() -> None:
    connections, connection = Connections(), FakeConnection()
    connections.add(connection)
    id_ = connections.id_of(connection)
    assert connections.get(id_) is connection
    for wrong in (
        "",
        "-",
        "1",
        "0" * 32,
        f"{id_}0",
        f"{id_[:-1]}x",
        f"{id_[:-1]} ",
        f"{id_[:-2]}é",
        f"{id_[:30]}  ",
        id_.upper() if id_.upper() != id_ else "",
        f"{(int(id_, 16) ^ 1):032x}",
        Connections().id_of(connection),
    ):
        assert connections.get(wrong) is None, wrong


def test_a_watcher_is_told_of_users_alone() -> None:
    """It hears when a connection gets a user, when it gets another one, and when it ends; and of no anonymous one."""
    heard: list[tuple[str, str | None]] = []

    class Watcher:
        def identified(self, connection: ClientConnection) -> None:
            heard.append(("identified", connection.user_id))

        def ended(self, connection: ClientConnection) -> None:
            heard.append(("ended", connection.user_id))

    connections, named, anonymous = Connections(), FakeConnection(), FakeConnection()
    connections.watcher = Watcher()
    connections.add(named)
    connections.add(anonymous)
    connections.identify(named, "ann")
    connections.identify(named, "ann")
    connections.identify(named, "bob")
    connections.remove(anonymous)
    connections.remove(named)
    assert heard == [("identified", "ann"), ("ended", "ann"), ("identified", "bob"), ("ended", "bob")]


def test_ids_tell_nothing_of_the_order() -> None:
    connections = Connections()
    peers = [FakeConnection() for _ in range(200)]
    for connection in peers:
        connections.add(connection)
    ids = [connections.id_of(connection) for connection in peers]
    assert len(set(ids)) == len(ids)
    assert len({id_[:4] for id_ in ids}) > 150
    assert [connections.get(id_) for id_ in ids] == peers
    assert all(re.fullmatch(r"[0-9a-f]{32}", id_) for id_ in ids)


def test_a_connection_that_may_not_open_is_told_why() -> None:
    connections = Connections()
    connections.check_open()
    connections.why_closed = lambda: "The server is shutting down."
    with pytest.raises(RequestError, match="shutting down") as refused:
        connections.check_open()
    assert refused.value.code is Code.UNAVAILABLE
    assert refused.value.retry_after == RETRY_AFTER
