"""Checks of the data of publications in built-in namespaces: the fields that each must have. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from relay.ground.errors import FieldError

Check = Callable[[Mapping[str, Any]], FieldError | None]
"""Returns the wrong field of data, None if nothing is wrong."""


def is_number(value: object) -> bool:
    """Return whether a decoded JSON value is a finite number (true and false are not numbers)."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def text(*fields: str) -> Check:
    """Return a check that each of these fields is a text that is not empty."""

    def check(data: Mapping[str, Any]) -> FieldError | None:
        for field in fields:
            value = data.get(field)
            if not isinstance(value, str) or not value.strip():
                return FieldError(field, "is required and must be a text that is not empty")
        return None

    return check


def price(data: Mapping[str, Any]) -> FieldError | None:
    """Check the price of a market."""
    return None if is_number(data.get("price")) else FieldError("price", "is required and must be a finite number")


def ratios(data: Mapping[str, Any]) -> FieldError | None:
    """Check the ratios of a chart."""
    ratios = data.get("ratios")
    if isinstance(ratios, list) and ratios and all(is_number(ratio) and 0 <= ratio <= 1 for ratio in ratios):
        return None
    return FieldError("ratios", "is required and must be an array of numbers from 0 to 1")
