"""The room of the tests that run alone: shared by the others, empty for them, and entered in turn."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from tests.alone import Room


@pytest.fixture
def room(tmp_path: Path) -> Room:
    made = Room(tmp_path / "inside", tmp_path / "gate")
    for path in made:
        path.touch()
    return made


class Visitors:
    """Threads that stay in a room for a moment, and what they see of each other."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._lock = threading.Lock()
        self._inside: list[bool] = []
        self.most = 0
        self.faults = 0
        self.order: list[str] = []

    def visit(self, name: str, *, alone: bool, seconds: float = 0.01) -> None:
        """Enter, stay, and leave."""
        with self._room.entered(alone=alone):
            with self._lock:
                self._inside.append(alone)
                self.most = max(self.most, len(self._inside))
                self.faults += any(self._inside) and len(self._inside) > 1
                self.order.append(name)
            time.sleep(seconds)
            with self._lock:
                self._inside.remove(alone)

    def start(self, name: str, *, alone: bool, seconds: float = 0.01) -> threading.Thread:
        """Let a visitor come."""
        thread = threading.Thread(target=self.visit, args=(name,), kwargs={"alone": alone, "seconds": seconds})
        thread.start()
        return thread


def test_who_is_alone_is_alone_and_the_others_are_together(room: Room) -> None:
    visitors = Visitors(room)
    for thread in [visitors.start(str(number), alone=number % 5 == 0) for number in range(30)]:
        thread.join(20)
    assert len(visitors.order) == 30
    assert visitors.faults == 0
    assert visitors.most > 1


def test_nobody_overtakes_a_test_that_waits_to_be_alone(room: Room) -> None:
    visitors = Visitors(room)
    threads = [visitors.start("first", alone=False, seconds=0.2)]
    while not visitors.order:
        time.sleep(0.001)
    threads.append(visitors.start("alone", alone=True))
    time.sleep(0.05)
    threads.append(visitors.start("late", alone=False))
    for thread in threads:
        thread.join(20)
    assert visitors.order == ["first", "alone", "late"]
