"""Prints the report of a load: a table for people, or one JSON object."""

from __future__ import annotations

import json

import attrs
from rich.console import Console
from rich.table import Table
from rich.text import Text

from relay.bench.latency import Latencies
from relay.bench.result import Result

BAR_WIDTH = 40
"""Characters of the longest bar."""
_UNITS = ("percent", "ms", "kb", "mb", "us", "s")


def write(result: Result, *, as_json: bool) -> None:
    """Print to stdout."""
    if as_json:
        print(json.dumps(result.as_dict()), flush=True)  # noqa: T201 - the command's result
        return
    console = Console(highlight=False)
    settings = ", ".join(f"{name} {value}" for name, value in result.settings.items() if value is not None)
    title = f"relay bench {result.load}: {settings}" + (" (interrupted)" if result.interrupted else "")
    console.print(Text(title, style="bold"), soft_wrap=True)
    console.print(_table(result))
    if result.latencies is not None and result.latencies.count:
        console.print(Text(f"Latency {result.latency_of}:", style="bold"))
        console.print(_histogram(result.latencies))
    for note in result.notes:
        console.print(Text(note, style="yellow"), soft_wrap=True)
    for problem in result.problems:
        console.print(Text(f"Problem: {problem}", style="bold red"), soft_wrap=True)
    if result.proven():
        console.print(Text("Audit: no publication was lost, repeated or out of order.", style="green"))


def _table(result: Result) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in result.figures.items():
        table.add_row(*_row(name, value))
    if result.latencies is not None and result.latencies.count:
        for name, value in result.latencies.summary().items():
            table.add_row(f"latency {name.replace('_', '.')}, ms", f"{value:,.2f}")
    if result.audit is not None:
        for name, count in attrs.asdict(result.audit).items():
            table.add_row(name.replace("_", " "), f"{count:,}")
    return table


def _row(name: str, value: float) -> tuple[str, str]:
    """Return name and figure for people. A unit in the name moves to its end."""
    words = name.split("_")
    figure = f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 1000 else f"{value:,.2f}"
    if words[-2:] == ["per", "s"]:
        return f"{' '.join(words[:-2])} a second", figure
    unit = next((word for word in words if word in _UNITS), None)
    if unit is None:
        return " ".join(words), figure
    shown = {"percent": "%", "kb": "KB", "mb": "MB", "us": "µs", "s": "seconds"}.get(unit, unit)
    return f"{' '.join(word for word in words if word != unit)}, {shown}", figure


def _histogram(latencies: Latencies) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(justify="right")
    table.add_column(justify="right")
    table.add_column()
    rows = latencies.histogram()
    most = max(count for _, count in rows)
    for top, count in rows:
        table.add_row(
            f"below {top:,.3g} ms" if top < 100 else f"below {top:,.0f} ms",
            f"{count:,}",
            "█" * round(BAR_WIDTH * count / most),
        )
    return table
