"""Facts of a configuration that several targets need."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import click

from relay.config.tree import Config

STORE_PATH = "store.path"
CLOSE_PERIOD = 30
"""Seconds that closing sessions and the database may take after shutdown_grace, on a slow disk."""


def fixed_port(config: Config) -> int:
    """Return the port.

    Raises:
        ClickException: the port is 0, which takes a free one.
    """
    if config.server.port == 0:
        raise click.ClickException(
            "server.port is 0, which takes a free port; a deployment needs a fixed one: set server.port"
        )
    return config.server.port


def uses_sqlite(config: Config) -> bool:
    """Return whether the database is the file store.path."""
    return config.store.url is None


def variable_of(key_path: str) -> str:
    """Return the name of the environment variable for a setting."""
    return f"RELAY_{key_path.upper().replace('.', '__')}"


def paths_of(section: Any, prefix: str = "") -> Iterator[tuple[str, Path]]:
    """Yield the key path and the value of every path that is set."""
    for field in attrs.fields(type(section)):
        value = getattr(section, field.name)
        if attrs.has(type(value)):
            yield from paths_of(value, f"{prefix}{field.name}.")
        elif isinstance(value, Path):
            yield f"{prefix}{field.name}", value
