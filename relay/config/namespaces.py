"""The settings of one namespace: `[namespaces.<name>]` of relay.toml.

`relay.model.namespaces` makes the table of namespaces of it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import ClassVar, Literal

import attrs

from relay.config.checks import DAY, MIB, NAME_PATTERN, NAME_RULE, between, count, matching, seconds
from relay.config.setting import setting

MAX_NAMESPACES = 100
"""Namespaces of one configuration. An application has one for each kind of thing that it has, not one for each thing."""
MAX_HISTORY_SIZE = 10_000
"""Publications that one channel keeps at most: a resume reads all of them into memory."""
TYPE_PATTERN = r"[A-Za-z0-9_.:/\\-]{1,200}"
"""The form of a publication's type. Laravel's types are names of classes, with backslashes."""
RESERVED = ("conversation",)
"""Names that no namespace may have: `channels` calls the namespace `chatroom` so."""


@attrs.frozen
class NamespaceConfig:
    """The options of a namespace of the user's own."""

    TITLE: ClassVar[str] = "a namespace"

    subscribe: Literal["anyone", "users", "owner", "granted", "nobody"] = setting(
        "granted",
        "The clients that may subscribe, and so read the history. anyone needs no token; users are all with a token; "
        "owner is the user of <namespace>:<user id>, or those of <namespace>:...#<user id>,<user id>; granted are those "
        "with a grant or a subscription token; nobody means admins only. Each includes the ones after it, except nobody.",
    )
    publish: Literal["users", "subscribers", "granted", "nobody"] = setting(
        "nobody",
        "The clients that may publish: users are all with a token; subscribers are those with a subscription on the same "
        "connection; granted are those with a grant. Backends with an API key may always publish.",
    )
    type: str | None = setting(
        None,
        "The type of a publication that names none. Empty: <namespace>:event.",
        check=matching(TYPE_PATTERN, "a type; use 1 to 200 letters, digits or any of _ . : / \\ -"),
    )
    history_size: int = setting(
        100,
        "How many publications each channel keeps for resume and history. 0 keeps none, and then nothing is resumed. A "
        "change needs a restart.",
        unit="publications",
        check=between(0, MAX_HISTORY_SIZE, "a sensible number"),
    )
    history_period: float | None = setting(
        None,
        "How long they are kept. Empty: as long as channels.history_period says.",
        unit="seconds",
        check=seconds(365 * DAY, low=1.0),
    )
    durable: bool = setting(
        True,
        "Whether a publication is committed before any subscriber gets it. false: it is delivered at once, and written "
        "within a second. A change needs a restart.",
    )
    slow_readers: Literal["disconnect", "latest"] = setting(
        "disconnect",
        "disconnect closes the connection of a client that reads too slowly; latest lets it skip to the newest value.",
    )
    presence: bool = setting(False, "Whether clients can ask which users are subscribed. A change needs a restart.")
    join_leave: bool = setting(False, "Whether subscribers are told which users come and go. Needs presence.")
    subscribe_hook: str | None = setting(
        None,
        "The backend hook, from [hooks.<name>], that is asked if a user may subscribe where the rule and the grants do not "
        "say so. Empty: none is asked.",
    )
    publish_hook: str | None = setting(
        None,
        "The backend hook that is asked for each publication of a user. It decides in place of publish. Empty: none is "
        "asked.",
    )
    max_data_bytes: int = setting(
        65_536,
        "The largest data of one publication, as JSON. Clients are bound by limits.max_message_bytes too.",
        unit="bytes",
        check=count(MIB),
    )

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Yield conflicts."""
        if self.durable and self.history_size == 0:
            yield "history_size", "is 0 in a durable namespace; keep at least 1 publication, or set durable = false"
        if self.subscribe_hook is not None and self.subscribe in ("anyone", "users", "nobody"):
            yield "subscribe_hook", f'is never asked with subscribe = "{self.subscribe}"; use "granted" or "owner"'
        if self.join_leave and not self.presence:
            yield "join_leave", "needs presence; set presence = true, or remove join_leave"


@attrs.frozen
class BuiltInConfig:
    """The options of a built-in namespace that the configuration changes; None for each that it leaves."""

    TITLE: ClassVar[str] = "a built-in namespace"

    history_size: int | None = setting(
        None, "As in other namespaces.", check=between(1, MAX_HISTORY_SIZE, "a sensible number")
    )
    history_period: float | None = setting(None, "As in other namespaces.", check=seconds(365 * DAY, low=1.0))
    durable: bool | None = setting(None, "As in other namespaces.")


@attrs.frozen
class BuiltIn:
    """The history and the durability of one built-in namespace, unless the configuration changes them."""

    history: int
    """Publications of its history. The configuration may set more."""
    durable: bool = True
    """Whether it is durable. One that is not may be made so."""
    is_fixed: bool = False
    """Whether it keeps the last value for good, so that its history cannot be changed."""


BUILT_IN: Mapping[str, BuiltIn] = {
    "chatroom": BuiltIn(1000),
    "user": BuiltIn(200),
    "market": BuiltIn(1, durable=False, is_fixed=True),
    "trades": BuiltIn(500, durable=False),
    "event": BuiltIn(500, durable=False),
    "community": BuiltIn(100),
    "broadcast": BuiltIn(100),
}
"""The built-in namespaces."""

Options = NamespaceConfig | BuiltInConfig
"""The options of one namespace."""


def entry(name: str) -> type[Options]:
    """Return the class of the options of the namespace with this name.

    Raises:
        ValueError: no namespace can have this name.
    """
    if name in BUILT_IN:
        return BuiltInConfig
    if name in RESERVED:
        raise ValueError("is a name of its own in Relay; choose another one")
    if not re.fullmatch(NAME_PATTERN, name):
        raise ValueError(f"is not a name for a namespace; {NAME_RULE}, without a colon")
    return NamespaceConfig


def conflicts_between(
    namespaces: Mapping[str, Options], entities: Collection[str], max_data_bytes: int
) -> Iterator[tuple[str, str]]:
    """Yield what is wrong between namespaces and other settings, as pairs of key path and message.

    `max_data_bytes` is the most that fits into the outbox of a connection.
    """
    if len(namespaces) > MAX_NAMESPACES:
        yield "namespaces", f"are {len(namespaces)}; use at most {MAX_NAMESPACES}, and ids for the single things"
    for name, options in namespaces.items():
        path = f"namespaces.{name}"
        if isinstance(options, BuiltInConfig):
            for option, message in _fixed(BUILT_IN[name], options):
                yield f"{path}.{option}", message
        elif name in entities:
            yield path, "is in channels.entities too; remove it there, or choose another name"
        elif options.max_data_bytes > max_data_bytes:
            message = f"{options.max_data_bytes} does not fit twice into limits.max_outbox_bytes"
            yield f"{path}.max_data_bytes", f"{message}; use at most {max_data_bytes}, or raise that limit"


def _fixed(kept: BuiltIn, options: BuiltInConfig) -> Iterator[tuple[str, str]]:
    """Yield the options that are set and may not be changed so."""
    if kept.is_fixed:
        for option in ("history_size", "history_period"):
            if getattr(options, option) is not None:
                yield option, "cannot be changed: this built-in namespace keeps the last value; only durable can"
    elif options.history_size is not None and options.history_size < kept.history:
        yield (
            "history_size",
            f"{options.history_size} is less than this built-in namespace keeps; use {kept.history} or more",
        )
    if options.durable is not None and kept.durable:
        yield "durable", "cannot be changed: this built-in namespace is always durable"
    elif options.durable is False:
        yield "durable", "is false; a built-in namespace can be made durable, not the reverse"
