"""The progress bar of a load, on stderr if that is a terminal.

The load's own thread draws it, a few times per second.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn
from rich.progress import Progress as Bar

DRAW_INTERVAL = 0.2
"""Seconds between two drawings of the bar."""


class Progress:
    """The progress of the load."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._task = bar.add_task("starting", total=None)
        self._next = 0.0

    def phase(self, name: str, total: float | None) -> None:
        """Start a phase of the load; None: its duration is not known."""
        self._bar.reset(self._task, description=name, total=total)
        self._bar.refresh()

    def at(self, completed: float) -> None:
        """Update the progress of this phase."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + DRAW_INTERVAL
            self._bar.update(self._task, completed=completed)
            self._bar.refresh()


@contextmanager
def open_progress() -> Iterator[Progress]:
    """Show a progress bar during the block."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description:<24}"), BarColumn(), TaskProgressColumn())
    with Bar(*columns, console=console, auto_refresh=False, transient=True, disable=not console.is_terminal) as bar:
        yield Progress(bar)
