"""The values that travel through Relay: positions, drafts and publications. They know no dialect and no storage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import attrs

from relay.ground import strictjson
from relay.ground.errors import RequestError
from relay.model.kinds import ChannelName


@attrs.frozen
class Position:
    """A place in one channel: everything up to and with `offset` is behind it. The first publication has offset 1."""

    offset: int
    epoch: str

    @staticmethod
    def parse(value: object) -> Position | None:
        """Return the position that a client sent as `{"offset", "epoch"}`, None if it is none."""
        if isinstance(value, dict):
            offset, epoch = value.get("offset"), value.get("epoch")
            if isinstance(offset, int) and not isinstance(offset, bool) and offset >= 0 and isinstance(epoch, str):
                return Position(offset, epoch)
        return None


class Publication:
    """One thing published to a channel. Never changed once it is made.

    A publication with offset 0 is a *signal* (typing, presence): it reaches who is there, and is neither kept nor resumed.
    Its data exists as an object, as JSON or as both; each form is made when it is first asked for.
    """

    __slots__ = ("_data", "_json", "channel", "epoch", "offset", "published_ms", "type")

    def __init__(
        self,
        channel: ChannelName,
        type_: str,
        offset: int,
        epoch: str,
        published_ms: int,
        *,
        data: dict[str, Any] | None = None,
        json: bytes | None = None,
    ) -> None:
        self.channel = channel
        self.type = type_
        self.offset = offset
        self.epoch = epoch
        self.published_ms = published_ms
        self._data = data
        self._json = json

    @property
    def data(self) -> dict[str, Any]:
        """The data as an object. Callers must not change it."""
        if self._data is None:
            self._data = strictjson.loads_object(self.json)
        return self._data

    @property
    def json(self) -> bytes:
        """The data as compact JSON."""
        if self._json is None:
            self._json = strictjson.dumps(self._data)
        return self._json

    def __repr__(self) -> str:
        return f"<Publication {self.channel.text} {self.type} {self.offset}>"


Encoder = Callable[[Publication], bytes | None]
"""A dialect's encoding of a publication, as one frame; None if the dialect does not send it."""


class Origin(Protocol):
    """The connection that caused a publication, and wants one copy in its own words at its place in the order."""

    @property
    def sink(self) -> Any:
        """Where the connection's frames go: it gets no other copy."""

    def receive(self, publication: Publication) -> None:
        """Take the publication. A plain call: it neither waits nor raises."""


@attrs.frozen
class Idempotency:
    """A key under which a publication counts once, within `scope`, for `period` seconds."""

    scope: str
    key: str
    period: float


Prepare = Callable[[Any], str | None]


@attrs.define(eq=False)
class Draft:
    """A publication before it has a position.

    `prepare` runs in the transaction that commits a durable draft, before the draft gets its offset; it is given the store's
    connection, may write what belongs to the publication (a room's message), may refuse with `RequestError`, and returns the
    reference (an id) that a repeat of the same idempotency key is answered with.
    """

    channel: ChannelName
    type: str
    data: dict[str, Any]
    published_ms: int
    origin: Origin | None = None
    idempotency: Idempotency | None = None
    prepare: Prepare | None = None
    size: int = 0
    """Bytes that the draft came in, where that is known: what bulk publishing counts."""
    _json: bytes | None = attrs.field(default=None, init=False)

    def store_with(self, prepare: Prepare, data: dict[str, Any] | None = None) -> None:
        """Run `prepare` in the transaction that commits the draft; publish `data`, if given, in place of the draft's own."""
        self.prepare = prepare
        if data is not None:
            self.data = data

    @property
    def json(self) -> bytes | None:
        """The data as compact JSON, if the store needed it already."""
        return self._json

    def encode(self) -> bytes:
        """Return the data as compact JSON, for the store and for everyone after it."""
        if self._json is None:
            self._json = strictjson.dumps(self.data)
        return self._json

    def at(self, position: Position) -> Publication:
        """Return the publication that the draft becomes at its position."""
        return Publication(
            self.channel, self.type, position.offset, position.epoch, self.published_ms, data=self.data, json=self._json
        )


@attrs.frozen
class Published:
    """What became of a draft: its position, and whether an earlier draft with the same key had taken it already."""

    position: Position
    repeated: bool = False
    reference: str | None = None


Outcome = Published | RequestError
"""What became of one of several drafts."""
