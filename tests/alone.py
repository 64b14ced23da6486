"""A room that tests share, in any process: with all others, with others that measure time, or with none."""

from __future__ import annotations

import enum
import fcntl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple


class Company(enum.IntEnum):
    """Those beside whom a test runs, the nearer to none the larger."""

    ANY = 0
    TIMED = 1
    """Others of this kind: they measure time, and wait for most of it."""
    NONE = 2


class Room(NamedTuple):
    """Three files, which are locked and never written: one for a test that waits to run, two for those that run."""

    gate: Path
    timed: Path
    others: Path

    @contextmanager
    def entered(self, company: Company) -> Iterator[None]:
        """Wait until only tests of this company are in the room; leave it with the block.

        Nobody enters while a test waits, so none is kept waiting by others that come and go.
        """
        mine, theirs = (self.timed, self.others) if company is Company.TIMED else (self.others, self.timed)
        with mine.open() as inside:
            with _locked(self.gate), _locked(theirs):
                fcntl.flock(inside, fcntl.LOCK_EX if company is Company.NONE else fcntl.LOCK_SH)
            try:
                yield
            finally:
                fcntl.flock(inside, fcntl.LOCK_UN)


class Visitor:
    """One process that runs tests, each in its company, one after the other."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._inside = ExitStack()
        self._is_inside = False

    def enter(self, company: Company) -> None:
        """Wait for a test's company. One that stayed is with it."""
        if not self._is_inside:
            self._inside.enter_context(self._room.entered(company))
            self._is_inside = True

    def leave(self, company: Company, following: Company | None) -> None:
        """Leave after a test. Between two tests that measure time it stays: others would enter, and be waited for."""
        if not company is following is Company.TIMED:
            self._inside.close()
            self._is_inside = False


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)  # not by closing alone: a process that a test forked may have the file too
