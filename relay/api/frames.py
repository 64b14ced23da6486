"""Describes the frames of a WebSocket endpoint, in a table of its dialect. `/asyncapi.json` is made from the tables.

A dialect has a module `frames.py` with one `WireApi` for each of its endpoints. A test fails for a type of frame that is
missing there, and sends or receives every example.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from relay.ground.errors import Reason
from relay.ground.schema import Fields


@attrs.frozen
class Frame:
    """One type of frame."""

    type: str
    summary: str
    fields: Any
    """The fields beside `type` as `Fields`, or the type of the whole frame."""
    examples: Sequence[Any]
    """At least one. Whole frames, as they are on the wire."""
    answers: Sequence[str] = ()
    """The types of the server's frames that answer it."""
    name: str = ""
    """The name in the document if another frame of the same direction has the type."""
    prefix: str = ""
    """The text before the JSON, for a protocol whose frames are more than JSON."""

    @property
    def key(self) -> str:
        """The name in the document."""
        return (self.name or self.type).replace(":", "_")


@attrs.frozen
class WireApi:
    """One WebSocket endpoint: its path and its frames."""

    name: str
    path: str
    """With a part in braces for each parameter."""
    summary: str
    server: Sequence[Frame]
    """The frames of the server."""
    closes: Sequence[Reason]
    """The reasons with which the server ends a connection."""
    client: Sequence[Frame] = ()
    """The frames of the client."""
    parameters: Mapping[str, str] = attrs.field(factory=dict)
    """The meaning of each part of the path in braces."""
    query: Fields = attrs.field(factory=dict)
    """The query of the handshake."""


CLOSES = (
    Reason.NORMAL,
    Reason.SHUTTING_DOWN,
    Reason.IDLE,
    Reason.PROTOCOL_ERROR,
    Reason.NOT_UTF8,
    Reason.DISCONNECTED,
    Reason.FLOOD,
    Reason.TOO_LARGE,
    Reason.INTERNAL_ERROR,
    Reason.CUT_OFF,
    Reason.RECONNECT,
    Reason.TOO_SLOW,
)
"""The reasons with which every endpoint may end a connection."""
