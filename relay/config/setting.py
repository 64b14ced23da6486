"""Declares settings: attrs fields with a reason, a unit and a check of their value.

This module names no setting.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import attrs

Check = Callable[[Any, Any, Any], object]
"""An attrs validator: called with the instance, the attribute and the value."""


def setting(
    default: object,
    reason: str,
    *,
    unit: str | None = None,
    check: Check | None = None,
    secret: bool = False,
    instead_of: str | None = None,
    sample: str | None = None,
    reload: bool = False,
) -> Any:
    """Declare a setting. A default of None passes every check. A secret is left out of the configuration's repr.

    A reload takes up a change of the setting, or of its whole section, if `reload`; else a change needs a restart.
    `instead_of` names a setting of the same section: it is an error to set both. `sample` is shown in the example file in
    place of the default, for a setting that must be set.
    """
    if default is None and check is not None:
        check = attrs.validators.optional(check)
    metadata = {"reason": reason, "unit": unit, "instead_of": instead_of, "sample": sample, "reload": reload}
    return attrs.field(default=default, validator=check, repr=not secret, metadata=metadata)


def section(cls: Callable[[], object], reason: str, *, reload: bool = False) -> Any:
    """Declare a section: a class of settings, each with a default. `reload`: as for `setting`, for each of them."""
    return attrs.field(factory=cls, metadata={"reason": reason, "unit": None, "reload": reload})


def table(entry: Callable[[str], type[Any]], reason: str, *, name: str, reload: bool = False) -> Any:
    """Declare a table of sections with free names, empty by default. `reload`: as for `setting`, for each of them.

    `name` is the one of a section in the example file and in the handbook. `entry` returns the class of the section with a
    name. It raises ValueError for a name that no section can have.
    """
    metadata = {"reason": reason, "unit": None, "instead_of": None, "entry": entry, "name": name, "reload": reload}
    return attrs.field(factory=dict, metadata=metadata)


def quoted(value: object) -> str:
    """Return a value in TOML notation. A path becomes a text, and None the empty text."""
    if not isinstance(value, bool | int | float | str | list | tuple):
        value = "" if value is None else str(value)
    return json.dumps(value, ensure_ascii=False)
