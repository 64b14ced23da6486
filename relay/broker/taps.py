"""Taps: bounded views of what is published, for operators. A tap never slows a publisher: it drops and counts."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType

from relay.ground.errors import RETRY_AFTER, Code, RequestError
from relay.model.publication import Draft, Position, Publication

MAX_TAPS = 8
"""Open taps of one server."""
MAX_HELD_BYTES = 1_048_576
"""Bytes that one tap holds for its reader."""

EncodeLine = Callable[[Publication], bytes]


class Tap(AbstractContextManager["Tap"]):
    """The publications of channels whose name matches, as lines. A context manager, which closes the tap."""

    def __init__(self, taps: Taps, matches: Callable[[str], object], encode: EncodeLine, rate: int) -> None:
        """`rate` is the number of publications that are taken between two calls of `renew`."""
        self._taps = taps
        self._matches = matches
        self._encode = encode
        self._rate = self._left = rate
        self._lines: list[bytes] = []
        self._size = 0
        self._skipped = 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._taps.remove(self)

    def take(self, publication: Publication) -> None:
        """Take a publication if its channel matches, or count it as skipped. Called synchronously; must not raise."""
        if not self._matches(publication.channel.text):
            return
        if not self._left or self._size >= MAX_HELD_BYTES:
            self._skipped += 1
            return
        line = self._encode(publication)
        self._left -= 1
        self._size += len(line)
        self._lines.append(line)

    def take_lines(self) -> list[bytes]:
        """Return the lines that came since the last call."""
        lines, self._lines, self._size = self._lines, [], 0
        return lines

    def renew(self) -> int:
        """Begin the next period of the rate, and return the number of publications that the last one skipped."""
        skipped, self._skipped, self._left = self._skipped, 0, self._rate
        return skipped


class Taps:
    """The open taps of one server."""

    def __init__(self) -> None:
        self._open: dict[Tap, None] = {}

    def __len__(self) -> int:
        return len(self._open)

    def open(self, matches: Callable[[str], object], encode: EncodeLine, rate: int) -> Tap:
        """Return a new tap for a `with` block.

        Raises:
            RequestError: `UNAVAILABLE`; there are MAX_TAPS already.
        """
        if len(self._open) >= MAX_TAPS:
            raise RequestError(
                Code.UNAVAILABLE,
                f"There are {MAX_TAPS} tails already, and no more are allowed.",
                retry_after=RETRY_AFTER,
            )
        tap = Tap(self, matches, encode, rate)
        self._open[tap] = None
        return tap

    def remove(self, tap: Tap) -> None:
        """Close a tap. Idempotent."""
        self._open.pop(tap, None)

    def take(self, draft: Draft, position: Position) -> None:
        """Show a draft, published at a position, to every tap."""
        if self._open:
            self.show(draft.at(position))

    def show(self, publication: Publication) -> None:
        """Show a publication to every tap."""
        for tap in self._open:
            tap.take(publication)
