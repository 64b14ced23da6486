"""One channel's bounded history: the newest publications, dense in their offsets. No trio, no I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice

from relay.model.publication import Publication


class History:
    """The newest publications of one channel, at most `max_size`.

    It holds every publication after `floor`, without a gap; of what is older it knows nothing. It begins empty at the channel's head
    (`floor` is the head's offset) and grows at its new end by `append` and at its old end by `extend_back`, when the rest
    was read from the store.
    """

    __slots__ = ("_entries", "complete", "floor", "max_size")

    def __init__(self, max_size: int, head: int) -> None:
        """`head`: offset of the newest publication that there is, 0 if there is none."""
        self.max_size = max_size
        self.floor = head
        self.complete = head == 0
        """Whether nothing older is kept anywhere."""
        self._entries: deque[Publication] = deque()

    def __len__(self) -> int:
        return len(self._entries)

    def append(self, publication: Publication) -> None:
        """Add the publication that follows the newest; the oldest makes room."""
        self._entries.append(publication)
        if len(self._entries) > self.max_size:
            self.floor = self._entries.popleft().offset
            self.complete = True

    def replace(self, publication: Publication) -> None:
        """Keep this publication alone: for a channel of which only the last value counts, whatever came between."""
        self._entries.clear()
        self._entries.append(publication)
        self.floor = publication.offset - 1
        self.complete = True

    def extend_back(self, older: Sequence[Publication]) -> None:
        """Add what the store kept, oldest first; it may overlap with what is here. From now on the history is complete.

        What does not join on is left out: between it and what is here something expired before it was written.
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
        """Drop what was published before this time (Unix milliseconds)."""
        entries = self._entries
        while entries and entries[0].published_ms < before_ms:
            self.floor = entries.popleft().offset

    def reaches(self, offset: int) -> bool:
        """Tell whether every publication after `offset` is here."""
        return offset >= self.floor

    def after(self, offset: int, limit: int) -> list[Publication]:
        """Return at most `limit` publications that follow `offset`, oldest first; `reaches(offset)` must hold."""
        skip = offset - self.floor
        return list(islice(self._entries, skip, skip + limit))

    def all(self) -> list[Publication]:
        """Return what is here, oldest first."""
        return list(self._entries)

    def newer_than(self, offset: int) -> list[Publication]:
        """Return what is here and follows `offset`, oldest first; what was dropped meanwhile is passed over."""
        newer: list[Publication] = []
        for publication in reversed(self._entries):
            if publication.offset <= offset:
                break
            newer.append(publication)
        newer.reverse()
        return newer
