"""Generates relay.toml, with every setting, from the tree of settings."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args, get_origin

import attrs

from relay.config.checks import listed
from relay.config.setting import quoted
from relay.config.tree import Config

WIDTH = 100
"""Characters of a line."""

_HEAD = """\
The configuration of Relay. Every setting is optional: a line "# key = value" shows its default; remove the "# " to
change it. The environment overrides this file, as in RELAY_SERVER__PORT=9000, and options of a command override both.
`relay check` reports every mistake.
"""


def render_example(secret: str | None) -> str:
    """Return a commented relay.toml with every setting at its default, except for the secret if one is given.

    A comment has a reason and a unit. A commented-out setting is a line of the form `# key = value`.
    """
    return "\n".join([*_comment(_HEAD), *_section(Config, "", secret)]) + "\n"


def _section(cls: type[Any], path: str, secret: str | None) -> Iterator[str]:
    for field in attrs.fields(cls):
        key_path = f"{path}.{field.name}" if path else field.name
        if "entry" in field.metadata:
            yield from ("", "", *_comment(field.metadata["reason"]), *_sample(field))
            continue
        if field.type is not None and attrs.has(field.type):
            yield from ("", "", *_comment(field.metadata["reason"]))
            if not all(attrs.has(inner.type) for inner in attrs.fields(field.type) if inner.type is not None):
                yield f"[{key_path}]"
            yield from _section(field.type, key_path, secret)
            continue
        yield from ("", *_comment(reason(field)))
        if key_path == "auth.jwt_secret" and secret is not None:
            yield f"{field.name} = {quoted(secret)}"
        else:
            unit = field.metadata["unit"]
            yield f"# {field.name} = {quoted(field.default)}" + (f"  # {unit}" if unit else "")


def _sample(field: attrs.Attribute[Any]) -> Iterator[str]:
    """Yield a sample of a section with a free name, each line commented out."""
    yield f"# [{field.name}.{field.metadata['name']}]"
    for option in options(field):
        unit = option.metadata["unit"]
        shown = option.metadata["sample"] or option.default
        yield from ("#", *_comment(reason(option)))
        yield f"# {option.name} = {quoted(shown)}" + (f"  # {unit}" if unit else "")


def options(field: attrs.Attribute[Any]) -> Sequence[attrs.Attribute[Any]]:
    """Return the settings of a section of a table with free names."""
    cls: type[Any] = attrs.resolve_types(field.metadata["entry"](field.metadata["name"]))
    return tuple(attrs.fields(cls))


def reason(field: attrs.Attribute[Any]) -> str:
    """Return the reason of a setting, with the values it may have if there are only a few."""
    text: str = field.metadata["reason"]
    if get_origin(field.type) is Literal:
        text += f" One of {listed(get_args(field.type))}."
    return text


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)
