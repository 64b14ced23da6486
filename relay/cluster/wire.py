"""The payloads that announce publications. Pure.

The first line is that of `relay.store.notices`. Then come two lines for each publication: channel, offset, epoch, type,
time, publisher and, if there is one, the excluded connection as a JSON array, and the data as JSON, which has no line
breaks. A publication that is too large for a payload is announced by channel, offset and epoch alone, and an empty line;
a node that needs it fetches it. One of a channel that keeps the last value alone is announced in full: it could be gone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import attrs
import orjson

from relay.model.publication import Publication
from relay.store.parts import ESCAPE, MAX_PAYLOAD_BYTES

PUBLICATIONS = "p"
"""The sort of a payload that announces publications."""
_ESCAPE = ESCAPE.encode()
"""It takes more room in the database, so a publication with it is announced by its position."""


@attrs.frozen
class Announced:
    """A publication that some node committed."""

    channel: str
    offset: int
    epoch: str
    type: str | None
    """None: announced by its position alone."""
    published_ms: int
    json: bytes
    publisher: bytes | None = None
    excluded: str | None = None


@attrs.frozen
class Header:
    """The first line of a payload."""

    sort: str
    node: str
    sent_ms: int


def pack(publications: Sequence[Publication], *, node: str, now_ms: int) -> list[str]:
    """Return as few payloads as hold the publications, in their order. One of them may need parts (`store.parts`)."""
    header = f"{PUBLICATIONS} {node} {now_ms}".encode()
    payloads: list[str] = []
    parts, size = [header], len(header)
    for publication in publications:
        entry = _entry(publication, MAX_PAYLOAD_BYTES - len(header))
        if len(parts) > 1 and size + len(entry) > MAX_PAYLOAD_BYTES:
            payloads.append(b"".join(parts).decode())
            parts, size = [header], len(header)
        parts.append(entry)
        size += len(entry)
    payloads.append(b"".join(parts).decode())
    return payloads


def _entry(publication: Publication, maximum: int) -> bytes:
    publisher = None if publication.publisher is None else publication.publisher.decode()
    position = [publication.channel.text, publication.offset, publication.epoch]
    fields = [*position, publication.type, publication.published_ms, publisher]
    if publication.excluded is not None:
        fields.append(publication.excluded)
    entry = b"\n%b\n%b" % (orjson.dumps(fields), publication.json)
    if publication.channel.namespace.history_size > 1 and (len(entry) > maximum or _ESCAPE in entry):
        return b"\n%b\n" % orjson.dumps(position)
    return entry


def split(payload: str) -> tuple[Header, list[str]]:
    """Return the first line of a payload, and the other lines.

    Raises:
        ValueError: it is not a payload of Relay.
    """
    first, *lines = payload.split("\n")
    sort, node, sent_ms = first.split(" ")
    return Header(sort, node, int(sent_ms)), lines


def publications(lines: Sequence[str]) -> Iterator[Announced]:
    """Yield the publications that a payload announces.

    Raises:
        ValueError: the lines are not those of `pack`.
    """
    for meta, data in zip(lines[::2], lines[1::2], strict=True):
        fields = orjson.loads(meta)
        if len(fields) == 3:
            channel, offset, epoch = fields
            yield Announced(channel, offset, epoch, None, 0, b"")
        else:
            channel, offset, epoch, type_, published_ms, publisher, *excluded = fields
            by = None if publisher is None else publisher.encode()
            yield Announced(channel, offset, epoch, type_, published_ms, data.encode(), by, *excluded)
