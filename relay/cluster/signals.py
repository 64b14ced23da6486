"""Signals between nodes, and publications that are not kept, as data of notices."""

from __future__ import annotations

from typing import Any

from relay.broker.signal import Signal
from relay.model.namespaces import Namespaces
from relay.model.publication import Draft, Publication
from relay.store.notices import announce
from relay.store.parts import MAX_PAYLOAD_BYTES
from relay.store.transaction import Transaction

SIGNAL = "signal"
"""The notice of a signal: `channel`, `type`, `data`, `except`, `known`, `users`, `at`."""
PASSED = "passed"
"""The notice of a publication that is not kept: `channel`, `type`, `json`, `at`, `publisher`, `excluded`."""
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
        "at": signal.published_ms,
    }


def from_data(data: dict[str, Any], namespaces: Namespaces) -> Signal:
    """Return the signal of a notice.

    Raises:
        KeyError: a field is missing.
        RequestError: this node has no such channel.
    """
    channel = namespaces.parse(data["channel"])
    return Signal(
        channel,
        data["type"],
        data["data"],
        data["except"],
        data["known"],
        users_only=data["users"],
        published_ms=data.get("at", 0),  # a node of an earlier release does not say it
    )


def announce_signal(connection: Transaction, signal: Signal) -> None:
    """Send a signal to the subscribers of every node, once the transaction is committed."""
    announce(connection, SIGNAL, to_data(signal))


def passed_to_data(draft: Draft) -> dict[str, Any]:
    """Return a draft that is not kept as the data of a notice."""
    return {
        "channel": draft.channel.text,
        "type": draft.type,
        "json": draft.encode().decode(),
        "at": draft.published_ms,
        "publisher": None if draft.publisher is None else draft.publisher.decode(),
        "excluded": draft.excluded,
    }


def passed_from_data(data: dict[str, Any], namespaces: Namespaces) -> Publication:
    """Return the publication of a notice. Raises as `from_data`."""
    publisher = data["publisher"]
    return Publication(
        namespaces.parse(data["channel"]),
        data["type"],
        0,
        "",
        data["at"],
        json=data["json"].encode(),
        publisher=None if publisher is None else publisher.encode(),
        excluded=data["excluded"],
    )
