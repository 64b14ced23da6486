"""Structures bodies and queries of requests as attrs classes, whose fields carry their checks. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import attrs

from relay.ground.errors import Code, FieldError, RequestError
from relay.ground.structure import Check, Rules, StructureError, Structurer

T = TypeVar("T")


def field(check: Check, *, key: str | None = None, default: Any = attrs.NOTHING) -> Any:
    """Declare a field. `key` is its name in JSON, if that is another one. Without a default the field is required."""
    return attrs.field(default=default, metadata={"check": check, "key": key})


def structured(value: Mapping[str, Any], cls: type[T]) -> T:
    """Return a body or a query as an instance of `cls`. Unknown keys are ignored.

    Raises:
        RequestError: `INVALID_REQUEST`, with every field that is missing or wrong.
    """
    try:
        return _STRUCTURER.structure(value, cls)
    except StructureError as error:
        problems = [FieldError(".".join(mistake.path), mistake.message) for mistake in error.mistakes]
    summary = "; ".join(f"{problem.field} {problem.message}" for problem in problems)
    raise RequestError(Code.INVALID_REQUEST, summary, fields=problems)


_STRUCTURER = Structurer(
    Rules(
        check_of=lambda declared: declared.metadata["check"],
        key_of=lambda declared: declared.metadata["key"] or declared.name,
        not_a_table=lambda _value, _path: "must be an object",
    )
)
