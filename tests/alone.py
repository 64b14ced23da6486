"""A room that many tests share, in any process, and that a test which measures has for itself."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple


class Room(NamedTuple):
    """Two files, which are locked and never written: one for a test that runs, one for a test that waits to run."""

    inside: Path
    gate: Path

    @contextmanager
    def entered(self, *, alone: bool) -> Iterator[None]:
        """Wait until nobody else is in the room, or until nobody is alone in it; leave it with the block.

        Nobody enters while a test waits, so one that wants to be alone is not kept waiting by others that come and go.
        """
        with self.inside.open() as inside:
            with _locked(self.gate):
                fcntl.flock(inside, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
            try:
                yield
            finally:
                fcntl.flock(inside, fcntl.LOCK_UN)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)  # not by closing alone: a process that a test forked may have the file too
