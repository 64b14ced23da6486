"""Delivers publications that the store has and this server has not: those of other servers on the same database."""

from __future__ import annotations

from collections.abc import Sequence

from relay.broker.broker import Broker
from relay.broker.channel import Channel
from relay.broker.excluded import Excluded
from relay.model.namespaces import ChannelName
from relay.model.publication import Position, Publication

LOST = "publications were lost"
"""The reason of subscriptions that end because the store no longer has what this server must deliver next."""


class StoreFollower:
    """Brings the channels in memory to the state of the store. Every method is synchronous."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def delivered_offset(self, name: ChannelName) -> int | None:
        """Return the offset up to which a channel in memory was delivered, or None. It may be called in a thread."""
        channel = self._broker.channels.get(name)
        return None if channel is None else channel.offset

    def receive(self, publications: Sequence[Publication]) -> None:
        """Deliver publications that another node committed, or whose commit by this node got no answer. Skip delivered ones.

        The caller must have filled a gap before a publication, as far as the store keeps the missing ones. The
        subscriptions to a channel of which it keeps too few end, because a client would miss some in silence.
        """
        for publication in publications:
            channel = self._broker.channels.get(publication.channel)
            if channel is None or (publication.epoch == channel.epoch and publication.offset <= channel.offset):
                continue
            if not follows(channel, publication.offset, publication.epoch):
                self._lost(channel)
            channel.receive(publication, self._excluded(publication))

    def pass_on(self, publication: Publication) -> None:
        """Deliver a publication of another node that is not kept."""
        self._broker.channels.taps.show(publication)
        channel = self._broker.channels.get(publication.channel)
        if channel is not None:
            channel.pass_on(publication, self._excluded(publication))

    def renew(self, name: ChannelName, head: Position) -> None:
        """Take the head from the store, if the channel got another epoch there, or what led to it is not kept."""
        channel = self._broker.channels.get(name)
        if channel is not None and (channel.epoch != head.epoch or channel.offset < head.offset):
            if channel.offset or head.offset:
                self._lost(channel)
            channel.renew(head)

    def drop(self, name: ChannelName, up_to: int) -> None:
        """Drop the publications of a channel up to an offset, which the store does not keep any more."""
        channel = self._broker.channels.get(name)
        if channel is not None:
            channel.history.drop(up_to)

    def restart(self, text: str, head: Position) -> None:
        """Begin a channel again, because another server has forgotten it. Subscriptions that began meanwhile end."""
        channel = self._broker.channels.named(text)
        if channel is not None and channel.epoch != head.epoch:
            self._lost(channel)
            channel.restart(head)

    def _excluded(self, publication: Publication) -> Excluded | None:
        """Return the origin of a publication that excludes a connection of this server."""
        subscriber = None if publication.excluded is None else self._broker.find_subscriber(publication.excluded)
        return None if subscriber is None else Excluded(subscriber, publication.channel)

    def _lost(self, channel: Channel) -> None:
        """End the live subscriptions to a channel: their subscribers would miss publications in silence."""
        namespace = channel.name.namespace
        if namespace.history_size > 1 or (namespace.history_size == 1 and not namespace.latest):
            text = channel.name.text
            self._broker.revoke(channel.name, LOST, where=lambda subscriber: subscriber.subscriptions[text].live)


def follows(channel: Channel, offset: int, epoch: str) -> bool:
    """Return whether a publication is the next one of a channel. The first one of a channel may begin another epoch."""
    return offset == channel.offset + 1 and (epoch == channel.epoch or not channel.offset)
