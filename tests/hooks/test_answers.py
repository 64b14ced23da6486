"""Questions and answers: every form of an answer is a yes, a no, or none at all."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.access.connect_hook import read_principal
from relay.ground.errors import ProtocolError
from relay.hooks.answers import (
    MAX_MESSAGE_CHARACTERS,
    No,
    Question,
    QuestionKind,
    Yes,
    expires_at,
    read,
    read_data,
    read_subscription,
)


def yes(**result: Any) -> Yes:
    answer = read(json.dumps({"result": result}).encode())
    assert isinstance(answer, Yes)
    return answer


def test_a_question_has_what_is_known() -> None:
    assert json.loads(Question(QuestionKind.SUBSCRIBE, user="u", channel="c:1").encode()) == {
        "transport": "http",
        "protocol": "json",
        "encoding": "json",
        "user": "u",
        "channel": "c:1",
    }
    full = Question(
        QuestionKind.PUBLISH,
        "u",
        "c:1",
        "id",
        "live",
        "::1",
        {"cookie": "a"},
        type="t",
        data=b'{"n": 1.50}',
        explaining=True,
    ).encode()
    assert b'"data":{"n": 1.50}' in full, "as it was written"
    assert json.loads(full) == {
        "transport": "websocket",
        "protocol": "json",
        "encoding": "json",
        "client": "id",
        "dialect": "live",
        "address": "::1",
        "headers": {"cookie": "a"},
        "user": "u",
        "channel": "c:1",
        "type": "t",
        "data": {"n": 1.5},
        "why": True,
    }


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"error": {"code": 1, "message": "Not yours."}}, No("Not yours.")),
        ({"error": {"message": "x" * 999}}, No("x" * MAX_MESSAGE_CHARACTERS)),
        ({"error": {"message": 7}}, No("The backend refused this.")),
        ({"error": {}, "result": None}, No("The backend refused this.")),
        ({"error": {"temporary": True}}, No("The backend refused this.", temporary=True)),
        ({"error": {"temporary": "yes"}}, No("The backend refused this.")),
        ({"disconnect": {"code": 4000, "reason": "blocked"}}, No("blocked", disconnect=True)),
    ],
)
def test_each_no(answer: Any, expected: No) -> None:
    assert read(json.dumps(answer).encode()) == expected


@pytest.mark.parametrize(
    "body",
    [
        *(
            b"",
            b"null",
            b"[]",
            b"{}",
            b"true",
            b'"result"',
            b"\xff",
            b'{"result": {}',
            b'{"result": null}',
            b'{"result": true}',
        ),
        *(
            b'{"result": []}',
            b'{"result": {}, "error": {}}',
            b'{"error": "no"}',
            b'{"disconnect": true}',
            b'{"Result": {}}',
        ),
        *(
            b'{"result": {"cache": true}}',
            b'{"result": {"cache": "5"}}',
            b'{"result": {"cache": -1}}',
            b'{"allow": true}',
        ),
    ],
)
def test_an_answer_that_is_none(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        read(body)


KEYS = st.sampled_from(["result", "error", "disconnect", "cache"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner),
    max_leaves=10,
)


@pytest.mark.slow
@given(VALUES)
def test_only_an_object_with_a_result_alone_is_a_yes(value: object) -> None:
    try:
        answer = read(json.dumps(value).encode())
    except ProtocolError:
        return
    assert isinstance(value, dict)
    if isinstance(answer, Yes):
        assert isinstance(value["result"], dict)
        assert value.get("error") is None
        assert value.get("disconnect") is None


def test_the_time_for_which_a_yes_is_kept() -> None:
    assert [yes(**result).cache for result in ({}, {"cache": 0}, {"cache": 1.5}, {"cache": 10**9})] == [0, 0, 1.5, 3600]
    assert yes(cache=60, data=None).cache == 0, "a yes that changes the data is for this data"


def test_the_end_of_a_yes() -> None:
    assert [expires_at(result) for result in ({}, {"expire_at": 0}, {"expire_at": None})] == [None] * 3
    assert expires_at({"expire_at": 1_795_000_000}) == datetime.fromtimestamp(1_795_000_000, UTC)
    values: list[Any] = [True, "1795000000", [], {}, 10**30, "tomorrow"]
    for value in values:
        with pytest.raises(ProtocolError, match="expire_at"):
            expires_at({"expire_at": value})


def test_a_subscription_by_a_backend() -> None:
    token = read_subscription("c:1", "u")(yes(info={"name": "Ada"}))
    token.check("c:1", "u")
    assert (token.info, token.expires_at, token.end_reason.value) == (b'{"name":"Ada"}', None, "backend_expired")
    with pytest.raises(ProtocolError, match="info"):
        read_subscription("c:1", "u")(yes(info="x" * 2000))


def test_the_data_that_a_backend_puts_in_place() -> None:
    assert read_data(yes()) is None
    assert read_data(yes(data=None)) == b"null"
    answer = read(b'{"result": {"data":  {"n": 1.50} }}')
    assert isinstance(answer, Yes)
    assert read_data(answer) == b'{"n": 1.50}'


def test_the_user_that_a_backend_names() -> None:
    assert read_principal(yes()) is None
    assert read_principal(yes(user="")) is None
    user = read_principal(
        yes(user="ann", channels=["orders:1"], is_admin=True, scopes=["admin"], expire_at=1_795_000_000)
    )
    assert user is not None
    assert (user.user_id, user.is_admin, user.scopes, user.channels) == ("ann", False, frozenset(), ("orders:1",))
    assert user.grants.subscribe.match("orders:1")
    for result in ({"user": 7}, {"user": "a\nb"}, {"user": "x" * 257}, {"user": "a", "grants": {"read": []}}):
        with pytest.raises(ProtocolError):
            read_principal(yes(**result))
