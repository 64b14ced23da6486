"""Reads from the source of a route which fields it takes and which codes it refuses with, to compare with its description."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import attrs

from relay.api import params

READERS = frozenset(
    {"text", "new_user", "optional", "long_text", "texts", "flag", "integer", "object", "position", "get"}
)
"""Methods that read a field by its name: those of `Params`, and `request.args.get`."""
NAMESPACES = frozenset({"params", "query", "request.args"})
"""The names by which routes call a body or a query that they read by hand."""


@attrs.frozen
class Source:
    """A function and the functions that it calls, of its module and of `params`."""

    trees: tuple[ast.AST, ...]

    def fields(self) -> set[str]:
        """Return the names of the fields that are read by hand."""
        return {
            argument.value
            for call in self._calls()
            if isinstance(call.func, ast.Attribute)
            and call.func.attr in READERS
            and ast.unparse(call.func.value) in NAMED
            for argument in call.args
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
        } | {
            node.slice.value
            for node in self._walk()
            if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "params"
            if isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str)
        }

    def codes(self) -> set[str]:
        """Return the names of the members of `Code` that it names."""
        return {
            node.attr
            for node in self._walk()
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Code"
        }

    def names(self) -> set[str]:
        """Return every name and attribute in it."""
        return {
            node.id if isinstance(node, ast.Name) else node.attr
            for node in self._walk()
            if isinstance(node, (ast.Name, ast.Attribute))
        }

    def _walk(self) -> Iterator[ast.AST]:
        for tree in self.trees:
            yield from ast.walk(tree)

    def _calls(self) -> Iterator[ast.Call]:
        return (node for node in self._walk() if isinstance(node, ast.Call))


NAMED = NAMESPACES | {"Params(params)", "Params(request.args)"}


def source_of(function: Callable[..., Any]) -> Source:
    """Return the source of a function, without its decorators, and of those that it calls, of its module and of `params`."""
    done = {}
    waiting = [function]
    while waiting:
        current = waiting.pop()
        if current in done:
            continue
        tree = ast.parse(textwrap.dedent(inspect.getsource(current))).body[0]
        assert isinstance(tree, (ast.FunctionDef, ast.AsyncFunctionDef))
        done[current] = ast.Module(body=list(tree.body), type_ignores=[])
        for name in (node.id for node in ast.walk(done[current]) if isinstance(node, ast.Name)):
            called = getattr(inspect.getmodule(current), name, None)
            if inspect.isfunction(called) and called.__module__ in (function.__module__, params.__name__):
                waiting.append(called)
    return Source(tuple(done.values()))
