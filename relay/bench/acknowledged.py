"""The audit of what a server acknowledged: each publication has an offset of its own. Pure."""

from __future__ import annotations

from collections.abc import Iterable


class Acknowledged:
    """The offsets of one channel that the server named in its answers.

    Answers on several connections overtake each other, so offsets come nearly in order: only those ahead of a gap are kept.
    """

    def __init__(self) -> None:
        self.count = 0
        self.repeated = 0
        """Offsets that were given to a second publication."""
        self._begin: int | None = None
        self._dense = 0  # every offset from _begin up to this one was acknowledged
        self._ahead: set[int] = set()
        self._before: set[int] = set()  # of answers that the first one overtook

    def take(self, offsets: Iterable[int]) -> None:
        """Take the offsets of one answer."""
        for offset in offsets:
            self.count += 1
            if self._begin is None:
                self._begin = offset
                self._dense = offset
            elif offset == self._dense + 1:
                self._dense = offset
                while self._ahead and self._dense + 1 in self._ahead:
                    self._dense += 1
                    self._ahead.remove(self._dense)
            elif offset < self._begin:
                self._note(self._before, offset)
            elif offset <= self._dense:
                self.repeated += 1
            else:
                self._note(self._ahead, offset)

    def _note(self, offsets: set[int], offset: int) -> None:
        if offset in offsets:
            self.repeated += 1
        offsets.add(offset)

    @property
    def gaps(self) -> bool:
        """Whether an offset between two acknowledged ones was not: it is another publisher's, or its answer was lost."""
        before = self._before
        return bool(self._ahead) or (bool(before) and len(before) != (self._begin or 0) - min(before))
