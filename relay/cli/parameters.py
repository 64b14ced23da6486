"""What commands take: durations and user ids, as click callbacks that refuse what cannot be meant."""

from __future__ import annotations

import re

import click

from relay.kinds import MAX_ID_CHARACTERS

MAX_DAYS = 3650

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def duration(_context: click.Context, _parameter: click.Parameter, value: str) -> int:
    """Return the seconds of a duration such as 90s, 15m, 1h or 7d."""
    match = re.fullmatch(r"([0-9]{1,9})([smhd])", value)
    seconds = int(match[1]) * _SECONDS[match[2]] if match else 0
    if not 0 < seconds <= MAX_DAYS * _SECONDS["d"]:
        raise click.BadParameter(f"{value!r} is no duration; use one such as 90s, 15m, 1h or 7d, at most {MAX_DAYS}d.")
    return seconds


def user_id(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    """Return the user id, which is what a token has in `sub`."""
    if not value.strip() or not value.isprintable() or len(value) > MAX_ID_CHARACTERS:
        raise click.BadParameter(f"{value[:40]!r} is no user id; use 1 to {MAX_ID_CHARACTERS} printable characters.")
    return value
