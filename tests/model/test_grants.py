"""Grants: patterns against a reference that compares character by character, and claims of every shape."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.model.grants import (
    MAX_INFO_BYTES,
    MAX_PATTERN_CHARACTERS,
    MAX_PATTERNS,
    NO_GRANTS,
    ClaimsError,
    check_pattern,
    compile_patterns,
    read_grants,
    read_info,
)

TEXT = st.text("ab:*#, ", max_size=6)
CLAIM = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["orders:*", "*"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["subscribe", "publish", "x"]), inner),
    max_leaves=12,
)


def is_pattern(text: str) -> bool:
    try:
        check_pattern(text)
    except ClaimsError:
        return False
    return True


PATTERNS = st.lists(TEXT.filter(is_pattern), max_size=5)


def naive(pattern: str, channel: str) -> bool:
    """Match one pattern, one character after the other."""
    for at, character in enumerate(pattern):
        if character == "*":
            return True
        if at >= len(channel) or channel[at] != character:
            return False
    return len(pattern) == len(channel)


@pytest.mark.slow
@given(PATTERNS, TEXT.filter(lambda text: "*" not in text))
def test_patterns_match_as_the_reference_does(patterns: list[str], channel: str) -> None:
    compiled = compile_patterns(patterns)
    assert compiled.match(channel) == any(naive(pattern, channel) for pattern in patterns)
    assert compiled.matching(channel) == sorted({pattern for pattern in patterns if naive(pattern, channel)})
    assert compiled.texts() == sorted(set(patterns))


@pytest.mark.slow
@given(PATTERNS, PATTERNS, TEXT)
def test_more_patterns_never_match_less(some: list[str], more: list[str], channel: str) -> None:
    assert compile_patterns([*some, *more]).match(channel) >= compile_patterns(some).match(channel)


@pytest.mark.parametrize(
    "text", ["*", "orders:*", "orders:eu:*", "orders:42", "news", "a b", "orders:#a,b", "x:" + "a" * 256]
)
def test_these_are_patterns(text: str) -> None:
    check_pattern(text)


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "a ", " a", "a\n", "a\x00", "\ud800", "a\u2028"),
        *("order*", "*:1", "a:*b", "a:**", "**", ":*", "a:*:b", "x" * (MAX_PATTERN_CHARACTERS + 1)),
    ],
)
def test_these_are_not(text: str) -> None:
    """A prefix without the colon would match the channels of another namespace by accident."""
    assert not is_pattern(text)


def test_claims_are_read_and_shared() -> None:
    claims = {"subscribe": ["orders:*", "news"], "publish": ["orders:42"]}
    grants, channels = read_grants(claims, ["chat:1"])
    assert channels == ("chat:1",)
    assert [grants.subscribe.match(name) for name in ("orders:1", "news", "chat:1", "news:1")] == [
        True,
        True,
        True,
        False,
    ]
    assert [grants.publish.match(name) for name in ("orders:42", "orders:4", "news")] == [True, False, False]
    assert read_grants(json.loads(json.dumps(claims)), ["chat:1"])[0] is grants
    assert read_grants(None, None) == (NO_GRANTS, ())
    assert read_grants({}, [])[0] is NO_GRANTS


@pytest.mark.parametrize(
    ("grants", "channels"),
    [
        ([], None), ("orders:*", None), ({"subscibe": []}, None), ({"subscribe": "orders:*"}, None),
        ({"subscribe": [1]}, None), ({"subscribe": None}, None), ({"publish": ["order*"]}, None),
        (None, "a"), (None, [1]), (None, ["a:*"]), (None, {}), (0, None), (False, None),
        ({"subscribe": [f"a:{i}" for i in range(MAX_PATTERNS)]}, ["b"]),
        ({"subscribe": ["a"] * 1000}, None),
    ],
)  # fmt: skip
def test_malformed_claims_are_refused(grants: Any, channels: Any) -> None:
    with pytest.raises(ClaimsError):
        read_grants(grants, channels)


@pytest.mark.slow
@given(CLAIM, CLAIM)
def test_claims_of_any_shape_are_read_or_refused(grants: Any, channels: Any) -> None:
    try:
        read_grants(grants, channels)
    except ClaimsError as error:
        assert str(error)


@pytest.mark.slow
@given(CLAIM)
def test_info_of_any_shape_is_read_or_refused(info: Any) -> None:
    try:
        read = read_info(info)
    except ClaimsError:
        return
    assert read is None if info is None else json.loads(read or b"") == info


@pytest.mark.parametrize(
    "info", [float("nan"), float("inf"), 2**70, "\ud800", "x" * MAX_INFO_BYTES, json.loads("[" * 200 + "]" * 200)]
)
def test_info_that_cannot_be_sent_is_refused(info: Any) -> None:
    with pytest.raises(ClaimsError):
        read_info(info)
