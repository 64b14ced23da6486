"""The handbook says everything, and what it names is there: settings, commands, metrics, links, paths and log lines."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs
import click
import pytest
import trio
from markdown_it import MarkdownIt

from relay.api.docs import anchor
from relay.cli.main import main
from relay.config.reference import render_reference
from relay.config.tree import Config
from relay.docs import handbook
from relay.ground.errors import BY_CLIENT, Reason, RefusalReason
from relay.ops.metrics import UPGRADED
from tests.http_client import http_client
from tests.running import config_for, running
from tests.stores import url_for

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "relay/docs"
README = ROOT / "README.md"
PAGES = (README, *sorted(DOCS.glob("*.md")))
README_BYTES = 8192
"""More is not read: what is longer belongs in a page."""
MAX_PICTURE_BYTES = 60_000
"""They are in every installation."""
TO_COME = frozenset({
    *("getting-started", "publishing", "resume", "live", "channels", "feeds", "socketio", "errors"),
    *("architecture", "dependencies", "contributing", "changelog"),
}) - {path.stem for path in DOCS.glob("*.md")}  # fmt: skip
"""Pages that are linked to and not written yet."""
REGENERATE = (
    "python -c 'import pathlib, relay.config.reference as reference; "
    'pathlib.Path("relay/docs/configuration.md").write_text(reference.render_reference(), encoding="utf-8")\''
)
WEBHOOK = {"webhooks.backend.url": "https://192.0.2.1/", "webhooks.backend.secret": "whsec_" + "c" * 32}
"""A webhook that nothing is sent to, so that its metrics are shown."""
SOURCE = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "relay").rglob("*.py")))


def text_of(topic: str) -> str:
    """Return a page."""
    return (DOCS / f"{topic}.md").read_text(encoding="utf-8")


def settings(cls: type[Any], prefix: str = "") -> Iterator[str]:
    """Yield the key path of every setting."""
    for field in attrs.fields(cls):
        if "entry" in field.metadata:  # a table of sections with free names
            continue
        if field.type is not None and attrs.has(field.type):
            yield from settings(field.type, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name


def commands(command: click.Command = main, name: str = "relay") -> Iterator[tuple[str, click.Command]]:
    """Yield every command with its whole name, `relay` itself first."""
    yield name, command
    if isinstance(command, click.Group):
        for inner, subcommand in command.commands.items():
            yield from commands(subcommand, f"{name} {inner}")


def section_of(name: str) -> str:
    """Return the part of the page on commands that describes a command. The loads of `relay bench` share one."""
    heading = "relay bench" if name.startswith("relay bench") else name
    match = re.search(rf"^(#+) {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", text_of("commands"), re.DOTALL | re.MULTILINE)
    assert match, f"commands.md has no section on {heading!r}"
    return match[2]


def links(page: Path) -> Iterator[str]:
    """Yield where the links of a page lead, but for those to other sites."""
    for token in MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8")):
        for inner in token.children or ():
            if inner.type == "link_open" and "://" not in (href := str(inner.attrGet("href"))):
                yield href


def relay_commands(page: Path) -> Iterator[list[str]]:
    """Yield the words behind `relay` of each command in the code of a page."""
    for token in MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8")):
        codes = [token.content] if token.type == "fence" else []
        codes += [inner.content for inner in token.children or () if inner.type == "code_inline"]
        for code in codes:
            text = code.replace("\\\n", " ")
            for command in re.findall(
                r"(?:^|[(|] ?|&& |; |\w=\S+ )relay ((?:'[^']*'|[^|&;>()'\n])+)", text, re.MULTILINE
            ):
                yield shlex.split(command, comments=True)


def anchors(page: Path) -> set[str]:
    """Return the fragments of a page's headings."""
    tokens = MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8"))
    following = pairwise(tokens)
    return {anchor(inline.content) for opening, inline in following if opening.type == "heading_open"}


def test_configuration_is_the_generated_page() -> None:
    """The page follows from the settings."""
    assert text_of("configuration") == render_reference(), f"regenerate the page: {REGENERATE}"


@pytest.mark.parametrize("key_path", list(settings(Config)))
def test_every_setting_has_its_entry(key_path: str) -> None:
    """And its variable of the environment."""
    page = text_of("configuration")
    assert f"\n### {key_path}\n" in page
    assert f"`RELAY_{key_path.upper().replace('.', '__')}`" in page


@pytest.mark.parametrize(
    ("name", "command"), list(commands())[1:], ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_command_and_option_is_described(name: str, command: click.Command) -> None:
    """In the section of the command, which has an example of it."""
    section = section_of(name)
    if not isinstance(command, click.Group):
        assert re.search(rf"^(?:\w+=\$\(|export \w+=\$\(|echo .*\| )?{name}\b", section, re.MULTILINE), "no example"
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.name != "help":
            for option in parameter.opts:
                assert re.search(rf"`{option}(?![\w-])", section), f"{option} is missing"


def test_the_table_of_commands_has_each() -> None:
    """The table at the top of the page, which links to the sections."""
    named = re.findall(r"^\| \[`relay ([\w-]+)`\]\(#relay-\1\) \|", text_of("commands"), re.MULTILINE)
    assert set(main.commands) - set(named) == set(), "add rows to the table at the top of commands.md"
    assert set(named) - set(main.commands) == set(), "rows without a command"


def test_no_option_is_invented() -> None:
    """Every option in the page is one of a command."""
    there = {option for _, command in commands() for parameter in command.params for option in parameter.opts}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text_of("commands")))
    assert named - there == {"--help", "--version"} - there


@pytest.mark.slow
async def test_every_metric_is_described_with_its_labels(tmp_path: Path) -> None:
    """As one of several nodes that just started shows them; the page names no other."""
    with trio.fail_after(20):
        async with (
            running(config_for(tmp_path, {"store.url": url_for(tmp_path), **WEBHOOK})) as (_, address),
            http_client() as client,
        ):
            shown = (await client.get(f"http://{address}/metrics")).text
    page = text_of("metrics")
    names = {line.split()[2] for line in shown.splitlines() if line.startswith("# TYPE")}
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*)$", page, re.MULTILINE))
    assert len(names) > 30
    described = {name for name in rows if name.startswith(("relay_", "process_", "python_"))}
    assert names - described == set(), "metrics without a row in metrics.md"
    assert described - names == set(), "rows without a metric"
    labels = re.findall(r"^(\w+?)(?:_bucket)?\{([^}]*)\}", shown, re.MULTILINE)
    for name, labelled in labels:
        for label in re.findall(r"(\w+)=", labelled):
            assert label == "le" or f"`{label}`" in rows[name], (name, label)
    for table in re.findall(r'relay_table_entries\{table="(\w+)"\}', shown):
        assert f"`{table}`" in page, table


def test_every_reason_of_a_close_is_described() -> None:
    """As the label `reason` has it, and the table has no other."""
    table = text_of("metrics").partition("## Reasons")[2].partition("\n## ")[0]
    named = {
        name for row in re.findall(r"^\| (`[^|]+) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
    }
    assert named == {reason.name.lower() for reason in set(Reason) - {Reason.NORMAL}} | {BY_CLIENT, UPGRADED}


def test_every_logger_is_named() -> None:
    """An operator filters by them."""
    loggers = set(re.findall(r'^log = logs\.get\("([\w.]+)"\)', SOURCE, re.MULTILINE)) | {"relay.logs"}
    assert len(loggers) > 10
    page = text_of("operations")
    assert [logger for logger in sorted(loggers) if f"`{logger}`" not in page] == []


def test_every_log_line_of_a_symptom_is_logged() -> None:
    """The third column of the table names messages of the log, as the code has them, and fields."""
    table = text_of("operations").partition("## Symptoms")[2].partition("\n## ")[0]
    rows = [row.strip("|").split("|") for row in table.splitlines() if row.startswith("|")][2:]
    cells = [cell for _, _, cell, _ in rows]
    messages = [
        text for cell in cells for text in re.findall(r"`([^`]+)`", cell) if "=" not in text and "..." not in text
    ]
    assert len(messages) > 10
    assert [message for message in messages if f'"{message}"' not in SOURCE] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """To a file that is there, and to a heading that is in it."""
    lost = []
    for link in links(page):
        path, _, fragment = link.partition("#")
        target = page.parent / path if path else page
        if target.parent.resolve() == DOCS and target.stem in TO_COME:
            continue
        if not target.exists() or (fragment and fragment not in anchors(target)):
            lost.append(link)
    assert lost == []


def test_pictures_are_there_and_small() -> None:
    """Each has a description, and none is left over."""
    shown: dict[str, str] = {}
    for page in PAGES:
        for token in MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8")):
            shown |= {str(one.attrGet("src")): one.content for one in token.children or () if one.type == "image"}
    assert set(shown) == {f"screens/{path.name}" for path in (DOCS / "screens").iterdir()}
    assert all(shown.values())
    assert [path.name for path in (DOCS / "screens").iterdir() if path.stat().st_size > MAX_PICTURE_BYTES] == []


def test_pages_link_to_pages_alone() -> None:
    """Whatever else is in the repository is not installed with the package."""
    for page in sorted(DOCS.glob("*.md")):
        assert [link for link in links(page) if not re.fullmatch(r"([\w-]+\.md)?(#[\w-]+)?", link)] == [], page.name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_paths_and_modules_exist(page: Path) -> None:
    """Paths below `tests/` and `relay/`, and modules that a command runs."""
    text = page.read_text(encoding="utf-8")
    paths = {name.rstrip("./") for name in re.findall(r"(?<![\w./-])(?:tests|relay)/[\w./*-]+", text)}
    paths |= {name.replace(".", "/") for name in re.findall(r"python -m (tests\.[\w.]*\w)", text)}
    paths -= {f"relay/docs/{topic}.md" for topic in TO_COME}
    assert [name for name in sorted(paths) if not any(ROOT.glob(name)) and not any(ROOT.glob(f"{name}.py"))] == []


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: page.name)
def test_commands_take_the_options_that_they_are_given(page: Path) -> None:
    """In blocks of code and within sentences, which may leave out a value."""
    there = dict(commands())
    for words in relay_commands(page):
        name, depth = "relay", 0
        while depth < len(words) and f"{name} {words[depth]}" in there:
            name, depth = f"{name} {words[depth]}", depth + 1
        assert depth or words[0].startswith("-"), f"there is no command `relay {' '.join(words)}`"
        command = there[name]
        try:
            command.make_parser(click.Context(command)).parse_args(words[depth:])
        except click.BadOptionUsage:
            pass  # the page names an option, and leaves its value out
        except click.NoSuchOption as error:
            pytest.fail(f"`relay {' '.join(words)}`: {error.format_message()}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_scripts_take_the_options_that_they_are_given(page: Path) -> None:
    """Those below `tests/`, by their path or by the name of the module."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for name, arguments in re.findall(r"python (?:-m )?(tests[\w./]+)([^|&;\n`]*)", text):
        path = ROOT / name if name.endswith(".py") else ROOT / name.replace(".", "/")
        source = next(file for file in (path, path.with_suffix(".py"), path / "__main__.py") if file.is_file())
        for option in re.findall(r" (--[a-z-]+)", arguments):
            assert f'"{option}"' in source.read_text(encoding="utf-8"), f"{name} has no {option}"


def test_the_readme_is_short() -> None:
    """One screen to decide, five minutes to try; the rest is in pages."""
    assert len(README.read_bytes()) <= README_BYTES


def test_every_page_has_a_part_a_title_and_a_summary() -> None:
    """So that the list of pages says where to look."""
    assert set(handbook.topics()) == {page.stem for page in DOCS.glob("*.md")}
    assert handbook.OTHER not in handbook.parts()
    for topic in handbook.topics():
        page = handbook.page(topic)
        assert page.text.startswith(f"# {page.title}\n\n"), topic
        assert 20 <= len(page.summary) <= 140, (topic, page.summary)
        assert page.summary.endswith("."), (topic, page.summary)
        assert "`" not in page.summary
        assert "](" not in page.summary


def test_an_unknown_page() -> None:
    """It is told apart from one that is there; nothing outside of the handbook is read."""
    for topic in ("nothing", "", "../docs/tls", "style.css", "handbook"):
        with pytest.raises(KeyError):
            handbook.page(topic)


def test_search_finds_the_line_and_its_section() -> None:
    """In any case, and not taking a comment in code for a heading."""
    [match] = [match for match in handbook.search("SOMAXCONN=65535") if match.topic == "systemd"]
    lines = text_of("systemd").splitlines()
    assert lines[match.number - 1].strip() == match.line == "sudo sysctl -w net.core.somaxconn=65535"
    assert match.section == "Restarts without a refused connection"
    assert list(handbook.search("no page has this word")) == []


def test_every_reason_of_a_refusal_is_described() -> None:
    """In the table of reasons, each with a cure."""
    rows = re.findall(
        r"^\| `(\w+)` \| `\w+` \| .+ \| .+ \|$", text_of("errors").partition("## Reasons")[2], re.MULTILINE
    )
    assert sorted(rows) == sorted(reason.value for reason in RefusalReason)
