"""JSON: what is read is what the client wrote, and nothing is read that could not be written again."""

from __future__ import annotations

import json
import sys
import tracemalloc

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relay.ground import strictjson
from relay.ground.errors import ProtocolError

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner),
    max_leaves=30,
)


@pytest.mark.slow
@given(VALUES)
def test_what_is_written_is_read_again(value: object) -> None:
    """Every value survives, from bytes and from text."""
    document = strictjson.dumps(value)
    for again in (strictjson.loads(document), strictjson.loads(document.decode())):
        assert again == value
        assert type(again) is type(value)


@pytest.mark.slow
@given(VALUES)
def test_python_agrees(value: object) -> None:
    """What another JSON library writes, with spaces and escapes, is read as it was meant."""
    assert strictjson.loads(json.dumps(value, indent=1)) == value


@given(st.integers(-(10**30), 10**30))
@example(2**63)
@example(2**64 - 1)
@example(2**64)
@example(-(2**63))
@example(-(2**63) - 1)
@example(10**18)
@example(10**19)
@example(10**20)
def test_integers_are_exact_or_refused(number: int) -> None:
    """An integer past 64 bits would come back as another number: it is malformed, wherever it stands."""
    for document in (f"{number}", f'{{"a":[{number}]}}', f"[ {number} ,1]"):
        if -(2**63) <= number < 2**64:
            value = strictjson.loads(document)
            assert json.loads(document) == value
        else:
            with pytest.raises(ProtocolError):
                strictjson.loads(document)


@pytest.mark.parametrize("digits", [20, 5000])
def test_an_absurd_integer_is_refused(digits: int) -> None:
    """Also one with more digits than Python converts."""
    for sign in "", "-":
        with pytest.raises(ProtocolError):
            strictjson.loads(sign + "9" * digits)


@pytest.mark.parametrize(
    "document",
    [
        '"9999999999999999999999"',
        "0.12345678901234567890123",
        "[1e19]",
        "1.9999999999999999999e3",
        '{"99999999999999999999":1}',
    ],
)
def test_long_digits_that_are_no_integer_pass(document: str) -> None:
    """In a text, a key, a fraction or an exponent they mean what they say."""
    assert strictjson.loads(document) == json.loads(document)


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b" ",
        b"{",
        b"{}{}",
        b"{'a':1}",
        b'{"a":1,}',
        b"[1 2]",
        b"nul",
        b"NaN",
        b"[Infinity]",
        b"-Infinity",
        b"1e400",
        b"[-1e400]",
        b"01",
        b"+1",
        b".5",
        b'"\x00"',
        b'"\n"',
        b'"\\x41"',
        b'"\\ud800"',
        b'"\\udc00\\ud800"',
        b'{"\\ud800":1}',
        b'"\xff"',
        b'"\xed\xa0\x80"',
        b"\xef\xbb\xbf{}",
        b"// no\n1",
    ],
)
def test_what_is_malformed_is_refused(document: bytes) -> None:
    """Each as its own kind of nonsense; the message says no more than that."""
    with pytest.raises(ProtocolError, match=r"^The message is not valid JSON\.$"):
        strictjson.loads(document)


def test_a_lone_surrogate_in_a_text_is_refused() -> None:
    """A text from elsewhere in Python may hold one: it has no UTF-8."""
    with pytest.raises(ProtocolError):
        strictjson.loads('"\ud800"')


@pytest.mark.parametrize(("begin", "end"), [("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")])
def test_nesting_is_bounded(begin: str, end: str) -> None:
    """So deep and no deeper, and what passes can be written again inside an envelope."""
    each = begin.count("[") + begin.count("{")
    deepest = strictjson.MAX_NESTING // each
    value = strictjson.loads(begin * deepest + "1" + end * deepest)
    assert json.loads(strictjson.dumps({"data": {"deep": value}})) == {"data": {"deep": value}}
    for levels in (deepest + 1, 500, 100_000):
        with pytest.raises(ProtocolError):
            strictjson.loads(begin * levels + "1" + end * levels)


def test_breadth_is_not_depth() -> None:
    """Many small values side by side, and brackets in texts, are no nesting."""
    document = json.dumps([{"a": ["[[[[{{{{"] * 3}] * 500)
    assert strictjson.loads(document) == json.loads(document)


def test_the_first_too_deep_is_found_among_many() -> None:
    """One deep branch among shallow ones."""
    deep: object = 1
    for _ in range(strictjson.MAX_NESTING):
        deep = [deep]
    with pytest.raises(ProtocolError, match="nested deeper than 128"):
        strictjson.loads(json.dumps([1, [2], deep, {"a": 1}]))


@pytest.mark.parametrize("document", ["[]", "1", '"a"', "null", "true"])
def test_an_object_is_an_object(document: str) -> None:
    """`loads_object` refuses every other value, and says what it wanted."""
    strictjson.loads(document)
    with pytest.raises(ProtocolError, match="not a JSON object"):
        strictjson.loads_object(document)
    assert strictjson.loads_object('{"a":1}') == {"a": 1}


@given(st.text() | st.binary())
def test_only_protocol_errors_leave(document: str | bytes) -> None:
    """Whatever comes, it is read or refused."""
    try:
        value = strictjson.loads(document)
    except ProtocolError:
        return
    assert strictjson.loads(strictjson.dumps(value)) == value


# -- how a value is written --------------------------------------------------------------------------------------------


@pytest.mark.slow
@given(st.dictionaries(TEXTS, VALUES, min_size=1, max_size=5), st.sampled_from([None, 0, 2]), st.booleans())
def test_a_member_is_found_as_it_is_written(value: dict[str, object], indent: int | None, ascii_only: bool) -> None:
    document = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode()
    for name, expected in value.items():
        found = strictjson.member(document, name)
        assert json.loads(found) == expected
        assert b"\n" not in found


@pytest.mark.slow
@given(st.lists(VALUES, max_size=5), st.sampled_from([None, 0, 2]))
def test_elements_are_found_as_they_are_written(value: list[object], indent: int | None) -> None:
    found = strictjson.elements(json.dumps(value, indent=indent).encode())
    assert [json.loads(element) for element in found] == value


def test_the_last_of_several_members_counts_as_it_does_for_a_decoder() -> None:
    assert strictjson.member(rb'{"d":1, "\u0064" : 2.50 , "x":{"d":3}}', "d") == b"2.50"


@pytest.mark.parametrize("length", [1, 100, 2000])
def test_what_is_written_takes_no_more_memory_than_its_length(length: int) -> None:
    """History and outboxes keep results, and count their lengths. orjson alone leaves them 4 KiB and more."""
    value = {"text": "x" * length}
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        kept = [strictjson.dumps(value) for _ in range(1000)]
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (after - before) / len(kept) < sys.getsizeof(kept[0]) + 64
