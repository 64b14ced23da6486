"""The settings of one backend hook: `[hooks.<name>]` of relay.toml."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from ipaddress import ip_address
from typing import Any, ClassVar
from urllib.parse import urlsplit

import attrs

from relay.config.backends import BackendConfig
from relay.config.checks import NAME_PATTERN, NAME_RULE, count, each, listed, matching, seconds
from relay.config.setting import quoted, setting

MAX_HOOKS = 20
"""Hooks of one configuration."""
MAX_TIMEOUT = 10.0
"""Seconds. A connection handles no other frame meanwhile, and its client must not take that for a lost connection."""


@attrs.frozen
class HookConfig(BackendConfig):
    """The options of one backend hook."""

    TITLE: ClassVar[str] = "a backend hook"

    timeout: float = setting(
        1.0,
        "How long an answer may take, the wait for a free connection included. Then the answer is no.",
        unit="seconds",
        check=seconds(MAX_TIMEOUT, low=0.01),
    )
    max_in_flight: int = setting(64, "The most questions at once. More wait.", unit="questions", check=count(1000))
    max_waiting: int = setting(
        1000,
        "The most questions that wait. More are refused at once, with the reason backend_busy.",
        unit="questions",
        check=count(100_000, low=0),
    )
    headers: tuple[str, ...] = setting(
        (),
        'Headers of the client\'s upgrade that auth.connect_hook passes on, such as ["cookie"].',
        check=each(matching(r"[a-z][a-z0-9-]{0,63}", "the name of a header in lower case")),
    )
    allow_private: bool = setting(
        True,
        "Whether the host of the URL may have a loopback or private address. Link-local addresses, which cloud providers "
        "use for their metadata, are never used.",
    )

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Yield what is missing, and what contradicts another option."""
        yield from super().conflicts()
        if self.url is not None:
            yield from self._wrong_url(urlsplit(self.url).scheme, urlsplit(self.url).hostname or "")

    def _wrong_url(self, scheme: str, host: str) -> Iterator[tuple[str, str]]:
        try:
            address = ip_address(host)
        except ValueError:
            address = None
        is_private = host == "localhost" or (address is not None and not address.is_global)
        if address is not None and (address.is_link_local or address.is_multicast or address.is_unspecified):
            yield "url", f"names the address {host}, which is never used"
        elif is_private and not self.allow_private:
            yield "url", f"names {host}, which is not public; set allow_private = true"
        elif scheme == "http" and not self.allow_private:
            yield "url", "begins with http; use https, or set allow_private = true for a backend in your own network"


def entry(name: str) -> type[HookConfig]:
    """Return the class of the options of the hook with this name.

    Raises:
        ValueError: no hook can have this name.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise ValueError(f"is not a name for a hook; {NAME_RULE}")
    return HookConfig


def wrong_hooks(
    hooks: Mapping[str, HookConfig],
    connect_hook: str | None,
    namespaces: Mapping[str, Any],
    allowed_origins: Collection[str],
    auth_timeout: float,
) -> Iterator[tuple[str, str]]:
    """Yield what is wrong between hooks and the settings that name them, as pairs of key path and message."""
    if len(hooks) > MAX_HOOKS:
        yield "hooks", f"are {len(hooks)}; use at most {MAX_HOOKS}"
    named = {"auth.connect_hook": connect_hook}
    for namespace, options in namespaces.items():
        for option in ("subscribe_hook", "publish_hook"):
            named[f"namespaces.{namespace}.{option}"] = getattr(options, option, None)
    for path, name in named.items():
        if name is not None and name not in hooks:
            known = f"use {listed(hooks)}" if hooks else f"add a section [hooks.{name}]"
            yield path, f"{quoted(name)} is not a hook of [hooks]; {known}"
    for name in hooks.keys() - set(named.values()):
        yield f"hooks.{name}", "is never asked; name it in auth.connect_hook, or in subscribe_hook or publish_hook"
    if connect_hook is not None and connect_hook in hooks:
        for option, message in _wrong_connecting(hooks[connect_hook], allowed_origins, auth_timeout):
            yield f"hooks.{connect_hook}.{option}", message


def _wrong_connecting(
    hook: HookConfig, allowed_origins: Collection[str], auth_timeout: float
) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with the hook that `auth.connect_hook` names, as pairs of option and message."""
    # Every page can have the origin null: it opens a sandboxed frame.
    of_any_page = sorted({"*", "null"}.intersection(allowed_origins))
    if "cookie" in hook.headers and of_any_page:
        message = (
            f'has "cookie" while server.allowed_origins has {quoted(of_any_page[0])}, '
            "so a foreign page could act as its visitor"
        )
        yield "headers", f"{message}; list the origins of your pages in server.allowed_origins"
    if hook.timeout > auth_timeout:
        message = (
            f"is longer than limits.auth_timeout ({auth_timeout:g}), so a slow backend would end its clients with 1008"
        )
        yield "timeout", f"{message}; use a shorter one, or raise that limit"
