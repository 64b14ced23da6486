"""Signals on their way to other nodes."""

from __future__ import annotations

import attrs

from relay.broker.signal import Signal
from relay.cluster import signals
from relay.model.namespaces import Namespaces

NAMESPACES = Namespaces(entities=(), history_period=60.0, durable=())


def test_a_signal_is_the_same_on_every_node() -> None:
    """Also its time, which makes it a publication. A node of an earlier release does not say it."""
    signal = Signal(NAMESPACES.parse("market:BTC"), "market:price", {"price": 5}, "ann", ["market:A"], True, 1_700)
    data = signals.to_data(signal)
    there = signals.from_data(data, NAMESPACES)
    assert there.channel.text == signal.channel.text
    assert attrs.evolve(there, channel=signal.channel) == signal
    del data["at"]
    assert signals.from_data(data, NAMESPACES).published_ms == 0
