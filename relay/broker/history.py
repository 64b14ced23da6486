"""One channel's bounded history: the newest publications, dense in their offsets. No trio, no I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice

from relay.model.publication import Publication


class History:
    """The newest publications of one channel, at most `max_size`.

    It holds every publication after `floor` without a gap, and none before. It begins empty at the channel's head, whose offset is
    `floor`. It grows at its new end by `append`, and at its old end by `extend_back` when the rest was read from the store.
    """

    __slots__ = ("_entries", "complete", "floor", "max_size")

    def __init__(self, max_size: int, head: int) -> None:
        """`head` is the offset of the newest publication, 0 if the channel has none."""
        self.max_size = max_size
        self.floor = head
        self.complete = head == 0
        """Whether the store keeps no publication that is missing here."""
        self._entries: deque[Publication] = deque()

    def __len__(self) -> int:
        return len(self._entries)

    def append(self, publication: Publication) -> None:
        """Add the publication that follows the newest. A full history drops its oldest publication."""
        self._entries.append(publication)
        if len(self._entries) > self.max_size:
            self.floor = self._entries.popleft().offset
            self.complete = True

    def replace(self, publication: Publication) -> None:
        """Keep this publication alone. For a channel whose last value alone counts; offsets in between may be missing."""
        self._entries.clear()
        self._entries.append(publication)
        self.floor = publication.offset - 1
        self.complete = True

    def extend_back(self, older: Sequence[Publication]) -> None:
        """Add publications from the store, oldest first; some may be here already. The history is complete afterwards.

        Publications that leave a gap to the present ones are dropped, because the ones in between expired before they were written.
        """
        if not self.complete:
            missing = [publication for publication in older if publication.offset <= self.floor]
            if missing and missing[-1].offset != self.floor and self.max_size > 1:
                missing = []
            room = self.max_size - len(self._entries)
            missing = missing[len(missing) - room :] if room < len(missing) else missing
            self._entries.extendleft(reversed(missing))
            if missing:
                self.floor = missing[0].offset - 1
        self.complete = True

    def expire(self, before_ms: int) -> None:
        """Drop publications from before this time (Unix milliseconds)."""
        entries = self._entries
        while entries and entries[0].published_ms < before_ms:
            self.floor = entries.popleft().offset

    def drop(self, up_to: int) -> None:
        """Drop the publications up to an offset, because the store does not keep them any more."""
        entries = self._entries
        while entries and entries[0].offset <= up_to:
            self.floor = entries.popleft().offset

    def reaches(self, offset: int) -> bool:
        """Return whether every publication after `offset` is here."""
        return offset >= self.floor

    def after(self, offset: int, limit: int) -> list[Publication]:
        """Return at most `limit` publications that follow `offset`, oldest first. `reaches(offset)` must be true."""
        skip = offset - self.floor
        return list(islice(self._entries, skip, skip + limit))

    def start_of_last(self, count: int) -> int | None:
        """Return the offset that the newest `count` publications follow; None if there are none."""
        return self._entries[-min(count, len(self._entries))].offset - 1 if self._entries else None

    def before(self, offset: int, limit: int) -> list[Publication]:
        """Return at most `limit` publications with a lower offset, newest first."""
        older = (publication for publication in reversed(self._entries) if publication.offset < offset)
        return list(islice(older, limit))

    def all(self) -> list[Publication]:
        """Return every publication, oldest first."""
        return list(self._entries)

    def newer_than(self, offset: int) -> list[Publication]:
        """Return the publications that follow `offset`, oldest first. Dropped ones are missing from the result."""
        newer: list[Publication] = []
        for publication in reversed(self._entries):
            if publication.offset <= offset:
                break
            newer.append(publication)
        newer.reverse()
        return newer
