"""The room of the tests: shared, shared by those that measure time, or had alone, and entered in turn."""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.alone import Company, Room, Visitor


@pytest.fixture
def room(tmp_path: Path) -> Room:
    made = Room(tmp_path / "gate", tmp_path / "timed", tmp_path / "others")
    for path in made:
        path.touch()
    return made


class Visitors:
    """Threads that stay in a room for a moment, and what they see of each other."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._lock = threading.Lock()
        self._inside: Counter[Company] = Counter()
        self.most: Counter[Company] = Counter()
        self.faults = 0
        self.order: list[str] = []

    def visit(self, name: str, company: Company, seconds: float = 0.01) -> None:
        """Enter, stay, and leave."""
        with self._room.entered(company):
            with self._lock:
                self._inside[company] += 1
                self.most |= self._inside
                self.faults += len(+self._inside) > 1 or self._inside[Company.NONE] > 1
                self.order.append(name)
            time.sleep(seconds)
            with self._lock:
                self._inside[company] -= 1

    def start(self, name: str, company: Company, seconds: float = 0.01) -> threading.Thread:
        """Let a visitor come."""
        thread = threading.Thread(target=self.visit, args=(name, company, seconds))
        thread.start()
        return thread


def test_each_has_its_company(room: Room) -> None:
    visitors = Visitors(room)
    for thread in [visitors.start(str(number), Company(number // 2 % 3)) for number in range(60)]:
        thread.join(20)
    assert len(visitors.order) == 60
    assert visitors.faults == 0
    assert visitors.most[Company.ANY] > 1
    assert visitors.most[Company.TIMED] > 1
    assert visitors.most[Company.NONE] == 1


@pytest.mark.parametrize("company", [Company.TIMED, Company.NONE])
def test_nobody_overtakes_a_test_that_waits(room: Room, company: Company) -> None:
    visitors = Visitors(room)
    threads = [visitors.start("first", Company.ANY, 0.2)]
    while not visitors.order:
        time.sleep(0.001)
    threads.append(visitors.start("waits", company))
    time.sleep(0.05)
    threads.append(visitors.start("late", Company.ANY))
    for thread in threads:
        thread.join(20)
    assert visitors.order == ["first", "waits", "late"]


def test_a_process_stays_between_two_tests_of_time(room: Room) -> None:
    visitors = Visitors(room)
    one, two = Visitor(room), Visitor(room)
    one.enter(Company.TIMED)
    other = visitors.start("other", Company.ANY)
    time.sleep(0.05)
    one.leave(Company.TIMED, Company.TIMED)
    one.enter(Company.TIMED)
    time.sleep(0.05)
    assert visitors.order == []
    one.leave(Company.TIMED, Company.ANY)
    other.join(20)
    assert visitors.order == ["other"]
    for company in (Company.ANY, Company.NONE):
        two.enter(company)
        two.leave(company, company)
        late = visitors.start("late", Company.TIMED)
        late.join(20)
    assert visitors.order == ["other", "late", "late"]
