"""The tables of the wire, read from the code: types of frames, and reasons to end a connection.

The registers of the code say the words: enums, tables, the cases of the decoders and the constants of the encoders.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import cast

import attrs

from relay.dialects.channels import protocol as channels
from relay.dialects.feeds import protocol as feeds
from relay.dialects.live import protocol as live
from relay.dialects.socketio import prices
from relay.ground.errors import Reason
from relay.model.namespaces import Namespaces

RELAY = Path(__file__).parents[2] / "relay"
KINDS = Namespaces(entities=["task"], history_period=86400.0, durable=())
SHARED = ("sessions", "transports", "server", "admission", "broker")
"""Packages that end sessions of every dialect."""
OF_USERS = {"live": ("dialects/user_session.py",), "channels": ("dialects/user_session.py",)}
"""Modules that end sessions of some dialects."""


def tree(module: ModuleType | Path) -> ast.Module:
    path = module if isinstance(module, Path) else Path(cast(str, module.__file__))
    return ast.parse(path.read_text(encoding="utf-8"))


def trees(package: str) -> Iterator[ast.Module]:
    whole = RELAY / package
    for path in [whole] if whole.is_file() else sorted(whole.rglob("*.py")):
        yield tree(path)


def function(module: ModuleType, name: str) -> ast.FunctionDef:
    [found] = [node for node in ast.walk(tree(module)) if isinstance(node, ast.FunctionDef) and node.name == name]
    return found


def cases(node: ast.AST) -> set[str]:
    """Return the texts that the `match` statements below a node compare with."""
    return {
        value.value
        for case in ast.walk(node)
        if isinstance(case, ast.MatchValue) and isinstance(value := case.value, ast.Constant)
        if isinstance(value.value, str)
    }


def arguments(trees: Iterable[ast.AST], callee: str, position: int) -> set[str]:
    """Return the texts that are passed to every call of a function or method of this name, at this position."""
    found = set()
    for one in trees:
        for node in ast.walk(one):
            if not isinstance(node, ast.Call) or len(node.args) <= position:
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            argument = node.args[position]
            if name == callee and isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                found.add(argument.value)
    return found


@cache
def reasons(package: str) -> frozenset[Reason]:
    """Return the members of Reason that a package names."""
    return frozenset(
        Reason[node.attr]
        for one in trees(package)
        for node in ast.walk(one)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Reason"
        if node.attr in Reason.__members__
    )


# -- types of frames ---------------------------------------------------------------------------------------------------


@attrs.frozen
class LiveTypes:
    """The types of the frames that the server sends in `live`."""

    answers: set[str]
    signals: set[str]
    presence: set[str]
    published: set[str]


def live_types() -> LiveTypes:
    """Return them by where they come from."""
    answers = arguments(trees("dialects/live"), "answer", 0)
    signals = arguments([*trees("dialects/live"), *trees("chat"), *trees("broker")], "Signal", 1)
    presence = {f"user:{status}" for status in arguments(trees("broker"), "_notify", 2)}
    published = {kind.default_type for kind in KINDS if kind.name not in ("event", "task") and kind.default_type}
    return LiveTypes(answers, signals, presence, published)


def live_sent() -> set[str]:
    """Return the types of the client's frames in `live`."""
    return cases(function(live, "command"))


def channels_sent() -> set[str]:
    """Return the types of the client's frames in `channels`."""
    return cases(function(channels, "decode"))


def channels_answers() -> set[str]:
    """Return the types of the answers in `channels`."""
    return arguments(trees("dialects/channels"), "answer", 0) | arguments(trees("dialects/channels"), "_answer", 0)


def channels_words() -> set[str]:
    """Return the types that `channels` gives to publications."""
    return {
        str(first.value)
        for node in ast.walk(function(channels, "_translated"))
        if isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple)
        if isinstance(first := node.value.elts[0], ast.Constant)
    }


def feeds_types() -> set[str]:
    """Return the types of the frames of `feeds`."""
    types: set[str] = set()
    for node in ast.walk(tree(feeds)):
        if isinstance(node, ast.Dict):
            pairs = zip(node.keys, node.values, strict=True)
            types |= {
                str(value.value)
                for key, value in pairs
                if isinstance(key, ast.Constant) and key.value == "type" and isinstance(value, ast.Constant)
            }
        elif isinstance(node, ast.Constant) and isinstance(node.value, bytes):
            types |= set(re.findall(r'"type":"(\w+)"', node.value.decode()))
    return types


def socketio_sent() -> list[str]:
    """Return the events of the server in `socketio`."""
    return re.findall(r'\["([a-z-]+)"', (prices._UPDATE + prices._INITIAL).decode())


def socketio_taken() -> set[str]:
    """Return the events of the client in `socketio`."""
    return {
        str(value.value)
        for node in ast.walk(tree(prices))
        if isinstance(node, ast.Compare) and isinstance(node.left, ast.Name) and node.left.id == "name"
        for value in ast.walk(node)
        if isinstance(value, ast.Constant)
    }
