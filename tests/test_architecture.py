"""The arrows between the packages, read from the imports of their modules: they point one way, without cycles."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS: tuple[tuple[str, ...], ...] = (
    ("relay.cli",),
    ("relay.server",),
    ("relay.dialects",),
    ("relay.api",),
    ("relay.core",),
    ("relay.access",),
    ("relay.chat",),
    ("relay.auth", "relay.ops"),
    ("relay.hooks",),
    ("relay.cluster",),
    ("relay.store",),
    ("relay.broker", "relay.transports"),
    ("relay.sessions",),
    ("relay.model", "relay.admission"),
    ("relay.config",),
    ("relay.ground",),
)
"""The packages, from the top. A package imports packages of lower floors alone, none of its own floor."""
APART = ("relay.bench", "relay.client", "relay.docs")
"""Packages that import nothing of Relay; the command line and `relay.api` import them."""

DIALECTS = frozenset(f"relay.dialects.{path.parent.name}" for path in (ROOT / "relay/dialects").glob("*/__init__.py"))
OWNERS = {
    "aiosqlite": ("relay.store.sqlite",),
    "sqlite3": ("relay.store.sqlite",),
    "psycopg": ("relay.store.postgres",),
    "trio_websocket": ("relay.transports.websocket",),
    "wsproto": (
        *("relay.transports.websocket", "relay.transports.websocket_events", "relay.transports.deflate"),
        "relay.client.websocket",
    ),
    "anyio": ("relay.client",),
    "hypercorn": ("relay.transports.asgi",),
    "h11": ("relay.hooks.egress", "relay.transports.asgi", "relay.client.http"),
    "httptools": ("relay.transports.request_head",),
    "quart": ("relay.api", "relay.dialects"),
    "quart_trio": ("relay.api", "relay.dialects"),
    "markdown_it": ("relay.api.docs",),
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


@cache
def relay_graph() -> Graph:
    """Return what every module of Relay imports. The first test reads it: as a constant, every worker would."""
    return read(ROOT)


def inside(*packages: str) -> set[str]:
    """Return Relay's modules in these packages."""
    found = {name for name in relay_graph() if within(name, packages)}
    assert {package for package in packages if package not in found} == set(), "the table names what there is not"
    return found


LEVELS = {package: level for level, floor in enumerate(FLOORS) for package in floor}


def package_of(module: str) -> str:
    """Return the package of a module: `relay.store` for `relay.store.rooms`."""
    return ".".join(module.split(".")[:2])


@pytest.mark.parametrize("library", OWNERS)
def test_each_library_has_one_owner(library: str) -> None:
    """And the owner does use it: else the table above is out of date."""
    names = {imported for imported in set().union(*relay_graph().values()) if within(imported, [library])}
    owners = inside(*OWNERS[library])
    assert arrows(relay_graph(), relay_graph().keys() - owners, names) == []
    assert arrows(relay_graph(), owners, names)


def test_each_package_has_a_floor() -> None:
    """A package that the table does not name has no rule."""
    packages = {package_of(module) for module in relay_graph()} - {"relay", "relay.__main__"}
    assert packages == LEVELS.keys() | set(APART)


@pytest.mark.parametrize("page", ["relay/__init__.py", "relay/docs/architecture.md"])
def test_the_picture_is_true(page: str) -> None:
    """The arrows that a newcomer sees first are those of the table, and each package is described below them."""
    picture, _, below = (ROOT / page).read_text(encoding="utf-8").partition("cli -> ")[2].partition("ground\n")
    shown = [
        tuple(f"relay.{name.strip()}" for name in floor.split(",")) for floor in f"cli -> {picture}ground".split("->")
    ]
    assert tuple(shown) == FLOORS
    for package in (*LEVELS, *APART):
        assert re.search(rf"\b{package.removeprefix('relay.')}\b", below), package


@pytest.mark.parametrize("package", LEVELS)
def test_arrows_point_down(package: str) -> None:
    """A package imports lower floors alone."""
    own = inside(package)
    below = {module for module in relay_graph() if LEVELS.get(package_of(module), -1) > LEVELS[package]}
    allowed = own | below | (inside(*APART) if package in ("relay.cli", "relay.api") else set())
    assert arrows(relay_graph(), own, relay_graph().keys() - allowed) == []


@pytest.mark.parametrize("package", APART)
def test_what_stands_apart_imports_nothing_of_relay(package: str) -> None:
    """`relay bench` measures a server from outside, and the handbook is text."""
    own = inside(package)
    assert arrows(relay_graph(), own, relay_graph().keys() - own) == []


def test_packages_import_nothing_by_themselves() -> None:
    """`__init__.py` holds a docstring alone, so that importing a value stays cheap and no cycle can hide there."""
    for path in sorted((ROOT / "relay").rglob("__init__.py")):
        body = ast.parse(path.read_text()).body
        assert [type(node) for node in body] == [ast.Expr], path
        assert ast.get_docstring(ast.parse(path.read_text())), path


def test_a_newcomer_sees_the_architecture_at_once() -> None:
    """The package shows at most 25 names."""
    assert len([path for path in (ROOT / "relay").iterdir() if path.name != "__pycache__"]) <= 25


def test_dialects_do_not_know_each_other() -> None:
    """Each is a folder that could go."""
    assert len(DIALECTS) >= 4
    for name in DIALECTS:
        others = inside(*DIALECTS - {name})
        assert arrows(relay_graph(), inside(name), others) == []


def test_dialects_do_not_know_the_broker() -> None:
    """They subscribe and publish by what the core hands out, which checks every right. Of the broker they know types."""
    checks_nothing = {"relay.broker.broker", "relay.broker.registry", "relay.broker.server_side"}
    assert checks_nothing <= relay_graph().keys()
    assert arrows(relay_graph(), inside("relay.dialects"), checks_nothing) == []


def package_of_dialect(module: str) -> str:
    return ".".join(module.split(".")[:3])


def test_one_tuple_names_the_dialects() -> None:
    """A further dialect is a folder and a line there: nothing else imports one by its name."""
    modules = inside(*DIALECTS)
    assert arrows(relay_graph(), relay_graph().keys() - modules - {"relay.dialects.registry"}, modules) == []
    assert {package_of_dialect(module) for module in relay_graph()["relay.dialects.registry"] & modules} == DIALECTS


def test_no_cycles() -> None:
    """No module needs itself, by whatever way."""
    assert cycle(relay_graph()) == []


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
        "relay.store.rows": {"relay.broker", "relay.kinds"},
        "relay.kinds": {"sqlite3.dbapi2"},
        "relay.broker": {"typing", "quart", "relay.kinds", "relay.store"},
    }
    assert arrows(graph, graph, ["sqlite3.dbapi2"]) == ["relay.kinds -> sqlite3.dbapi2"]
    assert cycle(graph) == ["relay.broker", "relay.store", "relay.store.rows", "relay.broker"]
    graph["relay.store.rows"].remove("relay.broker")
    assert cycle(graph) == []


def test_modules_and_functions_are_small() -> None:
    """A module has at most 400 lines, and a function 60: with more, it is two."""
    large = []
    for path in sorted((ROOT / "relay").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if len(text.splitlines()) > 400:
            large.append(str(path.relative_to(ROOT)))
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                if node.end_lineno - node.lineno >= 60:
                    large.append(f"{path.relative_to(ROOT)}: {node.name}")
    assert large == []
