"""Signals between nodes, as data of notices."""

from __future__ import annotations

from typing import Any

from relay.broker.signal import Signal
from relay.model.namespaces import Namespaces
from relay.store.notices import MAX_PAYLOAD_BYTES, announce
from relay.store.transaction import Transaction

SIGNAL = "signal"
"""The notice of a signal: `channel`, `type`, `data`, `except`, `known`, `users`."""
MAX_KNOWN_BYTES = MAX_PAYLOAD_BYTES // 2
"""Bytes of the names in `known`. Beyond it names are left out: a user may then be notified twice, which does no harm."""


def to_data(signal: Signal) -> dict[str, Any]:
    """Return a signal as the data of a notice."""
    known, size = [], 0
    for text in signal.except_present_in:
        size += len(text.encode()) + 8
        if size > MAX_KNOWN_BYTES:
            break
        known.append(text)
    return {
        "channel": signal.channel.text,
        "type": signal.type,
        "data": signal.data,
        "except": signal.except_user,
        "known": known,
        "users": signal.users_only,
    }


def from_data(data: dict[str, Any], namespaces: Namespaces) -> Signal:
    """Return the signal of a notice.

    Raises:
        KeyError: a field is missing.
        RequestError: this node has no such channel.
    """
    channel = namespaces.parse(data["channel"])
    return Signal(channel, data["type"], data["data"], data["except"], data["known"], users_only=data["users"])


def announce_signal(connection: Transaction, signal: Signal) -> None:
    """Send a signal to the subscribers of every node, once the transaction is committed."""
    announce(connection, SIGNAL, to_data(signal))
