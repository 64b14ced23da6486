"""The rules for prose that a machine can check: in docstrings, in the strings below constants, and in the handbook."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "relay/docs").glob("*.md")))
MODULES = sorted((ROOT / "relay").rglob("*.py"))

START = re.compile(r"(?:\A|[.!?:]\s+|\n\s*\n\s*|\n\s*(?:[-*#]+|\d+\.)\s+|\|\s*)(Of|Where|Whoever|What|Were|Have|Say)\b")
"""The first word of a sentence, of an entry in a list, of a heading or of a cell in a table."""
RULES = {
    "no sentence starts with this word; put the subject first": START,
    "a `def` is never a checkpoint, and the signature says so": re.compile(r"\b([Aa] plain call)\b"),
    '"is not a" or "there is no"': re.compile(r"\b((?:is|are) no (?!longer\b|more\b)[a-z]\w*)"),
    "name the actor: client, connection, subscriber, publisher, caller": re.compile(r"\b([Ww]ho(?:ever)?)\b(?!\?)"),
}
VERBS = re.compile(r"(Have|Hear|Note|Say|Take note|Tell)\b")
"""The beginning of a function's docstring that hides the effect: use Return, Record, Send, Call."""
THERE_IS = re.compile(r"\b[Tt]here (?:is|are) no\b")


def faults(text: str) -> Iterator[tuple[int, str]]:
    """Yield the line, from 1, and what is wrong there, for each breach of a rule."""
    text = THERE_IS.sub(lambda match: "x" * len(match[0]), text)
    for reason, pattern in RULES.items():
        for match in pattern.finditer(text):
            yield text.count("\n", 0, match.start(1)) + 1, f"{match[1]!r}: {reason}"


def without_code(markdown: str) -> str:
    """Return the page with its code blanked out, on the same lines."""

    def blank(match: re.Match[str]) -> str:
        return re.sub(r"[^\n]", "x", match[0])

    return re.sub(r"`[^`\n]+`", blank, re.sub(r"^```.*?^```$", blank, markdown, flags=re.DOTALL | re.MULTILINE))


def prose_of(module: Path) -> Iterator[tuple[int, str]]:
    """Yield every docstring, and every string that stands alone below a constant, with its first line."""
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, re.sub(r"`[^`\n]+`", lambda match: "x" * len(match[0]), node.value.value)


def package_of(module: Path) -> str:
    """Return the folder or module directly below `relay` that a module is in."""
    return module.relative_to(ROOT / "relay").parts[0]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages(page: Path) -> None:
    """The handbook and the README keep the rules."""
    found = [f"{page.name}:{line}: {fault}" for line, fault in faults(without_code(page.read_text(encoding="utf-8")))]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_are_wrapped(page: Path) -> None:
    """Lines have at most 120 characters, but for rows of tables, which cannot be wrapped."""
    lines = enumerate(page.read_text(encoding="utf-8").splitlines(), 1)
    assert [number for number, line in lines if len(line) > 120 and not line.startswith("|") and " " in line] == []


def _breaches(package: str) -> list[str]:
    return [
        f"{module.relative_to(ROOT)}:{first + line - 1}: {fault}"
        for module in MODULES
        if package_of(module) == package
        for first, text in prose_of(module)
        for line, fault in faults(text)
    ]


@pytest.mark.parametrize("package", sorted({package_of(module) for module in MODULES}))
def test_docstrings(package: str) -> None:
    """The docstrings of every package keep the rules."""
    found = _breaches(package)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("package", sorted({package_of(module) for module in MODULES}))
def test_functions_say_what_they_do(package: str) -> None:
    """The docstring of a function begins with the verb of its effect."""
    vague = [
        f"{module.relative_to(ROOT)}:{node.lineno} {node.name}: {found[0]}"
        for module in MODULES
        if package_of(module) == package
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (found := VERBS.match(ast.get_docstring(node) or ""))
    ]
    assert not vague, "\n".join(vague)


def test_the_verbs_are_found() -> None:
    """A vague verb is found at the beginning alone."""
    assert VERBS.match("Take note of it.")
    assert not VERBS.match("Take it.")
    assert not VERBS.match("Record it. Tell the client.")


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("Return it. Where it is None, wait.", 1),
        ("What it is.", 1),
        ("See below.\n\nOf these, one.", 1),
        ("- Have it sent.\n- Send it.", 0),
        ("A list:\n- Have it sent.", 1),
        ("| Whoever reads | x |", 2),
        ("Send it to the user who left.", 1),
        ('A listener asks "who?".', 0),
        ("Record it. A plain call.", 1),
        ("It is no client. They are no clients.", 2),
        ("It is no longer there. There is no client. There are no clients.", 0),
        ("The client says what it has, and where.", 0),
        ("Whatever it is, it is of use. Somewhere. Haven.", 0),
    ],
)
def test_the_rules_find_breaches(text: str, count: int) -> None:
    """Each rule can fail, and none finds what it should not."""
    assert len(list(faults(text))) == count


def test_code_is_not_prose() -> None:
    """What stands in code keeps its line and is not read."""
    text = "A\n```sh\nWhat it is\n```\nSee `is no x`.\nWhat it is.\n"
    assert [line for line, _ in faults(without_code(text))] == [6]
