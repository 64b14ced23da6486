"""A room that tests share, in any process: with all others, with others that measure time, or with none."""

from __future__ import annotations

import enum
import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

LOOKS = 10
"""How often in turn nobody must be there until one of the last believes that nobody comes any more."""
LOOK_PAUSE = 0.03
"""Seconds. Between two tests, a process is out of the room for some milliseconds."""


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
    def entered(self, company: Company, *, last: bool = False) -> Iterator[None]:
        """Wait until only tests of this company are in the room; leave it with the block.

        Nobody enters while a test waits, so none is kept waiting by others that come and go. One of the `last` waits
        until no others come.
        """
        mine, theirs = (self.timed, self.others) if company is Company.TIMED else (self.others, self.timed)
        with mine.open() as inside:
            if last:
                _wait_until_left(theirs)
            with _locked(self.gate), _locked(theirs):
                fcntl.flock(inside, fcntl.LOCK_EX if company is Company.NONE else fcntl.LOCK_SH)
            try:
                yield
            finally:
                fcntl.flock(inside, fcntl.LOCK_UN)


def _wait_until_left(path: Path) -> None:
    looks = 0
    with path.open() as file:
        while looks < LOOKS:
            time.sleep(LOOK_PAUSE)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                looks = 0
            else:
                fcntl.flock(file, fcntl.LOCK_UN)
                looks += 1


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)  # not by closing alone: a process that a test forked may have the file too
