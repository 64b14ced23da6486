"""The values that travel through Relay: positions, drafts and publications. They know no dialect and no storage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import attrs

from relay.ground import strictjson
from relay.ground.errors import RequestError
from relay.model.namespaces import ChannelName

MAX_CLIENT_MESSAGE_ID_CHARACTERS = 128
"""Length of the id under which a client's message counts once. It is opaque, and never trimmed."""


class Position(NamedTuple):
    """A position in one channel: after the publication with this offset. The first publication has offset 1."""

    offset: int
    epoch: str

    @staticmethod
    def parse(value: object) -> Position | None:
        """Return the position that a client sent as `{"offset", "epoch"}`; None if it is not valid."""
        if isinstance(value, dict):
            offset, epoch = value.get("offset"), value.get("epoch")
            if isinstance(offset, int) and not isinstance(offset, bool) and offset >= 0 and isinstance(epoch, str):
                return Position(offset, epoch)
        return None


class Publication:
    """One publication of a channel. It never changes.

    A publication with offset 0 is a *signal* (typing, presence): it reaches current subscribers, and is neither kept nor resumed.
    Its data exists as an object, as JSON or as both. Each form is made when it is first read.
    """

    __slots__ = ("_data", "_json", "channel", "epoch", "excluded", "offset", "published_ms", "publisher", "type")

    def __init__(
        self,
        channel: ChannelName,
        type_: str,
        offset: int,
        epoch: str,
        published_ms: int,
        data: Any = None,
        json: bytes | None = None,
        publisher: bytes | None = None,
        excluded: str | None = None,
    ) -> None:
        self.channel = channel
        self.type = type_
        self.offset = offset
        self.epoch = epoch
        self.published_ms = published_ms
        self.publisher = publisher
        """The client that published, as JSON: `user`, and `connection` and `info` if there are any. None: a backend."""
        self.excluded = excluded
        """The id of the connection that gets no copy, while the publication is new."""
        self._data = data
        self._json = json

    @property
    def data(self) -> Any:
        """The data, decoded: an object, but any JSON value in a namespace of the configuration. Callers must not change it."""
        if self._data is None and self._json is not None:
            self._data = strictjson.loads(self._json)
        return self._data

    @property
    def json(self) -> bytes:
        """The data as JSON on one line: as it was published in a namespace of the configuration, else compact."""
        if self._json is None:
            self._json = strictjson.dumps(self._data)
        return self._json

    @property
    def is_signal(self) -> bool:
        """Whether it is a signal. A publication that is not kept has no offset either, but a time."""
        return not self.offset and not self.published_ms

    def __repr__(self) -> str:
        return f"<Publication {self.channel.text} {self.type} {self.offset}>"


Encoder = Callable[[Publication], bytes | None]
"""A dialect's encoding of a publication, as one frame; None if the dialect does not send it."""


class Origin(Protocol):
    """The connection that caused a publication. It gets its own encoding, in the order of the channel."""

    @property
    def sink(self) -> Any:
        """The connection's sink, which gets no other copy."""

    def receive(self, publication: Publication) -> None:
        """Send the publication. Called synchronously; must neither wait nor raise."""


class Unwritten(NamedTuple):
    """The part of a write-behind channel that the store does not have yet."""

    channel: ChannelName
    head: Position
    publications: list[Publication]
    version: int | None
    """The last version of the channel; None if it is not known, or has none."""


def publisher_json(user_id: str, connection_id: str | None, info: bytes | None) -> bytes:
    """Return the client that publishes, as JSON. `info` is JSON of its token."""
    named = {"user": user_id} if connection_id is None else {"user": user_id, "connection": connection_id}
    json = strictjson.dumps(named)
    return json if info is None else json[:-1] + b',"info":' + info + b"}"


@attrs.frozen
class Idempotency:
    """A key under which only the first publication counts, within `scope`, for `period` seconds."""

    scope: str
    key: str
    period: float


Prepared = str | None | RequestError
"""The reference of a draft, or why it was refused."""
Prepare = Callable[[Any, Sequence["Draft"]], Sequence[Prepared]]
"""Stores what belongs to drafts beside them, and returns for each its reference or its refusal, in order. See `Draft`."""


@attrs.define(eq=False)
class Draft:
    """A publication before it has a position.

    `prepare` runs in the transaction that commits a durable draft, before the draft gets its offset. It is called synchronously with
    the store's connection, once for all neighbours of a batch that share it. It may write rows that belong to the publications (the
    messages of a room). It returns for each draft the reference (an id) that a repeat of the same idempotency key is answered with,
    or a refusal. It may raise `RequestError` to refuse all. It writes nothing of a draft that it refuses.
    """

    channel: ChannelName
    type: str
    data: Any
    published_ms: int
    origin: Origin | None = None
    idempotency: Idempotency | None = None
    prepare: Prepare | None = None
    size: int = 0
    """Bytes of the request that the draft came in, 0 if unknown. Bulk publishing counts them."""
    publisher: bytes | None = None
    """The client that publishes, as JSON. See `Publication.publisher`."""
    version: int | None = None
    """If it is not higher than the last version of the channel, the draft is skipped."""
    excluded: str | None = None
    """The id of the connection that gets no copy. Its `origin` is that connection, if it is one of this server."""
    _json: bytes | None = None

    def store_with(self, prepare: Prepare, data: dict[str, Any] | None = None) -> None:
        """Run `prepare` in the transaction that commits the draft; publish `data`, if given, in place of the draft's own."""
        self.prepare = prepare
        if data is not None:
            self.data = data
            self._json = None

    def keep(self, json: bytes | None) -> None:
        """Keep the data in this form of JSON, on one line; None: encode it as needed."""
        self._json = json

    @property
    def json(self) -> bytes | None:
        """The data as JSON; None if it was not encoded yet."""
        return self._json

    def encode(self) -> bytes:
        """Return the data as JSON on one line. It is encoded once, for the store and every later reader."""
        if self._json is None:
            self._json = strictjson.dumps(self.data)
        return self._json

    def at(self, position: Position) -> Publication:
        """Return the publication of this draft at a position."""
        # Positional: names would cost as much as the rest.
        return Publication(
            self.channel,
            self.type,
            position.offset,
            position.epoch,
            self.published_ms,
            self.data,
            self._json,
            self.publisher,
            self.excluded,
        )


class Published(NamedTuple):
    """The outcome of a published draft: its position, and whether an earlier draft with the same key has it.

    A draft that was skipped for its version was not published: `position` is the head of its channel.
    """

    position: Position
    repeated: bool = False
    skipped: bool = False
    reference: str | None = None


Outcome = Published | RequestError
"""The outcome of one of several drafts."""
