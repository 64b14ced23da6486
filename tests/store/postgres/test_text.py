"""Every text that SQLite stores comes back from PostgreSQL as it was."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from relay.store.postgres.text import escape, unescape


@given(st.text(alphabet=st.sampled_from("a\0\ufffe01é😀")) | st.text())
def test_an_escape_is_undone(text: str) -> None:
    assert unescape(escape(text)) == text
    assert "\0" not in escape(text)


@given(st.text(alphabet=st.sampled_from("a\0\ufffe01")), st.text(alphabet=st.sampled_from("a\0\ufffe01")))
def test_two_texts_stay_two(one: str, other: str) -> None:
    assert (escape(one) == escape(other)) == (one == other)
