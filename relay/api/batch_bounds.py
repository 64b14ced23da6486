"""Bounds the commands of one batch, and with them its answer. Pure."""

from __future__ import annotations

from typing import Any

from relay.api.method_views import MAX_COMMANDS
from relay.ground.errors import invalid_field

MAX_READS = 16
"""Commands of one batch that read a history, a presence or the channels."""
MAX_CHANNELS = 20_000
"""Channels of all broadcasts of one batch: the result for each of them needs some 600 bytes of memory."""

_READS = frozenset({"presence", "history", "channels"})


def checked_commands(commands: object, max_items: int) -> list[Any]:
    """Return the commands of a batch. `max_items`: the most publications of one array.

    Raises:
        RequestError: this is not a list, or there are too many for one answer.
    """
    maximum = min(MAX_COMMANDS, max_items)
    if not isinstance(commands, list) or len(commands) > maximum:
        raise invalid_field("commands", f"must be a list of at most {maximum} commands")
    if sum(bool(_READS & set(one)) for one in commands if isinstance(one, dict)) > MAX_READS:
        raise invalid_field("commands", f"may have {MAX_READS} of presence, history and channels at most")
    if sum(map(_channel_count, commands)) > MAX_CHANNELS:
        raise invalid_field("commands", f"may broadcast to {MAX_CHANNELS} channels at most, all together")
    return commands


def _channel_count(command: object) -> int:
    params = command.get("broadcast") if isinstance(command, dict) else None
    channels = params.get("channels") if isinstance(params, dict) else None
    return len(channels) if isinstance(channels, list) else 0
