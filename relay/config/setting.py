"""What a setting is: an attrs field that carries its reason, its unit and the check of its value.

This module knows no setting by name.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import attrs

Check = Callable[[Any, Any, Any], object]
"""An attrs validator: called with the instance, the attribute and the value."""


def setting(
    default: object, reason: str, *, unit: str | None = None, check: Check | None = None, secret: bool = False
) -> Any:
    """Declare a setting. None as its default passes every check; a secret is not shown where a configuration is."""
    if default is None and check is not None:
        check = attrs.validators.optional(check)
    return attrs.field(default=default, validator=check, repr=not secret, metadata={"reason": reason, "unit": unit})


def section(cls: Callable[[], object], reason: str) -> Any:
    """Declare a section, which is a class of settings that have a default each."""
    return attrs.field(factory=cls, metadata={"reason": reason, "unit": None})


def quoted(value: object) -> str:
    """Return a value as it stands in TOML: a path is a text, None is the empty text."""
    if not isinstance(value, bool | int | float | str | list | tuple):
        value = "" if value is None else str(value)
    return json.dumps(value, ensure_ascii=False)
