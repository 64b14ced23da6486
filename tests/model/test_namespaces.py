"""The kinds of channel, against the table of what each requires, fills in and keeps."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relay.config.namespaces import BuiltInConfig, NamespaceConfig
from relay.ground.errors import Code, RefusalReason, RequestError
from relay.model import namespaces as module
from relay.model.data_checks import is_number
from relay.model.namespaces import (
    MAX_ID_CHARACTERS,
    ChannelName,
    Namespaces,
    PublishRule,
    SubscribeRule,
    complete,
)

PERIOD = 86400.0
KINDS = Namespaces(entities=["task", "order"], history_period=PERIOD, durable=())
VALID: dict[str, dict[str, Any]] = {
    "chatroom:a": {"userId": "u", "message": "m"},
    "user:u": {"message": "m"},
    "market:BTC": {"price": 1.5},
    "trades": {},
    "event:7": {"ratios": [0.65, 0.35]},
    "community:c": {},
    "task:1": {"status": "done"},
}


def refusal(channel: str, type_: str | None, data: dict[str, Any]) -> RequestError:
    """Return how a publication is refused."""
    with pytest.raises(RequestError) as caught:
        complete(KINDS.parse(channel), type_, data)
    assert caught.value.code is Code.INVALID_REQUEST
    return caught.value


@pytest.mark.parametrize(
    ("channel", "default_type", "audience", "durable", "history_size", "history_period", "latest"),
    [
        ("chatroom:a", "chat:message", SubscribeRule.ROOM, True, 1000, PERIOD, False),
        ("user:u", "notification:new", SubscribeRule.OWNER, True, 200, PERIOD, False),
        ("market:BTC", "market:price", SubscribeRule.ANYONE, False, 1, None, True),
        ("trades", "trade:created", SubscribeRule.ANYONE, False, 500, PERIOD, False),
        ("event:7", "chart:updated", SubscribeRule.ANYONE, False, 500, PERIOD, True),
        ("community:c", "post:created", SubscribeRule.USERS, True, 100, PERIOD, False),
        ("task:1", "status:updated", SubscribeRule.USERS, True, 100, PERIOD, False),
        ("order:1", "status:updated", SubscribeRule.USERS, True, 100, PERIOD, False),
        ("broadcast", None, SubscribeRule.USERS, True, 100, PERIOD, False),
    ],
)
def test_the_table(
    channel: str,
    default_type: str | None,
    audience: SubscribeRule,
    durable: bool,
    history_size: int,
    history_period: float | None,
    latest: bool,
) -> None:
    """Each kind is what was promised of it."""
    kind = KINDS.parse(channel).namespace
    assert (kind.default_type, kind.subscribe, kind.durable) == (default_type, audience, durable)
    assert (kind.history_size, kind.history_period, kind.latest) == (history_size, history_period, latest)
    assert kind.presence == (audience is SubscribeRule.ROOM)


def test_there_are_no_others() -> None:
    """The kinds are those of the table and the configured entities."""
    assert {kind.name for kind in KINDS} == {
        *("chatroom", "user", "market", "trades", "event", "community", "broadcast", "task", "order")
    }
    assert KINDS.entities == {"task", "order"}
    assert Namespaces(entities=iter(["task"]), history_period=1.0, durable=()).entities == {"task"}


def test_the_configuration_makes_kinds_durable() -> None:
    """Those that it names, beside those that are so anyway."""
    kinds = Namespaces(entities=["task"], history_period=1.0, durable=["trades"])
    assert {kind.name for kind in kinds if kind.durable} == {
        "trades",
        "chatroom",
        "user",
        "community",
        "broadcast",
        "task",
    }


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name", "id_", "normal"),
    [
        ("chatroom:Room_1-a", "chatroom", "Room_1-a", "chatroom:Room_1-a"),
        ("user:auth0|5f:7@x", "user", "auth0|5f:7@x", "user:auth0|5f:7@x"),
        ("market:eur/usd", "market", "EUR/USD", "market:EUR/USD"),
        ("market:Btc", "market", "BTC", "market:BTC"),
        ("event:007", "event", "7", "event:7"),
        ("event:-7", "event", "-7", "event:-7"),
        ("event:-0", "event", "0", "event:0"),
        ("trades", "trades", "", "trades"),
        ("broadcast", "broadcast", "", "broadcast"),
        ("task:A:b", "task", "A:b", "task:A:b"),
    ],
)
def test_a_name_is_taken_apart(text: str, name: str, id_: str, normal: str) -> None:
    """And put into the one form in which everybody knows the channel."""
    channel = KINDS.parse(text)
    assert (channel.namespace.name, channel.id, channel.text, repr(channel)) == (name, id_, normal, normal)


@pytest.mark.parametrize(
    "text",
    [
        *("chatroom", "chatroom:", "user:", "market", "event:", "task:"),
        *("chatroom:a b", "chatroom:ä", "chatroom:" + "a" * 65, "chatroom:a\n", "chatroom:a:b"),
        *("event:x", "event:1.5", "event:", "event:+1", "event: 1", "event:1_0", "event:٣", "event:" + "9" * 19),
        *("user:a\x00b", "user:a\nb", "user:\ud800", "user:" + "u" * (MAX_ID_CHARACTERS + 1)),
        *("trades:1", "broadcast:all"),
        # In upper case each of these is three letters: the name would not be one that can be parsed again.
        "market:" + "ΐ" * MAX_ID_CHARACTERS,
    ],
)
def test_a_wrong_id_is_refused(text: str) -> None:
    """With an error that names the kind."""
    with pytest.raises(RequestError, match=text.partition(":")[0]) as caught:
        KINDS.parse(text)
    assert caught.value.code is Code.INVALID_REQUEST


@pytest.mark.parametrize(
    "text", ["", ":", ":1", "Trades", "chat:1", "conversation:1", "jobs:1", " trades", "market BTC"]
)
def test_an_unknown_kind_is_another_error(text: str) -> None:
    """Dialects have another word for it."""
    with pytest.raises(RequestError) as caught:
        KINDS.parse(text)
    assert caught.value.code is Code.UNKNOWN_CHANNEL
    assert [problem.field for problem in caught.value.fields] == ["channel"]


def test_the_longest_id_passes() -> None:
    """The bound is included."""
    assert len(KINDS.parse("user:" + "u" * MAX_ID_CHARACTERS).id) == MAX_ID_CHARACTERS
    assert len(KINDS.parse("chatroom:" + "r" * 64).id) == 64


@given(st.sampled_from(sorted(kind.name for kind in KINDS)), st.text(max_size=300))
@example("market", "ß" * 200)
@example("market", "ŉ")
def test_a_normal_name_stays_as_it_is(kind: str, id_: str) -> None:
    """Whatever a client calls a channel is refused, or has a name that parses to itself."""
    try:
        channel = KINDS.parse(f"{kind}:{id_}")
    except RequestError:
        return
    again = KINDS.parse(channel.text)
    assert (again.namespace, again.id, again.text) == (channel.namespace, channel.id, channel.text)
    assert len(channel.id) <= MAX_ID_CHARACTERS


# -- what is published -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channel", VALID)
def test_the_default_type_and_the_fields_of_the_id_are_filled_in(channel: str) -> None:
    """What the channel's name says need not be said again, and what else there is passes through."""
    name = KINDS.parse(channel)
    given_data = {**VALID[channel], "extra": {"deep": [1]}}
    before = dict(given_data)
    type_, data = complete(name, None, given_data)
    implied: dict[str, dict[str, Any]] = {
        "chatroom:a": {"chatroomId": "a"},
        "market:BTC": {"symbol": "BTC"},
        "event:7": {"event_id": 7},
        "community:c": {"communityId": "c"},
        "task:1": {"entity_type": "task", "entity_id": "1"},
    }
    assert type_ == name.namespace.default_type
    assert data == {**given_data, **implied.get(channel, {})}
    assert given_data == before, "the caller's data was changed"


@pytest.mark.parametrize(
    ("channel", "field", "value", "becomes"),
    [
        ("chatroom:Ab", "chatroomId", "Ab", "Ab"),
        ("market:eur/usd", "symbol", "Eur/Usd", "EUR/USD"),
        ("market:ß", "symbol", "ß", "SS"),
        ("event:7", "event_id", 7, 7),
        ("event:7", "event_id", "7", 7),
        ("event:7", "event_id", "007", 7),
        ("event:7", "event_id", 7.0, 7),
        ("event:-7", "event_id", "-7", -7),
        ("community:Ab", "communityId", "Ab", "Ab"),
        ("task:Ab", "entity_type", "task", "task"),
        ("task:Ab", "entity_id", "Ab", "Ab"),
    ],
)
def test_what_says_the_same_as_the_id_agrees(channel: str, field: str, value: object, becomes: object) -> None:
    """Compared after upper-casing a symbol, as an integer for an event; what is published is the channel's own."""
    name = KINDS.parse(channel)
    data = complete(name, "anything", {field: value})[1]
    assert data[field] == becomes
    assert type(data[field]) is type(becomes)


@pytest.mark.parametrize(
    ("channel", "field", "value"),
    [
        ("chatroom:AB", "chatroomId", "ab"),
        ("chatroom:AB", "chatroomId", "b"),
        ("chatroom:1", "chatroomId", 1),
        ("chatroom:a", "chatroomId", None),
        ("market:BTC", "symbol", "ETH"),
        ("market:BTC", "symbol", None),
        ("market:BTC", "symbol", ["BTC"]),
        ("event:7", "event_id", 8),
        ("event:7", "event_id", 7.5),
        ("event:7", "event_id", "seven"),
        ("event:1", "event_id", True),
        ("event:7", "event_id", None),
        ("community:AB", "communityId", "ab"),
        ("task:AB", "entity_id", "ab"),
        ("task:1", "entity_id", 1),
        ("task:1", "entity_type", "TASK"),
        ("task:1", "entity_type", "order"),
    ],
)
def test_what_differs_from_the_id_is_refused(channel: str, field: str, value: object) -> None:
    """With any type: a publication says one thing."""
    error = refusal(channel, "anything", {field: value})
    assert [problem.field for problem in error.fields] == [field]


NO_VALUES: list[tuple[str, str, list[object]]] = [
    ("chatroom:a", "userId", [None, 7, "", " ", []]),
    ("chatroom:a", "message", [None, 7, "", "\n\t ", {}]),
    ("user:u", "message", [None, False, ""]),
    ("market:BTC", "price", [None, "1.5", True, [1], float("nan"), float("inf"), float("-inf")]),
    ("event:7", "ratios", [None, [], {}, 0.5, "0.5", [0.5, "0.5"], [True], [None], [[0.5]]]),
    ("event:7", "ratios", [[0.5, 1.1], [-0.1], [float("nan")], [float("inf")]]),
    ("task:1", "status", [None, 1, ""]),
]


@pytest.mark.parametrize(
    ("channel", "field", "wrong"), [(channel, field, wrong) for channel, field, values in NO_VALUES for wrong in values]
)
def test_what_is_required_is_required(channel: str, field: str, wrong: object) -> None:
    """Missing or of another kind it is refused, by name; of another type of publication nothing is required."""
    data = {**VALID[channel], field: wrong}
    missing = {name: value for name, value in VALID[channel].items() if name != field}
    for refused in (data, missing):
        for type_ in (None, KINDS.parse(channel).namespace.default_type):
            assert [problem.field for problem in refusal(channel, type_, refused).fields] == [field]
        assert complete(KINDS.parse(channel), "another:type", refused)[0] == "another:type"


@pytest.mark.parametrize(
    ("channel", "data"), [("market:A", {"price": 0}), ("market:A", {"price": -1.5}), ("event:1", {"ratios": [0, 1]})]
)
def test_the_bounds_are_included(channel: str, data: dict[str, Any]) -> None:
    """Prices may be of any sign, and ratios may be all or nothing."""
    completed = complete(KINDS.parse(channel), None, data)[1]
    assert {**completed, **data} == completed


def test_a_broadcast_says_its_type() -> None:
    """There is no default."""
    assert [problem.field for problem in refusal("broadcast", None, {}).fields] == ["type"]
    assert complete(KINDS.parse("broadcast"), "session:started", {"a": 1}) == ("session:started", {"a": 1})


@pytest.mark.parametrize("type_", ["", "a b", "a\n", "ä", '"', "a" * 201])
def test_a_wrong_type_is_refused(type_: str) -> None:
    """It goes into every dialect's frames as it is."""
    assert [problem.field for problem in refusal("trades", type_, {}).fields] == ["type"]


def test_any_sensible_type_passes() -> None:
    """Letters, digits and the signs that names of events are made with."""
    for type_ in ("a", "market:halt", "A_b.c:d/e-9", r"App\Events\Shipped", "a" * 200):
        assert complete(KINDS.parse("trades"), type_, {})[0] == type_


@given(st.integers(-(2**63), 2**64 - 1) | st.floats())
def test_numbers(value: float) -> None:
    """Every number of JSON is one, and what is none in JSON is none here."""
    assert is_number(value) == (value == value and abs(value) != float("inf"))


def test_channels_are_told_apart_by_their_text() -> None:
    """Two names of one channel are two values; nothing compares them as a whole."""
    one, other = KINDS.parse("market:a"), KINDS.parse("market:A")
    assert isinstance(one, ChannelName)
    assert one.text == other.text
    assert one != other


# -- namespaces of the configuration -----------------------------------------------------------------------------------

OWN = Namespaces(
    entities=["task"],
    history_period=PERIOD,
    durable=(),
    configured={
        "orders": NamespaceConfig(),
        "open": NamespaceConfig(subscribe="anyone", type="e", history_period=5.0, slow_readers="latest", durable=False),
        "default": NamespaceConfig(),
        "trades": BuiltInConfig(history_size=600, durable=True),
    },
)


def test_the_options_become_a_row() -> None:
    orders, opened, trades = OWN["orders"], OWN["open"], OWN["trades"]
    assert (orders.default_type, orders.subscribe, orders.publish) == (
        *("orders:event", SubscribeRule.GRANTED, PublishRule.NOBODY),
    )
    assert (orders.durable, orders.history_size, orders.history_period) == (True, 100, PERIOD)
    assert (opened.default_type, opened.history_period, opened.latest, opened.durable) == ("e", 5.0, True, False)
    assert (trades.history_size, trades.durable, trades.history_period, trades.built_in) == (600, True, PERIOD, True)
    assert not orders.built_in


def test_without_anonymous_readers_anyone_is_users() -> None:
    configured = {"open": NamespaceConfig(subscribe="anyone")}
    table = Namespaces(entities=(), history_period=1.0, durable=(), configured=configured, anonymous=False)
    assert table["open"].subscribe is SubscribeRule.USERS
    assert table["market"].subscribe is SubscribeRule.ANYONE


@pytest.mark.parametrize(
    ("text", "namespace", "id_"),
    [
        ("orders:42", "orders", "42"),
        ("orders:eu:42", "orders", "eu:42"),
        ("orders::", "orders", ":"),
        ("orders:a#b,c @=/.-", "orders", "a#b,c @=/.-"),
        ("orders:" + "x" * MAX_ID_CHARACTERS, "orders", "x" * MAX_ID_CHARACTERS),
        ("news", "default", "news"),
        ("News today", "default", "News today"),
        ("ﬁ", "default", "ﬁ"),
    ],
)
def test_a_name_of_ones_own_is_taken_apart(text: str, namespace: str, id_: str) -> None:
    channel = OWN.parse(text)
    assert (channel.namespace.name, channel.id, channel.text) == (namespace, id_, text)


@pytest.mark.parametrize(
    "text",
    [
        *("orders", "orders:", "market", "task", "", " news", "news ", "n*", "*", "a\nb", "a\u2028b", "n" * 257),
        *("orders:*", "orders:a*", "orders: a", "orders:a ", "orders:a\x00", "orders:\ud800", "orders:" + "x" * 257),
    ],
)
def test_a_wrong_name_of_ones_own_is_refused(text: str) -> None:
    with pytest.raises(RequestError) as caught:
        OWN.parse(text)
    assert (caught.value.code, caught.value.reason) == (Code.INVALID_REQUEST, RefusalReason.INVALID_CHANNEL)


@pytest.mark.parametrize("text", ["default:x", "Orders:1", "order:1", "οrders:1", "*:1", ":", ":1"])
def test_a_name_of_no_namespace_says_so(text: str) -> None:
    with pytest.raises(RequestError) as caught:
        OWN.parse(text)
    assert (caught.value.code, caught.value.reason) == (Code.UNKNOWN_CHANNEL, RefusalReason.UNKNOWN_NAMESPACE)


@given(st.text(max_size=300))
def test_a_parsed_name_is_the_same_again(text: str) -> None:
    try:
        channel = OWN.parse(text)
    except RequestError:
        return
    assert OWN.parse(channel.text).text == channel.text


@pytest.mark.parametrize("data", [None, True, 0, -1.5, "text", [], [1, {"a": None}], {}, {"a": 1}])
def test_any_value_is_data(data: object) -> None:
    assert complete(OWN.parse("orders:1"), None, data) == ("orders:event", data)
    if not isinstance(data, dict):
        with pytest.raises(RequestError, match="data is required and must be an object"):
            complete(OWN.parse("trades"), None, data)


# -- another table -----------------------------------------------------------------------------------------------------


def _table(*entities: str, **configured: NamespaceConfig | BuiltInConfig) -> Namespaces:
    return Namespaces(entities=entities, history_period=1.0, durable=(), configured=configured)


def test_a_row_that_stays_is_the_same_object_with_other_options() -> None:
    table = _table("task", orders=NamespaceConfig(subscribe="users"), gone=NamespaceConfig())
    orders, market, gone = table["orders"], table["market"], table["gone"]
    channel = table.parse("orders:1")
    waiting = table.take_up(_table("job", orders=NamespaceConfig(subscribe="owner", max_data_bytes=99_000)))
    assert waiting == []
    assert table["orders"] is orders is channel.namespace
    assert table["market"] is market
    assert (orders.subscribe, table.max_data_bytes) == (SubscribeRule.OWNER, 99_000)
    assert table.of("gone:1") is table.of("task:1") is None
    assert table.entities == {"job"}
    table.take_up(_table(gone=NamespaceConfig(subscribe="anyone")))
    assert table["gone"] is gone
    assert gone.subscribe is SubscribeRule.ANYONE


def test_options_that_need_a_restart_stay_also_of_a_row_that_was_away() -> None:
    table = _table("task", orders=NamespaceConfig(durable=True, history_size=5, presence=True))
    other = {"orders": NamespaceConfig(durable=False, history_size=0), "task": NamespaceConfig(durable=False)}
    table.take_up(_table())
    waiting = table.take_up(_table(**other))
    assert waiting == [
        "namespaces.orders.durable", "namespaces.orders.history_size", "namespaces.orders.presence", "namespaces.task.durable",
    ]  # fmt: skip
    orders = table["orders"]
    assert (orders.durable, orders.history_size, orders.presence) == (True, 5, True)


def test_removed_rows_are_forgotten_beyond_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_REMOVED", 2)
    table = _table()
    for number in range(5):
        table.take_up(_table(**{f"n{number}": NamespaceConfig()}))
    assert list(table._removed) == ["n2", "n3"]
