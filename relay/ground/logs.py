"""The log: one line for each event on stderr, as text on a terminal and as JSON elsewhere, or as configured.

Every module logs a fixed message, and fields for the values:

    log = logs.get("relay.session")
    log.info("session authenticated", dialect="live", user="u1")

This module redacts nothing: no caller passes secrets, tokens, keys or the texts of messages to the log. A JSON line has
the keys `time`, `level`, `logger`, `message` and `exception`, so no field may have these names.

Logging never stops the server. If stderr is closed or its reader is too slow, lines are dropped. The next line that can
be written is preceded by the number of dropped lines.
"""

from __future__ import annotations

import json
import logging
import math
import os
import select
import sys
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal, TextIO

import orjson

STALL_TIMEOUT_MS = 50
"""Milliseconds that a line waits for a full pipe. Later lines do not wait until a line has been written again."""

CHUNK_BYTES = 4096
"""Bytes that a ready pipe takes without blocking (PIPE_BUF on Linux)."""


Level = Literal["debug", "info", "warning", "error"]
"""The lowest level that is logged."""

# Before `configure` is called nothing is written, because a short command reports its errors itself.
logging.getLogger("relay").addHandler(logging.NullHandler())


class Log:
    """A named logger that takes fields as keyword arguments. A value that JSON does not have is logged as `str(value)`."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def debug(self, message: str, /, **fields: object) -> None:
        """Log an event that matters only when searching for a fault."""
        self._log(logging.DEBUG, message, fields)

    def info(self, message: str, /, **fields: object) -> None:
        """Log a normal event."""
        self._log(logging.INFO, message, fields)

    def warning(self, message: str, /, **fields: object) -> None:
        """Log an event that an operator should look at."""
        self._log(logging.WARNING, message, fields)

    def error(self, message: str, /, **fields: object) -> None:
        """Log a failure."""
        self._log(logging.ERROR, message, fields)

    def exception(self, message: str, error: BaseException, /, **fields: object) -> None:
        """Log a failure with the traceback of the error."""
        self._log(logging.ERROR, message, fields, error)

    def _log(self, level: int, message: str, fields: dict[str, object], error: BaseException | None = None) -> None:
        logger = self._logger
        if logger.isEnabledFor(level):
            # `Logger.log` would walk the stack for the caller's line, which no format shows.
            exc_info = None if error is None else (type(error), error, error.__traceback__)
            record = logging.LogRecord(logger.name, level, "", 0, message, None, exc_info)
            record.fields = fields
            logger.handle(record)


def get(name: str) -> Log:
    """Return the log of this name, such as `relay.session`."""
    return Log(logging.getLogger(name))


def configure(
    style: Literal["auto", "text", "json"],
    level: Level,
    stream: TextIO | None = None,
    *,
    node: str | None = None,
) -> None:
    """Send all logs to a stream, by default to stderr as it is now. A second call replaces the first.

    `node` is the name of this node, which each line has as the field `node`; None: one server has the database.
    `auto` writes text to a terminal and JSON elsewhere. The level applies to Relay. Libraries log only warnings and
    errors, because at their debug level they write the bytes that they handle, which may be secret.
    """
    stream = sys.stderr if stream is None else stream
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _Handler)]:
        root.removeHandler(handler)
    root.setLevel(logging.WARNING)
    set_level(level)
    if stream is None or stream.closed:
        root.addHandler(logging.NullHandler())
        return
    as_text = style == "text" or (style == "auto" and stream.isatty())
    handler = _Handler(stream)
    handler.setFormatter(TextFormatter(node) if as_text else JSONFormatter(node))
    root.addHandler(handler)


def set_level(level: Level) -> None:
    """Log events of Relay from this level on."""
    logging.getLogger("relay").setLevel(level.upper())


class _Formatter(logging.Formatter):
    """Adds the node's name to the fields of each line. The record is not changed, because other handlers see it too."""

    def __init__(self, node: str | None = None) -> None:
        super().__init__()
        self._node = node

    def fields(self, record: logging.LogRecord) -> dict[str, object]:
        """Return the fields of a line."""
        fields = dict(_fields(record))
        return fields if self._node is None else {**fields, "node": self._node}


class TextFormatter(_Formatter):
    """A line for people: time, level, logger, message and `key=value` for each field. A traceback is indented below it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the lines. No logged value can produce a line that looks like another record."""
        line = f"{_time(record)} {record.levelname:<7} {record.name}: {printable(record.getMessage())}"
        for name, value in self.fields(record).items():
            line += f" {name}={_shown(value)}"
        for traceback_line in _traceback(record).split("\n"):
            if traceback_line:
                line += f"\n    | {printable(traceback_line)}"
        return line


class JSONFormatter(_Formatter):
    """A JSON object for machines, in ASCII."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        entry = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if traceback := _traceback(record):
            entry["exception"] = traceback
        return _json({**{name: _plain(value) for name, value in self.fields(record).items()}, **entry})


def printable(text: str) -> str:
    """Return the text with line breaks, control characters and all other unprintable characters escaped."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


class _Handler(logging.StreamHandler["_Stream"]):
    """Writes lines, and counts the dropped ones."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(_Stream(stream))
        self._lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        if self._lost:
            lost, self._lost = self._lost, 0
            notice = {"fields": {"lines": lost}, "levelno": logging.WARNING, "levelname": "WARNING"}
            super().emit(logging.makeLogRecord({"name": "relay.logs", "msg": "log lines were dropped", **notice}))
            if self._lost:
                self._lost = lost + 1
                return
        super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name in the logging module
        self._lost += 1


class _Stream:
    """Writes to a stream, and waits at most STALL_TIMEOUT_MS for its reader."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._poll = select.poll()
        self._stalled = False
        self._torn = False
        try:
            self._poll.register(stream.fileno(), select.POLLOUT)
            self._has_fd = True
        except (OSError, ValueError):  # a stream in memory
            self._has_fd = False

    def write(self, text: str) -> None:
        """Write all of the text.

        Raises:
            OSError: the reader is too slow, or the stream is closed.
        """
        if not self._has_fd:
            self._stream.write(text)
            return
        line = ("\n" if self._torn else "") + text
        rest = memoryview(line.encode("utf-8", "backslashreplace"))
        while rest:
            if not self._poll.poll(0 if self._stalled else STALL_TIMEOUT_MS):
                self._stalled = True
                raise TimeoutError("the reader of the log is too slow")
            rest = rest[os.write(self._stream.fileno(), rest[:CHUNK_BYTES]) :]
            self._torn = bool(rest)
        self._stalled = False

    def flush(self) -> None:
        """Do nothing, because `write` writes each line at once."""


def _json(entry: dict[str, object]) -> str:
    try:
        line = orjson.dumps(entry).decode()
    except orjson.JSONEncodeError:  # half a surrogate pair, or a very large number
        return json.dumps(entry)
    return line if line.isascii() else json.dumps(entry)


def _time(record: logging.LogRecord) -> str:
    return f"{_second(int(record.created))}.{int(record.msecs):03d}Z"


@lru_cache(maxsize=1)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields = getattr(record, "fields", None)
    return fields if isinstance(fields, dict) else {}


def _traceback(record: logging.LogRecord) -> str:
    if record.exc_info and record.exc_info[1] is not None:
        return logging.Formatter().formatException(record.exc_info)
    return ""


def _plain(value: object) -> object:
    """Return a value that JSON has unchanged, and any other value as text."""
    if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return str(value)


def _shown(value: object) -> str:
    """Return a value as text, quoted if its end would not be clear."""
    text = str(value)
    if text and text.isprintable() and not any(char in ' ="\\' for char in text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{printable(escaped)}"'
