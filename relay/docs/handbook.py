"""Reads the pages of the handbook from the package. It imports nothing heavy, because the command line does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from importlib import resources
from typing import NamedTuple

PARTS = {
    "Use": (
        *(
            "getting-started",
            "javascript",
            "python",
            "namespaces",
            "hooks",
            "publishing",
            "resume",
            "live",
            "channels",
            "feeds",
            "socketio",
            "sse",
        ),
        *("errors", "descriptions"),
    ),
    "Operate": (
        *("commands", "configuration", "deploy", "security", "tls", "systemd", "backup", "several-machines"),
        *("operations", "console", "management", "webhooks", "metrics"),
        *("promises", "benchmarks"),
    ),
    "Develop": ("architecture", "dependencies", "contributing", "changelog"),
}
"""The parts of the handbook and their topics, in reading order. A page that no part names is in the part `Other`."""
OTHER = "Other"

DASHBOARD = "grafana"
"""The name of the file that is a dashboard of Grafana, not a page."""

_SUFFIX = ".md"


class Page(NamedTuple):
    """One page. `topic` is the name of its file without `.md`."""

    topic: str
    title: str
    summary: str
    """The first sentence below the title."""
    text: str
    """The whole page as Markdown."""


class Match(NamedTuple):
    """A line of a page in which a word was found."""

    topic: str
    number: int
    """The number of the line, from 1."""
    section: str
    """The nearest heading at or above the line."""
    line: str


def topics() -> list[str]:
    """Return the topics of all pages, in reading order."""
    return [topic for names in parts().values() for topic in names]


@cache
def parts() -> dict[str, tuple[str, ...]]:
    """Return the parts of the handbook with the topics that have a page. A part without a page is left out."""
    found = {
        entry.name.removesuffix(_SUFFIX) for entry in resources.files(__package__).iterdir() if _is_page(entry.name)
    }
    known = {part: tuple(topic for topic in names if topic in found) for part, names in PARTS.items()}
    known[OTHER] = tuple(sorted(found.difference(*known.values())))
    return {part: names for part, names in known.items() if names}


@cache
def page(topic: str) -> Page:
    """Return a page. At most every page is kept in memory.

    Raises:
        KeyError: there is no page on this topic.
    """
    if topic not in topics():
        raise KeyError(topic)
    text = read(topic + _SUFFIX)
    lines = text.splitlines()
    title = next((line.removeprefix("# ") for line in lines if line.startswith("# ")), topic)
    return Page(topic, title, _first_sentence(lines), text)


def read(name: str) -> str:
    """Return a file of this package: a page, the style sheet or the dashboard."""
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def dashboard() -> str:
    """Return the dashboard for Grafana, as JSON."""
    return read(f"{DASHBOARD}.json")


def search(word: str) -> Iterator[Match]:
    """Yield every line of every page that contains the word, in any case."""
    wanted = word.casefold()
    for topic in topics():
        section = page(topic).title
        in_code = False
        for number, line in enumerate(page(topic).text.splitlines(), 1):
            in_code ^= line.lstrip().startswith("```")
            if not in_code and (heading := re.match(r"#{1,6} (.+)", line)):
                section = heading[1]
            if wanted in line.casefold():
                yield Match(topic, number, section, line.strip())


def _is_page(name: str) -> bool:
    return name.endswith(_SUFFIX)


def _first_sentence(lines: list[str]) -> str:
    """Return the first sentence of the first paragraph, without marks of emphasis."""
    paragraph: list[str] = []
    for line in lines:
        if line.startswith("#") or not line.strip():
            if paragraph:
                break
            continue
        paragraph.append(line.strip())
    sentence = re.split(r"(?<=[.!?])\s", " ".join(paragraph), maxsplit=1)[0]
    return re.sub(r"\[([^\]]*)\]\([^)]*\)|[`*]", r"\1", sentence)
