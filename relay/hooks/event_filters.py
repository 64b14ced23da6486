"""Decides which webhooks an event is for, by its type and by its channel."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import attrs

from relay.config.webhooks import EVENTS, WebhookConfig
from relay.ground.errors import RequestError
from relay.model.grants import Patterns, compile_patterns
from relay.model.namespaces import Namespaces

MAX_CACHED = 10_000
"""Channels whose webhooks are remembered."""

IsOwn = Callable[[str], bool]
"""Returns whether a channel is one of a configured namespace."""


@attrs.frozen
class EventFilter:
    """The events that one webhook asks for."""

    endpoint: str
    types: frozenset[str]
    channels: Patterns | None
    """None: every channel of configured namespaces."""
    bodies: bool

    def wants(self, channel: str, is_own: IsOwn) -> bool:
        """Return whether the webhook asks for the events of a channel."""
        return is_own(channel) if self.channels is None else self.channels.match(channel)


class _Table:
    """The filters of one configuration by type, and those that were found by channel."""

    def __init__(self, webhooks: Mapping[str, WebhookConfig]) -> None:
        filters = [_filter(name, config) for name, config in webhooks.items()]
        self.by_type = {type_: [one for one in filters if type_ in one.types] for type_ in EVENTS}
        self.found: dict[tuple[str, str], list[EventFilter]] = {}


class EventFilters:
    """The filters of all webhooks. Any thread may ask."""

    def __init__(self, webhooks: Mapping[str, WebhookConfig], namespaces: Namespaces) -> None:
        self._namespaces = namespaces
        self._table = _Table(webhooks)

    def take_up(self, webhooks: Mapping[str, WebhookConfig]) -> None:
        """Use other webhooks from now on. Forgets which channels are of configured namespaces."""
        self._table = _Table(webhooks)

    def wants_any(self, types: Iterable[str]) -> bool:
        """Return whether a webhook asks for one of these types."""
        return any(self._table.by_type[type_] for type_ in types)

    def of(self, type_: str, channel: str | None) -> list[EventFilter]:
        """Return the filters that an event passes. `channel` is None for events of users and connections."""
        table = self._table  # read once, because another thread may replace it
        if channel is None:
            return table.by_type[type_]
        found = table.found.get((type_, channel))
        if found is None:
            if len(table.found) >= MAX_CACHED:
                table.found.clear()
            found = [one for one in table.by_type[type_] if one.wants(channel, self._is_own)]
            table.found[type_, channel] = found
        return found

    def _is_own(self, channel: str) -> bool:
        try:
            return not self._namespaces.parse(channel).namespace.built_in
        except RequestError:  # of a namespace that was configured once
            return False


def _filter(name: str, config: WebhookConfig) -> EventFilter:
    types = frozenset(type_ for type_ in EVENTS if any(_matches(pattern, type_) for pattern in config.events))
    return EventFilter(name, types, compile_patterns(config.channels) if config.channels else None, config.bodies)


def _matches(pattern: str, type_: str) -> bool:
    return type_.startswith(pattern[:-1]) if pattern.endswith("*") else type_ == pattern
