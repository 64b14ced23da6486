"""JSON as Relay accepts and writes it: RFC 8259 with bounds, compact.

orjson does the work, and refuses NaN, Infinity and lone surrogates. This module also refuses values that orjson reads but
cannot return unchanged: integers beyond 64 bits, which become floats, and nesting that is too deep to write.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import orjson

from relay.ground.errors import ProtocolError

MAX_NESTING = 128
"""Levels of arrays and objects in one document. orjson reads 1,024 levels but writes only 254."""

_MAX_WRITTEN = 254
"""Levels that orjson writes; a test holds it."""
_MIN_INTEGER, _MAX_INTEGER = -(2**63), 2**64 - 1
_TO_ZEROS = bytes.maketrans(b"123456789", b"000000000")
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[][{},:]')
_STRING_OR_SPACE = re.compile(rb'("[^"\\]*(?:\\.[^"\\]*)*")|\s+')
_LONG_NUMBER = b"0" * 19  # 64 bits hold every integer of 18 digits


def loads(document: bytes | str) -> object:
    """Return the value of one JSON document.

    Raises:
        ProtocolError: the document is malformed, nested too deeply, or has an integer beyond 64 bits.
    """
    try:
        if isinstance(document, str):
            document = document.encode()
        value: object = orjson.loads(document)
    except (orjson.JSONDecodeError, UnicodeEncodeError) as error:
        raise ProtocolError("The message is not valid JSON.") from error
    if (
        len(document) > 2 * MAX_NESTING
        and document.count(b"[") + document.count(b"{") > MAX_NESTING
        and _is_too_deep(value)
    ):
        raise ProtocolError(f"The message is nested deeper than {MAX_NESTING} levels.")
    if _LONG_NUMBER in document.translate(_TO_ZEROS):  # a regular expression would take ten times as long as orjson
        # The digits may be part of a string or a fraction, which only a second, slower parse can tell.
        json.loads(document, parse_int=_check_integer)
    return value


def loads_object(document: bytes | str) -> dict[str, object]:
    """Return the JSON object in one document.

    Raises:
        ProtocolError: as `loads`, or the value is not an object.
    """
    value = loads(document)
    if not isinstance(value, dict):
        raise ProtocolError("The message is not a JSON object.")
    return value


def dumps(value: object) -> bytes:
    """Return the value as compact UTF-8 JSON. The value must come from `loads` or from Relay itself."""
    # Copied, because many results are kept: orjson leaves at least 1 KiB of memory to each, and 4 KiB since 3.12.
    return b"".join((orjson.dumps(value), b""))


def embedded(json_: bytes) -> object:
    """Return a value for `dumps` that stands for this JSON, byte for byte. It must be valid JSON."""
    return orjson.Fragment(json_)


def member(document: bytes, name: str) -> bytes:
    """Return the value of a member of an object as it is written, on one line; its last value if it has several.

    The document must be valid, and the member must exist.
    """
    found = b""
    for start, end, key in _items(document):
        if key is not None and (key == name or ("\\" in key and json.loads(f'"{key}"') == name)):
            found = document[start:end]
    return _one_line(found)


def elements(document: bytes) -> list[bytes]:
    """Return the values of an array as they are written. The document must be valid."""
    return [document[start:end] for start, end, _ in _items(document)]


def _items(document: bytes) -> Iterator[tuple[int, int, str | None]]:
    """Yield the start and the end of each value of the outermost object or array, and its key as it is written."""
    depth, start = 0, 0
    key: str | None = None
    string: bytes | None = None
    for token in _TOKEN.finditer(document):
        match document[token.start()]:
            case 0x22:  # a quotation mark
                string = token[0]
            case 0x5B | 0x7B:  # an opening bracket
                depth += 1
                start = token.end() if depth == 1 else start
            case 0x3A if depth == 1 and string is not None:  # a colon
                key, start = string[1:-1].decode(), token.end()
            case 0x2C if depth == 1:  # a comma
                yield *_trimmed(document, start, token.start()), key
                start = token.end()
            case 0x5D | 0x7D:  # a closing bracket
                depth -= 1
                if depth == 0 and document[start : token.start()].strip():
                    yield *_trimmed(document, start, token.start()), key


def _trimmed(document: bytes, start: int, end: int) -> tuple[int, int]:
    value = document[start:end]
    return start + len(value) - len(value.lstrip()), end - len(value) + len(value.rstrip())


def _one_line(value: bytes) -> bytes:
    """Return a value without the space between its tokens if that has line breaks. Strings have none."""
    if b"\n" in value or b"\r" in value:
        return _STRING_OR_SPACE.sub(lambda found: found[1] or b"", value)
    return value


def _check_integer(digits: str) -> int:
    # Python refuses to convert some thousand digits, so the length is checked first.
    if len(digits) > 20 or not _MIN_INTEGER <= int(digits) <= _MAX_INTEGER:
        raise ProtocolError("The message has an integer that does not fit 64 bits.")
    return int(digits)


def _is_too_deep(value: object) -> bool:
    """Return whether a value has more than MAX_NESTING levels: in so many more, it is one that orjson refuses to write."""
    for _ in range(_MAX_WRITTEN - MAX_NESTING):
        value = [value]
    try:
        orjson.dumps(value)
    except orjson.JSONEncodeError:
        return True
    return False
