"""Reads the files that this package carries: the JavaScript client and the demo page."""

from __future__ import annotations

from functools import cache
from importlib import resources


@cache
def read(path: str) -> bytes:
    """Return a file of this package, such as `js/relay.js`. The caller names files of the package only."""
    return resources.files(__package__).joinpath(path).read_bytes()
