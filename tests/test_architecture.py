"""The arrows between the modules, read from their imports: who may know of whom, in one direction and without cycles.

A module that is named nowhere here belongs to the core: it may know of no dialect, no HTTP, no WebSocket and no database driver.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EDGES = ("relay.api", "relay.bench", "relay.cli", "relay.dialects", "relay.server.server", "relay.transports")
"""What stands around the core. `python -m relay` is the command line's."""

VALUES = (
    "relay.ground.errors",
    "relay.model.kinds",
    "relay.model.publication",
    "relay.broker.history",
    "relay.ground.histogram",
    "relay.ground.strictjson",
    "relay.ground.clock",
)
IN_MEMORY = (
    *("relay.broker.broker", "relay.broker.channel", "relay.broker.presence", "relay.sessions.outbox", "relay.admission.rate_limits", "relay.auth.verifier", "relay.sessions.heartbeat"),
    *("relay.ground.timers", "relay.broker.idempotency", "relay.sessions.frames", "relay.sessions.session", "relay.broker.write_behind"),
)  # fmt: skip
"""What needs nothing of the store but what it says itself, as a Protocol."""
DIALECTS = frozenset(f"relay.dialects.{path.parent.name}" for path in (ROOT / "relay/dialects").glob("*/__init__.py"))
OWNERS = {
    "aiosqlite": ("relay.store",),
    "sqlite3": ("relay.store",),
    "trio_websocket": ("relay.transports.websocket",),
    "wsproto": ("relay.transports.websocket",),
    "hypercorn": ("relay.transports.http",),
    "quart": ("relay.api", "relay.dialects"),
    "quart_trio": ("relay.api", "relay.dialects"),
}
"""Libraries that one place alone may know, so that a new release of one is one place's matter."""

Graph = dict[str, set[str]]


def read(root: Path) -> Graph:
    """Return what every module of the package `relay` below `root` imports, wherever in the module it does so."""
    paths = {_name(path, root): path for path in sorted((root / "relay").rglob("*.py"))}
    return {
        name: set(_imported(ast.parse(path.read_text()), name, is_package=path.name == "__init__.py", known=paths))
        for name, path in paths.items()
    }


def _name(path: Path, root: Path) -> str:
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def _imported(tree: ast.Module, importer: str, *, is_package: bool, known: Iterable[str]) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                parents = importer.split(".")[: None if is_package and node.level == 1 else is_package - node.level]
                module = ".".join([*parents, *([module] if module else [])])
            for alias in node.names:
                inner = f"{module}.{alias.name}"
                yield inner if inner in known else module


def within(module: str, packages: Iterable[str]) -> bool:
    """Tell whether a module is one of these or in one of them."""
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def arrows(graph: Graph, of: Iterable[str], to: Iterable[str]) -> list[str]:
    """Return the arrows from these modules to those, each as a line to read."""
    to = frozenset(to)
    return sorted(f"{importer} -> {imported}" for importer in of for imported in graph[importer] & to)


def cycle(graph: Graph) -> list[str]:
    """Return a cycle of modules that import each other, [] if there is none."""
    done: set[str] = set()
    path: list[str] = []

    def visit(module: str) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done or module not in graph:
            return []
        path.append(module)
        for imported in sorted(graph[module]):
            if found := visit(imported):
                return found
        done.add(path.pop())
        return []

    for module in graph:
        if found := visit(module):
            return found
    return []


GRAPH = read(ROOT)
EVERYTHING = set().union(*GRAPH.values())


def inside(*packages: str) -> set[str]:
    """Return Relay's modules in these packages."""
    found = {name for name in GRAPH if within(name, packages)}
    assert {package for package in packages if package not in found} == set(), "the table names what there is not"
    return found


CORE = GRAPH.keys() - inside(*EDGES) - {"relay", "relay.__main__"}


@pytest.mark.parametrize("library", OWNERS)
def test_each_library_has_one_owner(library: str) -> None:
    """And the owner does use it: else the table above is out of date."""
    names = {imported for imported in EVERYTHING if within(imported, [library])}
    owners = inside(*OWNERS[library])
    assert arrows(GRAPH, GRAPH.keys() - owners, names) == []
    assert arrows(GRAPH, owners, names)


def test_the_core_knows_nothing_of_its_edges() -> None:
    """No dialect, no HTTP, no WebSocket, no command line."""
    assert len(CORE) > 30
    assert arrows(GRAPH, CORE, inside(*EDGES)) == []


def test_the_store_knows_values_alone() -> None:
    """What it stores is given to it."""
    assert (
        arrows(GRAPH, inside("relay.store"), GRAPH.keys() - inside("relay.store", "relay.ground.logs", *VALUES)) == []
    )


def test_what_lives_in_memory_asks_for_its_store() -> None:
    """The broker and its like name no module of the store."""
    assert arrows(GRAPH, inside(*IN_MEMORY), inside("relay.store")) == []


def test_values_know_only_values() -> None:
    """What everything stands on stands on nothing."""
    assert arrows(GRAPH, inside(*VALUES), GRAPH.keys() - inside(*VALUES)) == []


def test_a_session_is_above_the_broker() -> None:
    """What a session holds on to does not hold on to sessions."""
    assert arrows(GRAPH, CORE - {"relay.sessions.session"}, {"relay.sessions.session"}) == []


def test_edges_do_not_reach_up() -> None:
    """`cli -> server -> transports, api, dialects`, never back; and what measures a server knows it from outside alone."""
    above = inside("relay.cli", "relay.bench")
    assert arrows(GRAPH, inside("relay.server.server"), above) == []
    above |= inside("relay.server.server")
    assert arrows(GRAPH, inside("relay.transports"), above) == []
    above |= inside("relay.transports")
    assert arrows(GRAPH, inside("relay.dialects"), above) == []
    above |= inside("relay.dialects")
    assert arrows(GRAPH, inside("relay.api"), above) == []
    assert arrows(GRAPH, inside("relay.bench"), GRAPH.keys() - inside("relay.bench")) == []


def test_dialects_do_not_know_each_other() -> None:
    """Each is a folder that could go."""
    assert len(DIALECTS) >= 4
    for name in DIALECTS:
        others = inside(*DIALECTS - {name})
        assert arrows(GRAPH, inside(name), others) == []


def test_one_tuple_names_the_dialects() -> None:
    """A further dialect is a folder and a line there: nothing else imports one by its name."""
    modules = inside(*DIALECTS)
    assert arrows(GRAPH, GRAPH.keys() - modules - {"relay.dialects"}, modules) == []
    assert GRAPH["relay.dialects"] & modules == DIALECTS


def test_no_cycles() -> None:
    """No module needs itself, by whatever way."""
    assert cycle(GRAPH) == []


def test_the_reader_sees_every_form_of_import(tmp_path: Path) -> None:
    """Also relative ones, inside of functions and for type checkers alone: else the tests above could not fail."""
    package = tmp_path / "relay"
    (package / "store").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "store" / "__init__.py").write_text("from . import rows\n")
    (package / "store" / "rows.py").write_text("from ..broker import Broker\nfrom .. import kinds\n")
    (package / "kinds.py").write_text("def f():\n    import sqlite3.dbapi2\n")
    (package / "broker.py").write_text(
        "import typing\nif typing.TYPE_CHECKING:\n    from quart import Quart\nfrom relay import kinds\nimport relay.store\n"
    )
    graph = read(tmp_path)
    assert graph == {
        "relay": set(),
        "relay.store": {"relay.store.rows"},
        "relay.store.rows": {"relay.broker.broker", "relay.model.kinds"},
        "relay.model.kinds": {"sqlite3.dbapi2"},
        "relay.broker.broker": {"typing", "quart", "relay.model.kinds", "relay.store"},
    }
    assert arrows(graph, graph, ["sqlite3.dbapi2"]) == ["relay.model.kinds -> sqlite3.dbapi2"]
    assert cycle(graph) == ["relay.broker.broker", "relay.store", "relay.store.rows", "relay.broker.broker"]
    graph["relay.store.rows"].remove("relay.broker.broker")
    assert cycle(graph) == []
