"""Which webhooks an event is for."""

from __future__ import annotations

from relay.config.namespaces import NamespaceConfig
from relay.config.tree import Config
from relay.config.webhooks import WebhookConfig
from relay.hooks.event_filters import EventFilters
from relay.model.namespaces import namespaces_of
from tests.hooks.receiver import SECRET

NAMESPACES = namespaces_of(Config(namespaces={"orders": NamespaceConfig(), "default": NamespaceConfig()}))


def filters(**webhooks: dict[str, tuple[str, ...]]) -> EventFilters:
    """Return the filters of webhooks with these options."""
    return EventFilters(
        {
            name: WebhookConfig(url="https://a.example/", secret=SECRET, **options)  # type: ignore[arg-type]
            for name, options in webhooks.items()
        },
        NAMESPACES,
    )


def names(made: EventFilters, type_: str, channel: str | None = None) -> list[str]:
    """Return the names of the webhooks of an event."""
    return [event_filter.endpoint for event_filter in made.of(type_, channel)]


def test_types_and_groups() -> None:
    """A type or a group of types names the events of a webhook."""
    made = filters(one={"events": ("user.*",)}, two={"events": ("user.disconnected", "channel.vacated")})
    assert names(made, "user.connected") == ["one"]
    assert names(made, "user.disconnected") == ["one", "two"]
    assert names(made, "connection.opened") == []
    assert made.wants_any(["channel.vacated", "channel.occupied"])
    assert not made.wants_any(["publication.created"])


def test_channels() -> None:
    """Without patterns all configured namespaces count, and no built-in one; patterns choose among all channels."""
    made = filters(
        all={"events": ("channel.*",)},
        some={"events": ("channel.*", "user.*"), "channels": ("orders:4*", "chatroom:*", "news")},
    )
    wanted = {
        "orders:42": ["all", "some"],
        "orders:5": ["all"],
        "news": ["all", "some"],
        "other": ["all"],
        "chatroom:lobby": ["some"],
        "market:BTC": [],
        "gone:1": [],
    }
    for _ in range(2):  # the second time from memory
        assert {channel: names(made, "channel.occupied", channel) for channel in wanted} == wanted
    assert names(made, "user.connected") == ["some"]
