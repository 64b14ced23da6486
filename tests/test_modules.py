"""What a test module looks like: it says what it tests, and its sections are headed in one way."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent
MODULES = [path for path in sorted(ROOT.rglob("*.py")) if "node_modules" not in path.parts]
HEADING = re.compile(r"# -- [a-z`A-Z][^\n]*[^-] -+")
"""`# -- title ---`, 120 characters wide."""


def test_every_module_says_what_it_is_for() -> None:
    """In a docstring that is a sentence; an `__init__.py` may be empty."""
    silent = []
    for path in MODULES:
        text = path.read_text(encoding="utf-8")
        said = ast.get_docstring(ast.parse(text))
        if text and (said is None or not re.search(r"[.?:]$", said.splitlines()[0])):
            silent.append(str(path.relative_to(ROOT)))
    assert silent == []


def test_sections_are_headed_in_one_way() -> None:
    """A comment alone between empty lines, outside of functions, heads a section."""
    odd = []
    for path in MODULES:
        lines = ["", *path.read_text(encoding="utf-8").splitlines(), ""]
        for number, line in enumerate(lines):
            alone = line.startswith("# ") and not lines[number - 1] and not lines[number + 1]
            if (alone or line.startswith("# --")) and not (HEADING.fullmatch(line) and len(line) == 120):
                odd.append(f"{path.relative_to(ROOT)}:{number}: {line}")
    assert odd == []
