"""The pages for developers: the changelog begins with this version, and contributing names what there is."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from tests.test_architecture import APART, FLOORS

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
VERSION: str = PROJECT["project"]["version"]
CONTRIBUTING = (ROOT / "relay/docs/contributing.md").read_text(encoding="utf-8")
CI = (ROOT / ".ci/run").read_text(encoding="utf-8")


def test_the_newest_release_of_the_changelog_is_this_version() -> None:
    """Each heading is a release with its date, newest first; what is not released yet stands above them."""
    headings = re.findall(r"^## (.*)$", (ROOT / "relay/docs/changelog.md").read_text(encoding="utf-8"), re.MULTILINE)
    releases = [heading for heading in headings[1:] if heading != "Unreleased"]
    found = [re.fullmatch(r"(\d+)\.(\d+)\.(\d+) \(\d{4}-\d\d-\d\d\)", release) for release in releases]
    versions = [tuple(map(int, match.groups())) for match in found if match]
    assert len(versions) == len(releases)
    assert versions == sorted(versions, reverse=True)
    assert ".".join(map(str, versions[0])) == VERSION


def test_the_version_stands_in_one_place() -> None:
    """No module repeats it, so that a release changes one line."""
    assert [path for path in (ROOT / "relay").rglob("*.py") if VERSION in path.read_text(encoding="utf-8")] == []


def test_every_version_with_a_classifier_was_tried() -> None:
    """And each that was tried has its classifier."""
    classifiers = set(re.findall(r"Python :: (3\.\d+)", " ".join(PROJECT["project"]["classifiers"])))
    assert set(re.findall(r"^\| (3\.\d+)\.\d+ \|", CONTRIBUTING, re.MULTILINE)) == classifiers


def test_every_command_of_ci_is_described() -> None:
    """As well as every mark of a test."""
    match = re.search(r"^    (lint[ |\w]+)\) ;;$", CI, re.MULTILINE)
    assert match
    commands = {"" if name == "all" else f" {name}" for name in match[1].split(" | ")}
    assert [name for name in commands if f"`.ci/run{name}`" not in CONTRIBUTING] == []
    marks = [mark.partition(":")[0] for mark in PROJECT["tool"]["pytest"]["ini_options"]["markers"]]
    assert [mark for mark in marks if f"| `{mark}` |" not in CONTRIBUTING] == []


def test_every_dialect_has_a_page() -> None:
    """Of its own, under the name of its folder."""
    dialects = {path.parent.name for path in (ROOT / "relay/dialects").glob("*/__init__.py")}
    pages = {path.stem for path in (ROOT / "relay/docs").glob("*.md")}
    assert dialects - pages == set(), "write a page for each in relay/docs, under the name of its folder"


def test_architecture_has_the_floors() -> None:
    """The drawing has each floor in its order, and the table has each package."""
    page = (ROOT / "relay/docs/architecture.md").read_text(encoding="utf-8")
    drawing = re.search(r"^```\n(cli -> .*?)^```", page, re.DOTALL | re.MULTILINE)
    assert drawing
    floors = [tuple(package.removeprefix("relay.") for package in floor) for floor in FLOORS]
    assert [tuple(floor.strip().split(", ")) for floor in drawing[1].split("->")] == floors
    packages = [*(package for floor in floors for package in floor), *(name.removeprefix("relay.") for name in APART)]
    assert [name for name in packages if f"| `{name}` |" not in page] == []
