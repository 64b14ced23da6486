"""JSON as Relay accepts and writes it: RFC 8259 with bounds, compact.

orjson does the work. What it lets through and no client could read back as it was sent is refused here: integers past 64
bits (it turns them into floats) and nesting deeper than it could write again. NaN, Infinity and lone surrogates it refuses
itself.
"""

from __future__ import annotations

import json

import orjson

from relay.ground.errors import ProtocolError

MAX_NESTING = 128
"""Levels of arrays and objects in one document. orjson reads 1,024 but writes only 254."""

_MIN_INTEGER, _MAX_INTEGER = -(2**63), 2**64 - 1
_TO_ZEROS = bytes.maketrans(b"123456789", b"000000000")
_LONG_NUMBER = b"0" * 19  # 64 bits hold every integer of 18 digits


def loads(document: bytes | str) -> object:
    """Return the value of one JSON document.

    Raises:
        ProtocolError: malformed, too deep, or with an integer past 64 bits.
    """
    try:
        if isinstance(document, str):
            document = document.encode()
        value: object = orjson.loads(document)
    except (orjson.JSONDecodeError, UnicodeEncodeError) as error:
        raise ProtocolError("The message is not valid JSON.") from error
    if document.count(b"[") + document.count(b"{") > MAX_NESTING and _depth(value) > MAX_NESTING:
        raise ProtocolError(f"The message is nested deeper than {MAX_NESTING} levels.")
    if _LONG_NUMBER in document.translate(_TO_ZEROS):  # a regular expression takes ten times as long as orjson
        # Long digits may stand in a string or a fraction: only a second, slower look can tell.
        json.loads(document, parse_int=_check_integer)
    return value


def loads_object(document: bytes | str) -> dict[str, object]:
    """Return the JSON object in one document.

    Raises:
        ProtocolError: as `loads`, or the value is no object.
    """
    value = loads(document)
    if not isinstance(value, dict):
        raise ProtocolError("The message is not a JSON object.")
    return value


def dumps(value: object) -> bytes:
    """Return the value as compact UTF-8 JSON. The value comes from `loads` or from Relay itself."""
    return orjson.dumps(value)


def _check_integer(digits: str) -> int:
    # Python refuses to convert more than some thousand digits; by then the answer is known.
    if len(digits) > 20 or not _MIN_INTEGER <= int(digits) <= _MAX_INTEGER:
        raise ProtocolError("The message has an integer that does not fit 64 bits.")
    return int(digits)


def _depth(value: object) -> int:
    """Levels of nesting, without recursion: what is measured may be as deep as a recursion could not go."""
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
