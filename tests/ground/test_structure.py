"""Structuring: nothing is converted, and every mistake is found, at any depth."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.ground.structure import Mistake, Rules, StructureError, Structurer

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


def exact(field: attrs.Attribute[Any]) -> Any:
    """Return the check of a field: its very type, and no other."""

    def check(value: object) -> object:
        if type(value) is not field.type:
            raise ValueError(f"must be {field.type.__name__}")  # type: ignore[union-attr]
        return value

    return check


@attrs.frozen
class Inner:
    """A section."""

    number: int = 1
    share: float = 0.5
    word: str = "x"
    flag: bool = True


@attrs.frozen
class Outer:
    """What is structured."""

    name: str
    inner: Inner = attrs.field(factory=Inner)


def rules(**more: Any) -> Rules:
    """Return rules that allow no conversion."""
    return Rules(check_of=exact, not_a_table=lambda value, path: f"at {path} is {value!r}", **more)


STRICT = Structurer(rules(unknown_key=lambda path: f"unknown at {len(path)}"))


def mistakes(value: object, structurer: Structurer = STRICT) -> list[Mistake]:
    """Return everything that is wrong with a value."""
    with pytest.raises(StructureError) as caught:
        structurer.structure(value, Outer)
    return list(caught.value.mistakes)


@pytest.mark.slow
@given(st.fixed_dictionaries({}, optional={"number": JSON, "share": JSON, "word": JSON, "flag": JSON}))
def test_no_value_is_converted(values: dict[str, Any]) -> None:
    """ "7" is not 7, 1.5 is not 1, and true is not 1: a value is passed on as the object that it is, or refused."""
    types = {"number": int, "share": float, "word": str, "flag": bool}
    wrong = {name for name, value in values.items() if type(value) is not types[name]}
    if wrong:
        found = mistakes({"name": "n", "inner": values})
        assert {mistake.path for mistake in found} == {("inner", name) for name in wrong}
        return
    inner = STRICT.structure({"name": "n", "inner": values}, Outer).inner
    for name, value in values.items():
        assert getattr(inner, name) is value


def test_every_mistake_is_reported_with_its_path() -> None:
    """Missing, wrong and unknown keys of all levels, in one error."""
    value = {"inner": {"number": "7", "share": 1, "flag": 1, "wrod": "x"}, "nmae": "x"}
    assert mistakes(value) == [
        Mistake(("name",), "is required"),
        Mistake(("inner", "number"), "must be int"),
        Mistake(("inner", "share"), "must be float"),
        Mistake(("inner", "flag"), "must be bool"),
        Mistake(("inner", "wrod"), "unknown at 2"),
        Mistake(("nmae",), "unknown at 1"),
    ]


@pytest.mark.parametrize("value", [None, 5, "x", [], [("name", "x")]])
def test_a_value_that_is_not_a_mapping(value: object) -> None:
    """At the top and below, named by its path."""
    assert mistakes(value) == [Mistake((), f"at () is {value!r}")]
    assert mistakes({"name": "n", "inner": value}) == [Mistake(("inner",), f"at ('inner',) is {value!r}")]


def test_unknown_keys_are_ignored_unless_there_is_a_message_for_them() -> None:
    """As request bodies have it."""
    assert Structurer(rules()).structure({"name": "n", "other": 1}, Outer) == Outer("n")


def test_a_key_of_another_name() -> None:
    """The key is what is read, and what a mistake names."""
    structurer = Structurer(rules(key_of=lambda field: field.name.upper()))
    assert structurer.structure({"NAME": "n", "INNER": {"WORD": "w"}}, Outer) == Outer("n", Inner(word="w"))
    assert mistakes({"name": "n", "INNER": {"WORD": 1}}, structurer) == [
        Mistake(("NAME",), "is required"),
        Mistake(("INNER", "WORD"), "must be str"),
    ]


def test_conflicts_are_reported_beside_other_mistakes() -> None:
    """Those of an instance that could be made; an unknown key does not hide them."""

    def conflicts(instance: object) -> Any:
        if isinstance(instance, Inner) and instance.number > instance.share:
            yield "number", "is more than share"

    structurer = Structurer(rules(conflicts=conflicts, unknown_key=lambda _: "unknown"))
    assert mistakes({"inner": {"number": 2, "x": 1}}, structurer) == [
        Mistake(("name",), "is required"),
        Mistake(("inner", "number"), "is more than share"),
        Mistake(("inner", "x"), "unknown"),
    ]


def test_a_defect_of_a_check_is_not_reported_as_a_mistake() -> None:
    """It is raised as it is."""

    def broken(_: object) -> object:
        raise ZeroDivisionError

    structurer = Structurer(Rules(check_of=lambda _: broken, not_a_table=lambda *_: ""))
    with pytest.raises(ZeroDivisionError):
        structurer.structure({"name": "n"}, Outer)
