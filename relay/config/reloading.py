"""Loads a configuration again, and compares it with the one in force. Each setting declares whether a reload takes it up."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from relay.config.loading import ConfigError, Problem, find_config_file, load_config
from relay.config.tree import Config


@attrs.frozen
class Source:
    """The sources of a server's configuration, to load it again while the server runs."""

    file: Path | None
    """The file that was loaded at the start, if there was one."""
    environ: Mapping[str, str] = attrs.field(repr=False)  # it may hold secrets
    overrides: Mapping[str, object] = attrs.field(repr=False)

    def load(self) -> Config:
        """Load the configuration. Reads files, so call it in a thread.

        Half of a file must not count as all of it: an empty file is a mistake here, as while an editor writes it.

        Raises:
            ConfigError: as `load_config`; also if the file is empty, or not a regular one, which might block.
        """
        file = self.file or find_config_file(None, self.environ)
        try:
            found = None if file is None else file.stat()
        except OSError:
            found = None  # `load_config` says what is wrong
        if found is not None and not stat.S_ISREG(found.st_mode):
            raise ConfigError([Problem(str(file), "is not a file that can be loaded again")])
        if found is not None and not found.st_size:
            raise ConfigError([Problem(str(file), "is empty; write the new file beside it, and rename that")])
        return load_config(file, self.environ, self.overrides)


@attrs.frozen
class Reloaded:
    """The outcome of a reload without a mistake. Both are key paths, in the order of the settings."""

    taken: list[str]
    """Changes that are in force now."""
    waiting: list[str]
    """Changes that need a restart, those of earlier reloads included."""


def merge(old: Config, new: Config) -> tuple[Config, Reloaded]:
    """Return the configuration in force after a reload, and its outcome: `old` with the changes of `new` that a reload takes up."""
    outcome = Reloaded([], [])
    merged: Config = _merge(old, new, "", outcome, reload=False)
    return merged, outcome


def _merge(old: Any, new: Any, path: str, outcome: Reloaded, *, reload: bool) -> Any:
    changes: dict[str, Any] = {}
    for field in attrs.fields(type(old)):
        before, after = getattr(old, field.name), getattr(new, field.name)
        key_path, reloads = f"{path}{field.name}", reload or field.metadata.get("reload", False)
        if attrs.has(type(before)) and "entry" not in field.metadata:
            changes[field.name] = _merge(before, after, f"{key_path}.", outcome, reload=reloads)
        elif before != after:
            names = _changes(before, after, key_path) if "entry" in field.metadata else [key_path]
            (outcome.taken if reloads else outcome.waiting).extend(names)
            changes[field.name] = after if reloads else before
    with attrs.validators.disabled():  # both were valid; a file that an old value names may be gone by now
        return attrs.evolve(old, **changes)


def _changes(old: Mapping[str, Any], new: Mapping[str, Any], path: str) -> Iterator[str]:
    """Yield the key path of each section of a table that came, went or has another class, and else of each of its options."""
    for name in dict.fromkeys((*old, *new)):
        before, after = old.get(name), new.get(name)
        if before is None or after is None or type(before) is not type(after):
            yield f"{path}.{name}"
            continue
        for option in attrs.fields(type(before)):
            if getattr(before, option.name) != getattr(after, option.name):
                yield f"{path}.{name}.{option.name}"
