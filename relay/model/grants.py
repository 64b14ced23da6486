"""Grants: the channels that a token lets its user subscribe and publish to, beyond the rules of their namespaces.

A pattern is the whole name of a channel, `<namespace>:<prefix>*`, or `*` for every namespace of the configuration. This
module compares texts. The rules keep grants away from built-in namespaces.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import attrs

from relay.ground import strictjson
from relay.ground.errors import ProtocolError

MAX_PATTERNS = 100
"""Patterns of one token in all, with its channels. A backend with more uses subscription tokens."""
MAX_PATTERN_CHARACTERS = 289
"""Length of a pattern: the longest namespace, a colon and the longest id."""
MAX_INFO_BYTES = 1024
"""Bytes of the claim `info`, because it travels with each publication of its user."""
MAX_COMPILED = 1024
"""Sets of grants that are compiled once and shared by all tokens that have them."""

_ACTIONS = ("subscribe", "publish")


class ClaimsError(ValueError):
    """A claim of a token is malformed. The message names the rule that it breaks, for the issuer of the token."""


@attrs.frozen
class Patterns:
    """Compiled patterns."""

    names: frozenset[str] = frozenset()
    prefixes: tuple[str, ...] = ()
    everything: bool = False

    def match(self, channel: str) -> bool:
        """Return whether a pattern matches the name of a channel."""
        return self.everything or channel in self.names or (bool(self.prefixes) and channel.startswith(self.prefixes))

    def texts(self) -> list[str]:
        """Return the patterns as texts, sorted."""
        return sorted([*self.names, *(f"{prefix}*" for prefix in self.prefixes), *(["*"] if self.everything else [])])

    def matching(self, channel: str) -> list[str]:
        """Return the patterns that match the name of a channel, as texts, sorted."""
        return [text for text in self.texts() if text == channel or (text[-1] == "*" and channel.startswith(text[:-1]))]


@attrs.frozen
class Grants:
    """The grants of one token."""

    subscribe: Patterns = Patterns()
    publish: Patterns = Patterns()


NO_GRANTS = Grants()
"""The grants of a token without any."""


def read_grants(grants: object, channels: object) -> tuple[Grants, tuple[str, ...]]:
    """Return the grants and the channels of a token from its claims `grants` and `channels`; None is an absent claim.

    The grants include a subscribe grant for each of the channels.

    Raises:
        ClaimsError: a claim is malformed, a pattern is not valid, or there are too many.
    """
    named = () if channels is None else _texts("channels", channels)
    lists: dict[str, tuple[str, ...]] = {}
    if grants is not None:
        if not isinstance(grants, Mapping) or not set(grants) <= set(_ACTIONS):
            raise ClaimsError('grants must be an object with the lists "subscribe" and "publish"')
        lists = {action: _texts(f"grants.{action}", grants[action]) for action in grants}
    if sum(map(len, lists.values())) + len(named) > MAX_PATTERNS:
        raise ClaimsError(f"grants and channels may have at most {MAX_PATTERNS} patterns in all")
    if not lists and not named:
        return NO_GRANTS, ()
    for channel in named:
        if "*" in channel:
            raise ClaimsError(f"channels has {channel[:40]!r}, which is a pattern; name each channel")
    return _compile(lists.get("subscribe", ()) + named, lists.get("publish", ())), named


def read_info(value: object) -> bytes | None:
    """Return the claim `info` of a token as compact JSON, None if it is absent.

    Raises:
        ClaimsError: it is larger than MAX_INFO_BYTES, or no JSON that Relay can send.
    """
    if value is None:
        return None
    try:
        # Python's JSON reads what strictjson refuses, and the other way round it would change large numbers.
        info = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
        strictjson.loads(info)
    except (ValueError, RecursionError, ProtocolError):
        raise ClaimsError("info is not JSON that can be sent") from None
    if len(info) > MAX_INFO_BYTES:
        raise ClaimsError(f"info has {len(info)} bytes as JSON; use at most {MAX_INFO_BYTES}")
    return info


def _texts(claim: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ClaimsError(f"{claim} must be a list of texts")
    if len(value) > MAX_PATTERNS:
        raise ClaimsError(f"{claim} may have at most {MAX_PATTERNS} entries")
    for item in value:
        check_pattern(item)
    return tuple(value)


def check_pattern(pattern: str) -> None:
    """Raise ClaimsError unless the text is a pattern."""
    shown = repr(pattern[:40])
    if not 0 < len(pattern) <= MAX_PATTERN_CHARACTERS or not pattern.isprintable() or pattern.strip(" ") != pattern:
        raise ClaimsError(
            f"{shown} is not a pattern; use 1 to {MAX_PATTERN_CHARACTERS} printable characters without spaces at the ends"
        )
    star = pattern.find("*")
    if star >= 0 and pattern != "*" and (star != len(pattern) - 1 or ":" not in pattern or pattern[0] == ":"):
        raise ClaimsError(f"{shown} is not a pattern; * must be its last character, after a namespace and its colon")


@lru_cache(MAX_COMPILED)
def _compile(subscribe: tuple[str, ...], publish: tuple[str, ...]) -> Grants:
    return Grants(compile_patterns(subscribe), compile_patterns(publish))


def compile_patterns(patterns: Iterable[str]) -> Patterns:
    """Return compiled patterns. Each must be valid."""
    wild = list(dict.fromkeys(pattern[:-1] for pattern in patterns if pattern.endswith("*")))
    names = frozenset(pattern for pattern in patterns if not pattern.endswith("*"))
    return Patterns(names, tuple(prefix for prefix in wild if prefix), everything="" in wild)


def as_claims(subscribe: Iterable[str], publish: Iterable[str]) -> dict[str, Any]:
    """Return the claim `grants` with these patterns."""
    claims = {"subscribe": list(subscribe), "publish": list(publish)}
    return {action: patterns for action, patterns in claims.items() if patterns}
