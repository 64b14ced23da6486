"""The settings of one webhook: `[webhooks.<name>]` of relay.toml."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import ClassVar
from urllib.parse import urlsplit

import attrs

from relay.config.backends import BackendConfig
from relay.config.checks import HOUR, NAME_PATTERN, NAME_RULE, count, each, listed, seconds
from relay.config.setting import quoted, setting

MAX_WEBHOOKS = 20
"""Webhooks of one configuration. Each event is written once for each webhook that it is for."""

CONNECTION_EVENTS = ("connection.opened", "connection.closed")
USER_EVENTS = ("user.connected", "user.disconnected")
CHANNEL_EVENTS = ("channel.occupied", "channel.vacated")
PRESENCE_EVENTS = ("presence.joined", "presence.left")
PUBLICATION_CREATED = "publication.created"
EVENTS = (*USER_EVENTS, *CONNECTION_EVENTS, *CHANNEL_EVENTS, *PRESENCE_EVENTS, PUBLICATION_CREATED)
"""The types of events that a webhook can ask for."""
WEBHOOK_TEST = "webhook.test"
"""The event that an operator sends to try a webhook. Every webhook gets it that is asked to."""


def _event(_instance: object, _attribute: object, value: str) -> None:
    if value not in EVENTS and not (value.endswith(".*") and any(one.startswith(value[:-1]) for one in EVENTS)):
        groups = sorted({f"{one.partition('.')[0]}.*" for one in EVENTS})
        raise ValueError(
            f"{quoted(value)} is not an event; use {listed(EVENTS)}, or a group such as {listed(groups[:2])}"
        )


def _channels(_instance: object, _attribute: object, value: str) -> None:
    star = value.find("*")
    if not value or not value.isprintable() or (0 <= star < len(value) - 1):
        raise ValueError(
            f"{quoted(value)} is not a pattern; use the name of a channel, or a beginning and a star, such as orders:*"
        )


@attrs.frozen
class WebhookConfig(BackendConfig):
    """The options of one webhook."""

    TITLE: ClassVar[str] = "a webhook"

    events: tuple[str, ...] = setting(
        ("user.*",),
        "The events to send: types such as user.disconnected, or groups such as channel.* (webhooks.md lists them).",
        check=each(_event),
    )
    channels: tuple[str, ...] = setting(
        (),
        "The channels whose events are sent: names, or beginnings with a star, such as orders:*. Empty: all channels of "
        "configured namespaces, and no built-in ones. Events of users and connections are not affected.",
        check=each(_channels),
    )
    bodies: bool = setting(
        False, "Whether publication.created has the data of the publication, if it is not larger than 16 KiB."
    )
    timeout: float = setting(
        15.0, "How long the receiver may take for one request.", unit="seconds", check=seconds(120.0, low=0.1)
    )
    max_in_flight: int = setting(
        8, "The most requests at once. Events of one user or channel are sent one after the other.",
        unit="requests", check=count(64),
    )  # fmt: skip
    max_pending: int = setting(
        100_000,
        "The events that may wait. With more, only the newest event of each user or channel waits; with twice as many, "
        "new publication.created events are dropped and logged.",
        unit="events",
        check=count(10_000_000),
    )
    retry_interval: float = setting(
        5.0,
        "The wait before the second attempt. Each further wait is four times as long, up to 24 hours. After ten attempts "
        "the event is a dead letter.",
        unit="seconds",
        check=seconds(HOUR, low=0.001),
    )
    allow_private: bool = setting(
        False,
        "Whether the URL may be http, and its host may have a loopback or private address. Addresses of cloud metadata "
        "services are never used.",
    )

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Yield what is missing, and what contradicts another option."""
        yield from super().conflicts()
        if self.url is not None and urlsplit(self.url).scheme == "http" and not self.allow_private:
            yield "url", "begins with http; use https, or set allow_private = true for a receiver in your own network"
        if not self.events:
            yield "events", "is empty, so nothing would be sent; name events, or remove the webhook"


def entry(name: str) -> type[WebhookConfig]:
    """Return the class of the options of the webhook with this name.

    Raises:
        ValueError: no webhook can have this name.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise ValueError(f"is not a name for a webhook; {NAME_RULE}")
    return WebhookConfig


def too_many(webhooks: Mapping[str, WebhookConfig]) -> Iterator[tuple[str, str]]:
    """Yield what is wrong if there are too many webhooks."""
    if len(webhooks) > MAX_WEBHOOKS:
        yield "webhooks", f"are {len(webhooks)}; use at most {MAX_WEBHOOKS}"
