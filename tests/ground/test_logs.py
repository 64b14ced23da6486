"""Log lines for people and for machines: formats, levels, and no forgery."""

import io
import json
import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.ground import logs

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    loggers = (logging.getLogger(), logging.getLogger("relay"))
    levels = [logger.level for logger in loggers]
    yield
    for handler in loggers[0].handlers[:]:
        if isinstance(handler, logging.NullHandler) or type(handler).__module__ == logs.__name__:
            loggers[0].removeHandler(handler)
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


def configured(stream: io.StringIO, kind: Literal["auto", "text", "json"] = "json", level: Any = "info") -> io.StringIO:
    logs.configure(kind, level, stream)
    return stream


def failure(message: str) -> Exception:
    try:
        raise ValueError(message)
    except ValueError as error:
        return error


def test_a_line_for_people() -> None:
    stream = configured(Terminal(), "auto")
    logs.get("relay.session").info("session opened", dialect="live", user="u 1", count=3)
    assert re.fullmatch(
        rf'{TIME} INFO    relay\.session: session opened dialect=live user="u 1" count=3\n', stream.getvalue()
    )


def test_a_line_for_machines() -> None:
    stream = configured(io.StringIO(), "auto")
    logs.get("relay.session").warning(
        "odd", user="ü", n=1, x=None, ok=True, rate=float("nan"), path=Path("/a"), tags=("a",)
    )
    entry = json.loads(stream.getvalue())
    assert re.fullmatch(TIME, entry.pop("time"))
    assert entry == {
        "level": "warning",
        "logger": "relay.session",
        "message": "odd",
        "user": "ü",
        "n": 1,
        "x": None,
        "ok": True,
        "rate": "nan",
        "path": "/a",
        "tags": "('a',)",
    }


def test_the_format_can_be_set() -> None:
    text = configured(io.StringIO(), "text")
    logs.get("relay").info("x")
    assert text.getvalue().endswith("relay: x\n")
    machines = configured(Terminal(), "json")
    logs.get("relay").info("y")
    assert json.loads(machines.getvalue())["message"] == "y"


def test_configuring_again_replaces_what_was_before() -> None:
    first, second = configured(io.StringIO()), configured(io.StringIO())
    logs.get("relay").info("x")
    assert first.getvalue() == ""
    assert second.getvalue().count("\n") == 1


def test_the_level_is_that_of_relay_and_libraries_log_warnings() -> None:
    stream = configured(io.StringIO(), level="debug")
    logging.getLogger("aiosqlite").debug("executing INSERT with a secret")
    logs.get("relay.store").debug("x")
    logging.getLogger("hypercorn").warning("y")
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["x", "y"]
    stream = configured(io.StringIO(), level="error")
    logs.get("relay").warning("x")
    logs.get("relay").error("y")
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["y"]


@pytest.mark.slow
@given(st.text(), st.text())
def test_no_value_can_forge_a_line_or_reach_the_terminal(message: str, value: str) -> None:
    stream = configured(io.StringIO(), "text")
    logs.get("relay").exception(message, failure(value), user=value)
    first, *traceback = stream.getvalue().removesuffix("\n").split("\n")
    assert re.match(rf"{TIME} ERROR   relay: ", first)
    assert all(line.startswith("    | ") for line in traceback)
    assert all(line.isprintable() for line in (first, *traceback))
    stream = configured(io.StringIO(), "json")
    logs.get("relay").exception(message, failure(value), user=value)
    (line,) = stream.getvalue().splitlines()
    assert line.isascii()
    assert json.loads(line)["user"] == value


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("plain", "plain"),
        ("", '""'),
        ("a b", '"a b"'),
        ('say "x"', r'"say \"x\""'),
        ("a=b", '"a=b"'),
        ("a\nb", r'"a\nb"'),
        (r"a\nb", r'"a\\nb"'),
        ("\x1b[31m", r'"\x1b[31m"'),
        ("\u202e", r'"\u202e"'),
        ("\ud800", r'"\ud800"'),
    ],
)
def test_how_a_value_is_shown(value: str, shown: str) -> None:
    stream = configured(io.StringIO(), "text")
    logs.get("relay").info("x", k=value)
    assert stream.getvalue().endswith(f" x k={shown}\n")


def test_a_traceback_is_set_off_or_a_field() -> None:
    stream = configured(io.StringIO(), "text")
    logs.get("relay").exception("request failed", failure("boom"), errorId="e1")
    assert " request failed errorId=e1\n    | Traceback (most recent call last):\n" in stream.getvalue()
    assert stream.getvalue().endswith("    | ValueError: boom\n")
    stream = configured(io.StringIO(), "json")
    logs.get("relay").exception("request failed", failure("boom"), errorId="e1")
    assert json.loads(stream.getvalue())["exception"].endswith("ValueError: boom")


def test_a_percent_sign_is_nothing_special_and_a_reserved_name_does_not_win() -> None:
    stream = configured(io.StringIO())
    logs.get("relay").info("100 %s %d", message="field", level=9, fields=1)
    entry = json.loads(stream.getvalue())
    assert (entry["message"], entry["level"], entry["fields"]) == ("100 %s %d", "info", 1)


def test_a_record_of_a_library_that_cannot_be_formatted_is_counted(capfd: pytest.CaptureFixture[str]) -> None:
    logging.getLogger().handlers.clear()  # pytest's own raises
    stream = configured(io.StringIO())
    logging.getLogger("library").error("%d", "no number")
    assert stream.getvalue() == ""
    logs.get("relay").info("next")
    lost, then = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert (lost["message"], lost["lines"], lost["level"]) == ("log lines were dropped", 1, "warning")
    assert lost["logger"] == "relay.logs"
    assert then["message"] == "next"
    assert capfd.readouterr().err == ""


def test_a_closed_stream_is_survived(tmp_path: Path) -> None:
    stream = (tmp_path / "log").open("w")
    logs.configure("auto", "info", stream)
    stream.close()
    logs.get("relay").info("x")
    logs.configure("auto", "info", stream)
    logs.get("relay").info("x")


def test_a_pipe_that_nobody_reads_costs_one_short_wait() -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream:
        logs.configure("auto", "info", stream)
        log = logs.get("relay")
        start = time.monotonic()
        for _ in range(1000):
            log.info("x", padding="y" * 200)
        assert time.monotonic() - start < 2, "each line waited"
        taken = len(os.read(reader, 1 << 20))
        assert taken <= 1 << 16
        log.info("again")
        rest = os.read(reader, 1 << 20).decode()
        os.close(reader)
        log.info("the reader is gone")
    *_, lost, again = rest.splitlines()
    assert json.loads(lost)["lines"] > 500
    assert json.loads(again)["message"] == "again"


def test_a_line_that_was_torn_does_not_spoil_the_next() -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream:
        logs.configure("auto", "info", stream)
        log = logs.get("relay")
        log.info("x", padding="y" * 200_000)
        content = os.read(reader, 1 << 20)
        log.info("next")
        content += os.read(reader, 1 << 20)
        os.close(reader)
    torn, lost, then = content.decode().splitlines()
    assert torn.startswith('{"padding":"yyy')
    assert json.loads(lost)["lines"] == 1
    assert json.loads(then)["message"] == "next"


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full"])
def test_a_process_whose_stderr_is_unusable_goes_on(redirection: str) -> None:
    program = "from relay.ground import logs; logs.configure('auto', 'info')"
    program += "; logs.get('relay').info('x'); print('alive')"
    command = f'exec "{sys.executable}" -c "{program}" {redirection}'
    done = subprocess.run(["sh", "-c", command], stdout=subprocess.PIPE, timeout=20, check=False)
    assert (done.returncode, done.stdout) == (0, b"alive\n")
