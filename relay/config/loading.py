"""Loads one configuration from relay.toml, the environment and command-line flags, or reports every mistake in them.

Later sources win: defaults, file, `RELAY_<SECTION>__<KEY>`, flags. cattrs structures the sections (`ground.structure`).
This module adds the source of each value, relative paths, the names of TOML's types, and a suggestion for each
unknown key. It names no setting.
"""

from __future__ import annotations

import difflib
import functools
import re
import tomllib
import types
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, get_args, get_origin

import attrs

from relay.config.checks import listed, one_of
from relay.config.setting import quoted
from relay.config.tree import Config

if TYPE_CHECKING:
    from relay.ground.structure import Structurer

DEFAULT_FILE = Path("relay.toml")
ENVIRONMENT_PREFIX = "RELAY_"
FILE_VARIABLE = "RELAY_CONFIG"
MAX_FILE_BYTES = 1_048_576
"""Bytes of a configuration. A larger file is probably something else."""

_KINDS = {
    bool: "true or false", int: "a whole number", float: "a number", str: "a text", list: "an array", dict: "a table",
}  # fmt: skip
_WANTED = {**_KINDS, str: "a text in quotes", Path: "the path of a file in quotes"}
_WANTED_ELSE = 'an array of texts, such as ["a", "b"]'


@attrs.frozen
class Problem:
    """One mistake: its place (`server.port`, or the name of a file), and a message with a valid value."""

    key_path: str
    message: str

    def __str__(self) -> str:
        return f"{self.key_path}: {self.message}"


class ConfigError(Exception):
    """The configuration cannot be used. `problems` has every mistake in it."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


def find_config_file(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    """Return the file to load: `path`, else the file that RELAY_CONFIG names, else ./relay.toml if it exists."""
    if path is not None:
        return path
    if named := environ.get(FILE_VARIABLE):
        return Path(named)
    return DEFAULT_FILE if DEFAULT_FILE.exists() else None


def load_config(path: Path | None, environ: Mapping[str, str], overrides: Mapping[str, object]) -> Config:
    """Load the configuration. `overrides` maps dotted key paths to values.

    Relative paths start at the folder of the file, or at the working directory if no file is loaded.

    Raises:
        ConfigError: with every mistake, not just the first.
    """
    file = find_config_file(path, environ)
    table = {} if file is None else _read_file(file)
    problems: list[Problem] = []
    sources: dict[str, str] = {}
    known = dict(_settings(Config))
    for name, raw in sorted(environ.items()):
        # A name with single underscores is not a setting: Kubernetes sets RELAY_SERVER_PORT for a service named
        # relay-server.
        if not name.startswith(ENVIRONMENT_PREFIX) or "__" not in name:
            continue
        key_path = name.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", ".")
        if key_path in known:
            _put(table, key_path, _from_environment(raw, known[key_path].type))
            sources[key_path] = name
        elif (table_name := key_path.partition(".")[0]) in _tables():
            problems.append(Problem(name, f"names an option of [{_sample(table_name)}]; only the file can set these"))
        else:
            near = [ENVIRONMENT_PREFIX + other.upper().replace(".", "__") for other in _nearest(key_path)]
            problems.append(Problem(name, f"does not name a setting; {_suggestion(near)}"))
    for key_path, value in overrides.items():
        _put(table, key_path, value)
        sources[key_path] = "the command line"
    problems += _rivals(Config, table, "")
    folder = (Path() if file is None else file.parent).absolute()
    _place_paths(table, folder)
    from relay.ground.structure import StructureError

    try:
        config = _structurer().structure(table, Config)
    except StructureError as error:
        problems += (Problem(_key_path(mistake.path), mistake.message) for mistake in error.mistakes)
    if problems:
        raise ConfigError([_with_source(problem, sources) for problem in problems])
    return config


def _read_file(file: Path) -> dict[str, Any]:
    def refuse(message: str) -> NoReturn:
        raise ConfigError([Problem(str(file), message)]) from None

    text = ""
    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            refuse(f"is larger than {MAX_FILE_BYTES} bytes, so it is probably not a configuration")
        text = content.decode("utf-8-sig")
        return tomllib.loads(text)
    except FileNotFoundError:
        refuse(f"does not exist; create it with: relay init {file}")
    except OSError as error:
        refuse(f"cannot be read: {error.strerror}")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        refuse(f"line {line} is not UTF-8; save the file in that encoding")
    except tomllib.TOMLDecodeError as error:
        refuse(_syntax(str(error), text))
    except (ValueError, RecursionError):
        refuse("contains a number that is too long, or brackets that are nested too deeply")


def _syntax(message: str, text: str) -> str:
    what, _, where = message.partition(" (at ")
    what = what[:1].lower() + what[1:]
    if found := re.match(r"line (\d+), column (\d+)", where):
        return f'line {found[1]}, column {found[2]}: {what}; a setting is written: key = 8080, or key = "text"'
    lines = text.split("\n")
    return f"line {len(lines)}, column {len(lines[-1]) + 1}: {what}; the file is incomplete"


def _settings(cls: type[Any], prefix: str = "") -> Iterator[tuple[str, attrs.Attribute[Any]]]:
    """Yield the key path and the field of every setting below a section, without those of tables with free keys."""
    for field in attrs.fields(cls):
        if "entry" in field.metadata:
            continue
        if field.type is not None and attrs.has(field.type):
            yield from _settings(field.type, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", field


def _rivals(cls: type[Any], table: object, path: str) -> Iterator[Problem]:
    """Yield a problem for each setting that stands beside the one that it is instead of."""
    if not isinstance(table, dict):
        return
    for field in attrs.fields(cls):
        if field.type is not None and attrs.has(field.type):
            yield from _rivals(field.type, table.get(field.name), f"{path}{field.name}.")
        elif (other := field.metadata["instead_of"]) in table and table.get(field.name) not in (None, ""):
            yield Problem(f"{path}{field.name}", f"and {path}{other} are both set; remove one of them")


def _from_environment(raw: str, type_: Any) -> object:
    """Return the TOML value in a variable. It is a text if it is not TOML, or if the setting is a text."""
    try:
        parsed = tomllib.loads(f"value = {raw}")
    except (ValueError, RecursionError):
        return raw
    value = parsed.pop("value")
    # Another key is left if the variable contains a line break and a second setting.
    if parsed or not (isinstance(value, str) or type_ in (bool, int, float) or get_origin(type_) is tuple):
        return raw
    return value


def _put(table: dict[str, Any], key_path: str, value: object) -> None:
    """Set a value deep in the table. If a section on the way is not a table, leave it: it is reported later."""
    *sections, key = key_path.split(".")
    for name in sections:
        inner = table.setdefault(name, {})
        if not isinstance(inner, dict):
            return
        table = inner
    table[key] = value


def _place_paths(table: dict[str, Any], folder: Path) -> None:
    """Make the paths in the table absolute, and add the default paths: relative ones start at this folder."""
    for key_path, field in _settings(Config):
        *sections, name = key_path.split(".")
        inner: Any = table
        for section in sections:
            inner = inner.setdefault(section, {}) if isinstance(inner, dict) else None
        if isinstance(inner, dict) and Path in (field.type, *get_args(field.type)):
            value = inner.get(name, field.default)
            if isinstance(value, Path) or (isinstance(value, str) and value):
                inner[name] = str(folder / value)


@functools.cache
def _structurer() -> Structurer:
    from relay.ground.structure import Rules, Structurer

    return Structurer(
        Rules(
            check_of=lambda field: partial(_checked, field),
            not_a_table=_not_a_section,
            unknown_key=_unknown_setting,
            conflicts=lambda section: section.conflicts() if hasattr(section, "conflicts") else (),
            entry_of=lambda field: field.metadata.get("entry"),
        )
    )


def _checked(field: attrs.Attribute[Any], value: object) -> object:
    """Return a TOML value as the value of a setting. Raises as `_convert` and the setting's own check."""
    converted = _convert(value, field.type)
    if field.validator is not None:
        field.validator(None, field, converted)
    return converted


@functools.cache
def _tables() -> Mapping[str, str]:
    """Return the tables with free keys by their name, each with a key as an example."""
    return {field.name: field.metadata["name"] for field in attrs.fields(Config) if "entry" in field.metadata}


def _sample(table_name: str) -> str:
    return f"{table_name}.{_tables()[table_name]}"


def _not_a_section(value: object, path: tuple[str, ...]) -> str:
    section = _sample(path[0]) if len(path) == 1 and path[0] in _tables() else ".".join(path)
    return f"is a section, not {_kind(value)}; write [{section}] and its settings below it"


def _unknown_setting(path: tuple[str, ...]) -> str:
    for field in attrs.fields(Config):
        if "entry" in field.metadata and path[0] == field.name and len(path) == 3:
            return _unknown_option(field.metadata["entry"](path[1]), path)
    return f"is not a setting; {_suggestion(_nearest(_key_path(path)))}"


def _unknown_option(cls: type[Any], path: tuple[str, ...]) -> str:
    options = [field.name for field in attrs.fields(cls)]
    similar = difflib.get_close_matches(path[-1], options, 1)
    near = f"did you mean {similar[0]}?" if similar else f"use {listed(options)}"
    return f"is not an option of {cls.TITLE}; {near}"


def _key_path(path: tuple[str, ...]) -> str:
    return ".".join(key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else quoted(key) for key in path)


def _convert(value: object, type_: Any) -> object:
    """Return a TOML value as the type of its setting, without guessing.

    Raises:
        ValueError: the value has another type. The message does not repeat it, because it may be a secret.
    """
    if isinstance(type_, types.UnionType):
        # Such a setting is optional. TOML has no null, so the empty text stands for None.
        return None if value == "" else _convert(value, get_args(type_)[0])
    if get_origin(type_) is Literal and isinstance(value, str):
        one_of(*get_args(type_))(None, None, value)
        return value
    if get_origin(type_) is tuple and isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    if type_ is Path and isinstance(value, str):
        if not value or "\0" in value:
            raise ValueError("must be the path of a file")
        return Path(value)
    if type_ is float and type(value) is int:
        try:
            return float(value)
        except OverflowError:
            raise ValueError("is a number that is too large") from None
    if type(value) is not type_:
        raise ValueError(f"must be {_WANTED.get(type_, _WANTED_ELSE)}, not {_kind(value)}")
    if isinstance(value, str) and not value.isprintable():
        raise ValueError("must be one line of UTF-8 without control characters")
    return value


def _kind(value: object) -> str:
    return _KINDS.get(type(value), "a date or a time")


@functools.cache
def _key_paths() -> tuple[str, ...]:
    return tuple(path for path, _ in _settings(Config))


def _nearest(key_path: str) -> list[str]:
    """Return the probable key paths: the most similar one in the section, else the same name elsewhere."""
    known = _key_paths()
    parent, _, name = key_path.rpartition(".")
    below = [path.removeprefix(f"{parent}.") for path in known if path.startswith(f"{parent}.")] if parent else known
    beside = sorted({path.split(".")[0] for path in below} | (set() if parent else _tables().keys()))
    if similar := difflib.get_close_matches(name, beside, 1):
        return [f"{parent}.{similar[0]}" if parent else similar[0]]
    return [path for path in known if path.rpartition(".")[2] == name] or difflib.get_close_matches(key_path, known, 1)


def _suggestion(near: list[str]) -> str:
    return f"did you mean {' or '.join(near)}?" if near else "`relay init FILE` writes a file with every setting"


def _with_source(problem: Problem, sources: Mapping[str, str]) -> Problem:
    """Return the problem with the source of its value, unless that is the file."""
    source = sources.get(problem.key_path)
    return problem if source is None else Problem(problem.key_path, f"{problem.message} (set by {source})")
