"""The rights to namespaces of the configuration: every rule against every kind of caller, with each reason."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.access.rules import Basis, basis_to_publish, basis_to_subscribe, check_publish, check_subscribe, is_owner
from relay.config.namespaces import NamespaceConfig
from relay.ground.errors import RequestError
from relay.model.grants import read_grants
from relay.model.namespaces import Namespaces
from relay.model.principal import Principal
from relay.model.subscription_proof import SubscriptionProof

SUBSCRIBE = ("anyone", "users", "owner", "granted", "nobody")
PUBLISH = ("users", "subscribers", "granted", "nobody")
TABLE = Namespaces(
    entities=["task"],
    history_period=60.0,
    durable=(),
    configured={
        **{f"r-{rule}": NamespaceConfig(subscribe=rule) for rule in SUBSCRIBE},  # type: ignore[arg-type]
        **{f"w-{rule}": NamespaceConfig(publish=rule) for rule in PUBLISH},  # type: ignore[arg-type]
    },
)
LATER = datetime(2030, 1, 1, tzinfo=UTC)
NO_ROOMS: Any = None


def granted(user_id: str, *patterns: str) -> Principal:
    """Return a user with grants to subscribe and publish."""
    grants, _ = read_grants({"subscribe": list(patterns), "publish": list(patterns)}, None)
    return Principal(user_id, grants=grants)


CALLERS: dict[str, Principal | None] = {
    "none": None,
    "user": Principal("u"),
    "owner": Principal("bob"),
    "granted": granted(
        "u", "r-owner:bob", "r-granted:*", "r-nobody:*", "w-granted:bob", "w-nobody:*", "w-subscribers:*"
    ),
    "all": granted("u", "*"),
    "key": Principal("u", scopes=frozenset({"publish"}), key_id="k"),
    "admin": Principal("root", is_admin=True),
}
READS = {
    #            none                 user        owner       granted     all         key         admin
    "anyone":  ("ok",                "ok",       "ok",       "ok",       "ok",       "ok",       "ok"),
    "users":   ("not_authenticated", "ok",       "ok",       "ok",       "ok",       "ok",       "ok"),
    "owner":   ("not_authenticated", "not_owner", "ok",      "ok",       "ok",       "not_owner", "ok"),
    "granted": ("not_authenticated", "no_grant", "no_grant", "ok",       "ok",       "no_grant", "ok"),
    "nobody":  ("closed",            "closed",   "closed",   "closed",   "closed",   "closed",   "ok"),
}  # fmt: skip
WRITES = {
    "users":       ("not_authenticated", "ok", "ok", "ok", "ok", "ok", "ok"),
    "subscribers": ("not_authenticated", "not_subscribed", "not_subscribed", "ok", "ok", "ok", "ok"),
    "granted":     ("not_authenticated", "no_grant", "no_grant", "ok", "ok", "ok", "ok"),
    "nobody":      ("not_authenticated", *("publish_not_allowed",) * 4, "ok", "ok"),
}  # fmt: skip


@pytest.mark.parametrize("rule", SUBSCRIBE)
async def test_every_caller_against_every_rule_to_subscribe(rule: str) -> None:
    channel = TABLE.parse(f"r-{rule}:bob")
    found = []
    for principal in CALLERS.values():
        try:
            await check_subscribe(NO_ROOMS, principal, channel)
            found.append("ok")
        except RequestError as refusal:
            assert refusal.reason is not None
            found.append(refusal.reason.value)
    assert tuple(found) == READS[rule]


@pytest.mark.parametrize("rule", PUBLISH)
async def test_every_caller_against_every_rule_to_publish(rule: str) -> None:
    channel = TABLE.parse(f"w-{rule}:bob")
    found = []
    for principal in CALLERS.values():
        try:
            await check_publish(NO_ROOMS, principal, channel)
            found.append("ok")
        except RequestError as refusal:
            assert refusal.reason is not None
            found.append(refusal.reason.value)
    assert tuple(found) == WRITES[rule]


async def test_a_subscriber_may_publish_where_subscribers_may() -> None:
    await check_publish(NO_ROOMS, Principal("u"), TABLE.parse("w-subscribers:1"), subscribed=True)
    with pytest.raises(RequestError, match="Authenticate first"):
        await check_publish(NO_ROOMS, None, TABLE.parse("w-subscribers:1"), subscribed=True)


@pytest.mark.parametrize("name", ["user:bob", "task:1", "community:1", "broadcast"])
async def test_no_grant_widens_a_built_in_namespace(name: str) -> None:
    channel = TABLE.parse(name)
    token = SubscriptionProof(channel.text, "u", LATER)
    for check in (check_subscribe, check_publish):
        outcomes = []
        for principal in (Principal("u"), granted("u", "*", channel.text)):
            try:
                await check(NO_ROOMS, principal, channel)
                outcomes.append("ok")
            except RequestError as refusal:
                outcomes.append(str(refusal.reason))
        assert outcomes[0] == outcomes[1]
    if name == "user:bob":
        with pytest.raises(RequestError):
            await check_subscribe(NO_ROOMS, Principal("u"), channel, token)


@pytest.mark.parametrize("rule", SUBSCRIBE)
@pytest.mark.parametrize(
    ("token", "reason"),
    [
        (("{}:bob", "u"), "ok"),
        (("{}:bob", "v"), "token_other_user"),
        (("{}:bob", None), "token_other_user"),
        (("{}:*", "u"), "token_other_channel"),
        (("{}:bo", "u"), "token_other_channel"),
    ],
)
def test_a_subscription_token_decides_alone(rule: str, token: tuple[str, str | None], reason: str) -> None:
    """Even where the rule would let the user in; but for a namespace that is closed."""
    channel = TABLE.parse(f"r-{rule}:bob")
    given = SubscriptionProof(token[0].format(f"r-{rule}"), token[1], LATER)
    try:
        basis_to_subscribe(granted("u", "*"), channel, given)
        found = "ok"
    except RequestError as refusal:
        assert refusal.reason is not None
        found = refusal.reason.value
    assert found == ("closed" if rule == "nobody" else reason)


def test_a_subscription_token_for_no_user_is_for_a_client_without_a_token() -> None:
    channel = TABLE.parse("r-granted:1")
    basis_to_subscribe(None, channel, SubscriptionProof("r-granted:1", None, LATER))
    with pytest.raises(RequestError):
        basis_to_subscribe(None, channel, SubscriptionProof("r-granted:1", "u", LATER))


@pytest.mark.parametrize(
    ("user_id", "id_", "owns"),
    [
        ("a", "a", True), ("a", "b", False), ("a", "a:x", False), ("a:b", "a:b", True), ("a", "x#a", True),
        ("a", "x#b,a", True), ("a", "x#b, a", False), ("a", "x#a#b", False), ("b", "x#a#b", True), ("a", "#a", True),
        ("a#b", "a#b", True), ("a,b", "x#a,b", False), ("a,b", "a,b", True), ("a", "a,b", False), ("é", "e\u0301", False),
        ("a", "x#ab", False), ("A", "a", False), ("#", "x#", False), ("a", "x#,a", True),
    ],
)  # fmt: skip
def test_owners(user_id: str, id_: str, owns: bool) -> None:
    assert is_owner(user_id, id_) is owns


@given(st.text("ab#,:", min_size=1, max_size=4), st.text("ab#,:", max_size=8))
def test_an_owner_is_named_as_a_whole(user_id: str, id_: str) -> None:
    named = id_.split("#")[-1].split(",") if "#" in id_ else []
    assert is_owner(user_id, id_) == (user_id == id_ or user_id in named)
    if is_owner(user_id, id_) and user_id != id_:
        assert not set("#,") & set(user_id)


@given(
    st.sampled_from(SUBSCRIBE), st.sampled_from(PUBLISH), st.booleans(),
    st.lists(st.sampled_from(["*", "n:*", "n:a*", "n:ab", "n:#b", "m:*"]), max_size=3), st.sampled_from(["ab", "a#b", "b"]),
)  # fmt: skip
def test_more_grants_never_allow_less(
    subscribe: Any, publish: Any, subscribed: bool, patterns: list[str], id_: str
) -> None:
    configured = {"n": NamespaceConfig(subscribe=subscribe, publish=publish)}
    channel = Namespaces(entities=(), history_period=1.0, durable=(), configured=configured).parse(f"n:{id_}")
    checks: tuple[Callable[[Principal], Basis], ...] = (
        lambda principal: basis_to_subscribe(principal, channel),
        lambda principal: basis_to_publish(principal, channel, subscribed=subscribed),
    )
    for check in checks:
        allowed = []
        for principal in (
            Principal("b"),
            granted("b", *patterns),
            attrs.evolve(granted("b", *patterns), is_admin=True),
        ):
            try:
                check(principal)
                allowed.append(True)
            except RequestError:
                allowed.append(False)
        assert allowed == sorted(allowed)
        assert allowed[-1]
