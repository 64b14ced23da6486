"""The loader of configurations: a file whose lines and bytes are changed, variables of the environment, and flags."""

from __future__ import annotations

import os
import re
import tempfile
from functools import cache
from pathlib import Path
from random import Random
from zlib import crc32

from relay.config.example import render_example
from relay.config.loading import ConfigError, load_config
from tests.fuzz.decoder import Decoder
from tests.fuzz.mutation import VALUES, bytes_mutated
from tests.running import SECRET

MORE_VALUES = (
    "2026-01-01", "07:32:00", "[[1], [2]]", '["a", "a"]', '{a = 1}', "'''x\n'''", '"""\nx"""', "1_000", "0o7", "inf", "-nan", "+1.0e+5",
    '"10.0.0.0/33"',
    '["::/129"]', '["10.0.0.1/8"]', '"/"', '"."', '"/dev/null"', '"/proc/self/mem"', '"' + "a/" * 3000 + '"', '"' + "a" * 300 + '"',
    '"\\u0000"',
    '"relay.db/x"', '"~/x"', "[" * 200 + "]" * 200, '["HS256", "none"]', '["*"]', '["https://*.x.org"]',
)  # fmt: skip
SEPARATOR = b"\x00RELAY_"
"""Between the file and each variable of the environment."""


@cache
def _lines() -> tuple[str, ...]:
    """The example's lines, with its settings uncommented."""
    lines = (line.removeprefix("# ") for line in render_example(SECRET).splitlines())
    return tuple(line for line in lines if re.match(r"[a-z_]+ = |\[[a-z.]+\]$", line))


def _changed_line(chance: Random, line: str) -> str:
    name, equals, value = line.partition("=")
    match chance.randrange(6):
        case 0:
            return line
        case 1:
            return f"{name.rstrip()}{chance.choice(('s', '.x', '_', ' ', '.a.b'))}{equals}{value}"
        case 2:
            return f"{name}{equals}{chance.choice(_lines()).partition('=')[2]}"
        case _:
            return f"{name}= {chance.choice(MORE_VALUES if chance.random() < 0.5 else VALUES)}"


def make_configuration(chance: Random) -> bytes:
    """Draw a file and variables."""
    lines = list(_lines())
    for _ in range(chance.choice((0, 1, 1, 2, 5))):
        place = chance.randrange(len(lines))
        lines[place] = _changed_line(chance, lines[place])
    if chance.random() < 0.3:
        del lines[chance.randrange(len(lines)) : chance.randrange(len(lines))]
    data = "\n".join(lines).encode("utf-8", "surrogatepass")
    if chance.random() < 0.3:
        data = bytes_mutated(chance, data, [data])
    for _ in range(chance.choice((0, 0, 1, 2))):
        setting = chance.choice(
            (
                "SERVER__PORT",
                "STORE__PATH",
                "AUTH__JWT_SECRET",
                "LIMITS__AUTH_TIMEOUT",
                "SERVER__ALLOWED_ORIGINS",
                "DIALECTS__LIVE",
                "X__Y",
            )
        )
        value = chance.choice((*MORE_VALUES, *VALUES)).encode("utf-8", "surrogatepass")
        data += SEPARATOR + setting.encode() + b"=" + bytes_mutated(chance, value, [value]).replace(b"\0", b"")
    return data


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="relay-fuzz-")


def take_configuration(data: bytes) -> None:
    """What is loaded is whole; what is refused says where, and nothing of a secret."""
    content, *variables = data.split(SEPARATOR)
    folder = Path(_folder().name)
    file = folder / "relay.toml"
    file.write_bytes(content)
    environment = {}
    for variable in variables:
        name, _, value = variable.partition(b"=")
        environment["RELAY_" + os.fsdecode(name)] = os.fsdecode(value)
    overrides = {"server.port": 0, "store.path": str(folder / "x.db")} if crc32(data) % 2 else {}
    try:
        load_config(file, environment, overrides)
    except ConfigError as error:
        assert error.problems
        for problem in error.problems:
            assert problem.key_path
            assert problem.message
        raise


DECODERS = (Decoder("configuration", (ConfigError,), make_configuration, take_configuration),)
