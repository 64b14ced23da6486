"""JSON as Relay accepts and writes it: RFC 8259 with bounds, compact.

orjson does the work, and refuses NaN, Infinity and lone surrogates. This module also refuses values that orjson reads but
cannot return unchanged: integers beyond 64 bits, which become floats, and nesting that is too deep to write.
"""

from __future__ import annotations

import json

import orjson

from relay.ground.errors import ProtocolError

MAX_NESTING = 128
"""Levels of arrays and objects in one document. orjson reads 1,024 levels but writes only 254."""

_MIN_INTEGER, _MAX_INTEGER = -(2**63), 2**64 - 1
_TO_ZEROS = bytes.maketrans(b"123456789", b"000000000")
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
    if document.count(b"[") + document.count(b"{") > MAX_NESTING and _depth(value) > MAX_NESTING:
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
    return orjson.dumps(value)


def _check_integer(digits: str) -> int:
    # Python refuses to convert some thousand digits, so the length is checked first.
    if len(digits) > 20 or not _MIN_INTEGER <= int(digits) <= _MAX_INTEGER:
        raise ProtocolError("The message has an integer that does not fit 64 bits.")
    return int(digits)


def _depth(value: object) -> int:
    """Return the levels of nesting, without recursion, because the value may be deeper than Python's recursion limit."""
    depth = 0
    level = [value]
    while level:
        below: list[object] = []
        nested = False
        for item in level:
            if isinstance(item, dict):
                nested = True
                below.extend(item.values())
            elif isinstance(item, list):
                nested = True
                below.extend(item)
        depth += nested
        level = below
    return depth
