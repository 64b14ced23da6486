"""A channel's history, against a list of everything that was ever published to it."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from relay.broker.history import History
from relay.model.namespaces import Namespaces
from relay.model.publication import Publication

CHANNEL = Namespaces(entities=["task"], history_period=1.0, durable=()).parse("task:1")


def publication(offset: int, published_ms: int = 0) -> Publication:
    """Return a publication of which only the place and the time matter."""
    return Publication(CHANNEL, "t", offset, "e", published_ms, data={})


def offsets(publications: list[Publication]) -> list[int]:
    """Return their offsets."""
    return [one.offset for one in publications]


class HistoryModel(RuleBasedStateMachine):
    """Append, expire and extend a history in any order: what it says is what the list says."""

    @initialize(max_size=st.integers(1, 8), earlier=st.integers(0, 12), ages=st.data())
    def begin(self, max_size: int, earlier: int, ages: st.DataObject) -> None:
        """Begin at a head: what came earlier is with the store alone."""
        self.now = 0
        self.published: list[Publication] = []
        for _ in range(earlier):
            self.publish(ages.draw(st.integers(0, 3)))
        self.max_size = max_size
        self.floor = earlier  # the list's item of this index is the oldest here
        self.complete = earlier == 0
        self.history = History(max_size, earlier)

    def publish(self, later: int) -> Publication:
        """Publish at the list's end."""
        self.now += later
        self.published.append(publication(len(self.published) + 1, self.now))
        return self.published[-1]

    @property
    def kept(self) -> list[Publication]:
        """What the history must hold."""
        return self.published[self.floor :]

    @rule(later=st.integers(0, 3))
    def append(self, later: int) -> None:
        """The oldest makes room, and from then on nothing older is kept anywhere."""
        self.history.append(self.publish(later))
        if len(self.kept) > self.max_size:
            self.floor += 1
            self.complete = True

    @rule(age=st.integers(0, 8))
    def expire(self, age: int) -> None:
        """What is older goes, what is exactly as old stays."""
        before = self.now - age
        self.history.expire(before)
        while self.kept and self.kept[0].published_ms < before:
            self.floor += 1

    @rule(stored=st.integers(0, 10), unwritten=st.integers(0, 3))
    def extend_back(self, stored: int, unwritten: int) -> None:
        """The store kept some; the newest of what is here may have come since it was read."""
        end = max(self.floor, len(self.published) - unwritten)
        older = self.published[max(0, end - stored) : end]
        self.history.extend_back(older)
        if not self.complete and older and older[0].offset <= self.floor:
            self.floor = max(older[0].offset - 1, len(self.published) - self.max_size)
        self.complete = True

    @invariant()
    def holds_what_it_must(self) -> None:
        """No more and no less, in order, within its bound."""
        assert self.history.all() == self.kept
        assert len(self.history) == len(self.kept) <= self.max_size
        assert self.history.complete == self.complete

    @invariant()
    def answers_every_position(self) -> None:
        """For each offset that there is or may be: whether it can be resumed from, and what follows it."""
        for offset in range(len(self.published) + 3):
            assert self.history.reaches(offset) == (offset >= self.floor)
            assert self.history.newer_than(offset) == [one for one in self.kept if one.offset > offset]
            if self.history.reaches(offset):
                for limit in (1, 3, 100):
                    assert self.history.after(offset, limit) == self.published[offset : offset + limit]

    @precondition(lambda self: self.history.complete)
    @rule()
    def begin_again(self) -> None:
        """After a restart the store gives back what was kept, and nothing older."""
        history = History(self.max_size, len(self.published))
        history.extend_back(self.kept)
        assert history.all() == self.kept
        assert history.reaches(self.floor)
        assert not self.floor or not history.reaches(self.floor - 1)


TestHistory = pytest.mark.slow(HistoryModel.TestCase)


def test_a_new_channel_is_complete() -> None:
    """Nothing was published: there is nothing to load, and the beginning can be resumed from."""
    history = History(3, 0)
    assert history.complete
    assert history.reaches(0)
    assert history.after(0, 10) == []


def test_a_loaded_head_knows_only_the_present() -> None:
    """Before the rest is loaded only the head itself can be resumed from."""
    history = History(3, 7)
    assert not history.complete
    assert history.reaches(7)
    assert not history.reaches(6)


def test_of_a_value_only_the_last_counts() -> None:
    """`replace` keeps one, whatever came between, and what the store had is of no interest any more."""
    history = History(1, 4)
    history.replace(publication(5))
    history.replace(publication(9))
    history.extend_back([publication(3)])
    assert offsets(history.all()) == [9]
    assert history.complete
    assert offsets(history.after(8, 10)) == [9]
    assert history.after(9, 10) == []
    assert offsets(history.newer_than(5)) == [9]
    assert not history.reaches(7)


def test_the_last_value_comes_back_from_the_store() -> None:
    """Also when what was published after it was no value: the head is past it."""
    history = History(1, 6)
    history.extend_back([publication(4)])
    assert offsets(history.all()) == [4]
    assert history.complete


def test_what_comes_too_late_finds_no_room() -> None:
    """A history that filled up while the store was asked keeps the newer ones."""
    history = History(2, 5)
    history.append(publication(6))
    history.append(publication(7))
    history.extend_back([publication(offset) for offset in (4, 5, 6)])
    assert offsets(history.all()) == [6, 7]
    assert not history.reaches(4)


def test_what_does_not_join_on_is_not_added() -> None:
    """Publications that grew too old before they were written leave a gap: what the store kept before it is of no use."""
    history = History(10, 3)
    for offset, published_ms in ((4, 0), (5, 0), (6, 9)):
        history.append(publication(offset, published_ms))
    history.expire(5)
    history.extend_back([publication(offset, 9) for offset in (1, 2, 3)])
    assert offsets(history.all()) == [6]
    assert not history.reaches(4)
    assert history.after(5, 10) == history.all()
