"""What a broker keeps of a channel, as a test looks at it."""

from __future__ import annotations

from relay.broker.broker import Broker
from relay.model.namespaces import ChannelName
from relay.model.publication import Position, Publication


async def recent(broker: Broker, name: ChannelName) -> tuple[Position, list[Publication]]:
    """Return a channel's head and its history, oldest first. A checkpoint if the store is asked."""
    channel = await broker.channels.pin(name)
    try:
        if not channel.history.complete:
            await broker.channels.load_history(channel)
        broker.channels.expire(channel)
        return channel.position, channel.history.all()
    finally:
        broker.channels.unpin(channel)
