"""Inputs made from valid examples: bytes that are flipped, cut and spliced, JSON whose values are exchanged. Knows no decoder.

Everything is drawn from the `Random` that is passed in, so that the same number makes the same input again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from relay.ground import strictjson
from relay.ground.errors import ProtocolError

MAX_BYTES = 80_000
"""Length of an input that was blown up: past every bound on a message of a client."""
MAX_NESTING = 3_000
BLOWN_UP_SHARE = 0.01
JSON_SHARE = 0.85
"""How often an example that has JSON is changed as JSON; else, and often on top, as bytes."""
INNER_SHARE = 0.95
"""How often a change is made within an array or object instead of to the whole."""

INTERESTING = bytes(
    (0, 1, 9, 10, 13, 0x1E, 0x20, 0x22, 0x5B, 0x5C, 0x7B, 0x7F, 0x80, 0xBF, 0xC0, 0xE2, 0xED, 0xF4, 0xFE, 0xFF)
)
TOKENS: tuple[bytes, ...] = (
    b"\r\n", b"\r\n\r\n", b"\n", b"\x00", b"\x1e", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xf0\x9f\x98\x80", b"\xe2\x80\xae", b"%00", b"%2F",
    b"%", b"%ff", b"..", b"//", b",", b";", b":", b"=", b"&", b"?", b"#", b'"', b"'", b"\\", b"\\u0000", b"\\ud800", b"[", b"]", b"{", b"}",
    b"NaN", b"-Infinity", b"null", b"true", b"-1", b"1e999", b"-0", b"18446744073709551616", b"9" * 400, "ß".encode(), "\u0130".encode(),
    "٣".encode(), b"=" * 4, b"-" * 8, b"0x", b"::", b"[::1]", b"*", b"~", b"\t", b" " * 16,
)  # fmt: skip
VALUES: tuple[str, ...] = (
    "null", "true", "false", "0", "-0", "-0.0", "1", "-1", "1.5", "1e5", "1e999", "-1e999", "1e-999",
    "NaN", "Infinity", "-Infinity", "nan", "inf",
    str(2**53 + 1), str(2**63 - 1), str(2**63), str(2**64 - 1), str(2**64), str(-(2**63)), str(-(2**63) - 1), "1" * 25, "9" * 5000,
    "0." + "1" * 800, "01", "+1", ".5", "1.", "0x10",
    '""', '" "', '"\\u0000"', '"\\ud800"', '"\\udc00\\ud800"', '"\\ud83d\\ude00"',
    '"\\u202e"', '"\ufffe"', '"x\\u001ey"', '"' + "x" * 300 + '"', '"' + "x" * 5000 + '"', '"' + "ß" * 256 + '"', '"1"', '"true"', '"null"',
    '"../../etc"', '"a:b"', '"*"', '"\\n"', "[]", "{}", "[[]]", "[null]", '{"":{}}', '{"_placeholder":true,"num":0}',
    '{"_placeholder":true,"num":-1}',
    '{"_placeholder":true,"num":true}', '{"_placeholder":1}', '{"offset":1,"epoch":"e"}', '{"offset":-1,"epoch":""}', '{"__proto__":1}',
    "'x'", "undefined", "/**/1", "[1,]", '{"a":1,}', '{"a"}', "\ufeff1",
)  # fmt: skip
"""Texts to stand in place of a JSON value; many are no JSON."""
VALID_SHARE = 0.85
"""How often one is taken that is JSON: what is refused at once finds nothing behind it."""


def _is_valid(text: str) -> bool:
    try:
        strictjson.loads(text)
    except ProtocolError:
        return False
    return True


_VALID = tuple(filter(_is_valid, VALUES))


def _value(chance: Random) -> _Raw:
    return _Raw(chance.choice(_VALID if chance.random() < VALID_SHARE else VALUES))


class _Raw:
    """A text that is written into a document as it is."""

    def __init__(self, text: str) -> None:
        self.text = text


class _Pairs:
    """An object as its pairs, so that a name can be there twice."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        self.pairs = pairs


def mutated(chance: Random, corpus: Sequence[bytes], separator: bytes = b"") -> bytes:
    """Return an input made from the examples. Where `separator` joins records, some are changed, moved, repeated or left out."""
    data = chance.choice(corpus)
    if separator and chance.random() < 0.7:
        pool = [record for example in corpus for record in example.split(separator)]
        records = data.split(separator)
        for _ in range(chance.randint(0, 3)):
            _change_records(chance, records, pool)
        data = separator.join(_changed(chance, record, pool) if chance.random() < 0.4 else record for record in records)
    else:
        data = _changed(chance, data, corpus)
    if chance.random() < BLOWN_UP_SHARE:
        data = _blown_up(chance, data)
    return data[:MAX_BYTES]


def _change_records(chance: Random, records: list[bytes], pool: Sequence[bytes]) -> None:
    place = chance.randint(0, len(records))
    match chance.randrange(3):
        case 0 if records:
            del records[min(place, len(records) - 1)]
        case 1 if len(records) > 1:
            chance.shuffle(records)
        case _:
            records[place:place] = [chance.choice(pool)] * chance.choice((1, 1, 1, 2, 12))


def _changed(chance: Random, data: bytes, corpus: Sequence[bytes]) -> bytes:
    if chance.random() < JSON_SHARE and (split := _json_in(data)) is not None:
        prefix, document = split
        data = prefix + json_mutated(chance, document, corpus)
        if chance.random() < 0.8:
            return data
    elif chance.random() < 0.02:
        return data
    return bytes_mutated(chance, data, corpus)


def bytes_mutated(chance: Random, data: bytes, corpus: Sequence[bytes]) -> bytes:
    """Return these bytes with one to eight things done to them."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
        _BYTE_CHANGES[chance.randrange(len(_BYTE_CHANGES))](chance, changed, corpus)
    return bytes(changed)


def _flip(chance: Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    if data:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def _set(chance: Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    if data:
        data[chance.randrange(len(data))] = chance.choice(INTERESTING)


def _insert(chance: Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    place = chance.randint(0, len(data))
    data[place:place] = chance.choice(TOKENS) if chance.random() < 0.7 else chance.randbytes(chance.randint(1, 8))


def _cut(chance: Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    begin, end = _range(chance, data)
    del data[begin:end]


def _repeat(chance: Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    begin, end = _range(chance, data)
    data[begin:begin] = data[begin:end] * chance.choice((1, 1, 2, 20))


def _truncate(chance: Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    del data[chance.randint(0, len(data)) :]


def _splice(chance: Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    other = chance.choice(corpus)
    data[chance.randint(0, len(data)) :] = other[chance.randint(0, len(other)) :]


_BYTE_CHANGES: tuple[Callable[[Random, bytearray, Sequence[bytes]], None], ...] = (
    _flip, _flip, _set, _insert, _insert, _cut, _repeat, _truncate, _splice,
)  # fmt: skip


def _range(chance: Random, data: bytearray) -> tuple[int, int]:
    begin = chance.randint(0, len(data))
    return begin, min(len(data), begin + chance.choice((1, 2, 4, 16, 64)))


def _blown_up(chance: Random, data: bytes) -> bytes:
    begin, end = _range(chance, bytearray(data))
    piece = data[begin:end] or b" "
    return data[:end] + piece * (chance.randint(1, MAX_BYTES) // len(piece)) + data[end:]


# -- jSON --------------------------------------------------------------------------------------------------------------


def _json_in(data: bytes) -> tuple[bytes, Any] | None:
    """Take an example apart into what comes before its JSON, and that."""
    for start in sorted({data.find(b"{"), data.find(b"[")} - {-1}):
        try:
            return data[:start], json.loads(data[start:])
        except ValueError:
            continue
    return None


def json_mutated(chance: Random, document: Any, corpus: Sequence[bytes] = ()) -> bytes:
    """Return a document with one to four of its values, names or nestings changed, as bytes."""
    changed = _copied(document)
    donors = [split[1] for example in corpus[:50] if (split := _json_in(example)) is not None] or [document]
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        changed = _value_changed(chance, changed, chance.choice(donors))
    return _written(chance, changed, spaced=chance.random() < 0.1).encode("utf-8", "surrogatepass")


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return _Pairs([(name, _copied(inner)) for name, inner in value.items()])
    if isinstance(value, list):
        return [_copied(inner) for inner in value]
    return value


def _value_changed(chance: Random, value: Any, donor: Any) -> Any:
    """Change one place somewhere in the value, and return it."""
    if isinstance(value, _Pairs) and value.pairs and chance.random() < INNER_SHARE:
        index = chance.randrange(len(value.pairs))
        name, inner = value.pairs[index]
        match chance.randrange(10):
            case 0:
                del value.pairs[index]
            case 1:
                value.pairs.append((name, _value(chance)))  # the same name again
            case 2:
                value.pairs[index] = (_text_changed(chance, name), inner)
            case 3:
                value.pairs.append((chance.choice(("", "x", "__proto__", "id", "type", "_placeholder")), _Raw("1")))
            case _:
                value.pairs[index] = (name, _value_changed(chance, inner, donor))
        return value
    if isinstance(value, list) and value and chance.random() < INNER_SHARE:
        index = chance.randrange(len(value))
        match chance.randrange(8):
            case 0:
                del value[index]
            case 1:
                value[index:index] = [value[index]] * chance.choice((1, 2, 12, 200))
            case _:
                value[index] = _value_changed(chance, value[index], donor)
        return value
    match chance.randrange(12):
        case 0:
            depth = chance.choice((1, 2, 100, 126, 127, 128, 129, 250, MAX_NESTING))
            begin, end = chance.choice((("[", "]"), ('{"a":', "}")))
            return _Raw(begin * depth + (_written(chance, value) if chance.random() < 0.8 else "") + end * depth)
        case 1:
            return _copied(_inner(chance, donor))
        case 2 | 3 if isinstance(value, str):
            return _text_changed(chance, value)
        case 4 if isinstance(value, str):
            return _Raw('"' + value + chance.choice(('\\ud800"', "\\x00", "\\", '\\u00"', '\n"', '\x7f"', '"" ')))
        case 5 if isinstance(value, (int, float)):
            return value * chance.choice((-1, 0, 10**9, 10**18, 1e300, 0.1))
        case _:
            return _value(chance)


def _inner(chance: Random, value: Any) -> Any:
    while isinstance(value, (dict, list)) and value and chance.random() < 0.7:
        value = chance.choice(list(value.values()) if isinstance(value, dict) else value)
    return value


def _text_changed(chance: Random, text: str) -> str:
    place = chance.randint(0, len(text))
    match chance.randrange(6):
        case 0:
            return text[:place]
        case 1:
            return text * chance.choice((2, 40, 1000))
        case 2:
            return text.swapcase()
        case 3:
            return (
                text[:place]
                + chr(chance.choice((0, 7, 0x7F, 0xA0, 0xDF, 0x130, 0x2028, 0xD800, 0xFFFE, 0x1F600, 0x10FFFF)))
                + text[place:]
            )
        case 4:
            return text[:place] + chance.choice((":", "/", " ", "-", ".", "%", "0", "٣")) + text[place:]
        case _:
            return text.upper()


def _written(chance: Random, value: Any, *, spaced: bool = False) -> str:
    space = chance.choice((" ", "\n", "\t", "")) if spaced else ""
    if isinstance(value, _Raw):
        return value.text
    if isinstance(value, _Pairs):
        pairs = (f"{json.dumps(name)}:{space}{_written(chance, inner, spaced=spaced)}" for name, inner in value.pairs)
        return "{" + space + f",{space}".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + space + f",{space}".join(_written(chance, inner, spaced=spaced) for inner in value) + "]"
    return json.dumps(value, ensure_ascii=chance.random() < 0.5)
