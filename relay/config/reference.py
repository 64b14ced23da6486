"""The page `configuration` of the handbook, generated from the tree of settings as the example file is."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from typing import Any

import attrs

from relay.config.example import options, reason
from relay.config.namespaces import BUILT_IN
from relay.config.setting import quoted
from relay.config.tree import Config

WIDTH = 118
"""Characters of a line."""

_HEAD = """\
# Configuration

Every setting with its section, default, unit and reason. The page is generated from the settings themselves.

Relay runs without a configuration: every setting has a default. Write a commented file with a fresh secret, and check
it, with:

```sh
relay init
relay check
```

`relay init` writes `relay.toml` and never overwrites a file. Only its owner can read the file, because it holds a
secret. `relay check` starts nothing and writes nothing. It names every mistake at once, each with its key and its
source. `relay.toml.example` in the repository is the same file without a secret.

## Sources of a value

A later source overrides an earlier one:

1. The default.
2. The file: `--config FILE`, else the file that `RELAY_CONFIG` names, else `./relay.toml` if it exists.
3. The environment. `RELAY_SERVER__PORT=9000` sets `server.port`: two underscores separate section and key.
   A value is written as in the file, such as `["10.0.0.7"]`; a text needs no quotes. Namespaces, hooks and webhooks are
   in the file alone.
4. An option of the command, such as `relay serve --port 9000`.

A change takes effect at a restart. A [reload](operations.md#reload) takes up the settings of which this page says so,
and a renewed [certificate](tls.md). Unknown keys are errors.
"""

_KEYLESS = """\
If neither a secret nor a public key is configured, Relay makes a secret and keeps it in its database. `relay token`
finds it there. [Security](security.md) explains the four ways to verify tokens.
"""

_NAMESPACES = """\
The environment cannot set these. [Channels of your own](namespaces.md) explains each option with examples. A built-in
namespace has fewer options:

| namespace | history_size, history_period | durable |
|---|---|---|
""" + "\n".join(
    f"| `{name}` | {'fixed' if kept.is_fixed else f'{kept.history} or more'} "
    f"| {'fixed' if kept.durable else 'may be set to true'} |"
    for name, kept in BUILT_IN.items()
)

_WEBHOOKS = """\
The environment cannot set these. [Webhooks](webhooks.md) explains each option and each event. `url` and `secret` must
be set.
"""

_HOOKS = """\
The environment cannot set these. [Backend hooks](hooks.md) explains them with examples. `url` and `secret` must be set.
"""

_NOTES = {"auth": _KEYLESS, "namespaces": _NAMESPACES, "hooks": _HOOKS, "webhooks": _WEBHOOKS}


def render_reference() -> str:
    """Return the page as Markdown."""
    return "\n".join([_HEAD.rstrip("\n"), *_section(Config, "")]) + "\n"


def _section(cls: type[Any], path: str) -> Iterator[str]:
    for field in attrs.fields(cls):
        key_path = f"{path}.{field.name}" if path else field.name
        if "entry" in field.metadata:
            yield from ("", f"## {key_path}", "", *_wrapped(field.metadata["reason"]), *_reloads(field, "each change"))
            if key_path in _NOTES:
                yield from ("", _NOTES[key_path].rstrip("\n"))
            for option in options(field):
                name = f"{key_path}.{field.metadata['name']}.{option.name}"
                yield from ("", f"### {name}", "", *_wrapped(reason(option)), "")
                yield from (*_toml(option), f"Unit: {option.metadata['unit'] or 'none'}.")
            continue
        if field.type is not None and attrs.has(field.type):
            yield from ("", f"## {key_path}", "", *_wrapped(field.metadata["reason"]), *_reloads(field, "each change"))
            if key_path in _NOTES:
                yield from ("", _NOTES[key_path].rstrip("\n"))
            yield from _section(field.type, key_path)
        else:
            yield from ("", f"### {key_path}", "", *_wrapped(reason(field)), *_reloads(field, "a change"), "")
            yield from _default(field, key_path)


def _reloads(field: attrs.Attribute[Any], changes: str) -> list[str]:
    return ["", f"A reload takes up {changes}."] if field.metadata.get("reload") else []


def _default(field: attrs.Attribute[Any], key_path: str) -> list[str]:
    unit = field.metadata["unit"]
    variable = "RELAY_" + key_path.upper().replace(".", "__")
    return [*_toml(field), f"Unit: {unit or 'none'}. Environment: `{variable}`."]


def _toml(field: attrs.Attribute[Any]) -> list[str]:
    line = f"{field.name} = {quoted(field.default)}"
    default = textwrap.wrap(line, WIDTH, break_on_hyphens=False, break_long_words=False)
    return ["```toml", *default, "```", ""]


def _wrapped(text: str) -> list[str]:
    """Return the lines of a reason. It is plain text, so its asterisks and the like are not marks of Markdown."""
    escaped = re.sub(r"[*<]|(?<!\w)_|_(?!\w)", r"\\\g<0>", text)
    return textwrap.wrap(escaped, WIDTH, break_on_hyphens=False, break_long_words=False)
