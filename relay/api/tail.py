"""`GET /v1/admin/tail`: a stream of what is published, a line of JSON each, for admins."""

from __future__ import annotations

from functools import partial
from urllib.parse import parse_qs

import trio

from relay.api.authentication import Caller, authenticate_operator, check_reader
from relay.api.direct import LINES
from relay.api.draining import Draining
from relay.api.operation import CONSOLE_READER, describe
from relay.api.params import PATTERN, Params
from relay.api.streaming import StartStream, stream_while_valid
from relay.broker.taps import Tap
from relay.core import Core
from relay.ground import strictjson
from relay.ground.clock import iso_ms
from relay.ground.errors import invalid_field
from relay.ground.schema import Param
from relay.model.namespaces import MAX_CHANNEL_CHARACTERS
from relay.model.publication import Publication
from relay.transports.exchange import Exchange

PATH = "/v1/admin/tail"
TICK = 0.1
"""Seconds between two writes: the delay of a line at most."""
TICKS_PER_PERIOD = 10
"""Ticks in one period of the rate, which is a second."""
TICKS_PER_SIGN = 100
"""Ticks after which a stream without a line gets a blank one, so that its client sees that the connection lives."""
DEFAULT_RATE = 100
"""Publications a second that a tail shows, unless the request says how many."""
MAX_RATE = 1000
"""Publications a second that one tail shows."""


@describe(
    "Stream what is published, a line each, until the caller closes.",
    CONSOLE_READER,
    query={"pattern": PATTERN, "rate": Param({"type": "integer", "minimum": 1, "maximum": MAX_RATE})},
    media={LINES: str},
)
async def tail(core: Core, draining: Draining, caller: Caller, exchange: Exchange, start: StartStream) -> None:
    """Stream publications until the client is gone, its right ends or the server stops. `start` writes the head.

    Raises:
        RequestError: the caller may not, a parameter is wrong, or there are too many tails. `start` was not called.
    """
    principal = check_reader(await authenticate_operator(core, caller))
    query = Params({name: values[-1] for name, values in parse_qs(exchange.head.query).items()})
    rate = query.optional("rate") or str(DEFAULT_RATE)
    if not (rate.isascii() and rate.isdigit() and len(rate) < 6 and 1 <= int(rate) <= MAX_RATE):
        raise invalid_field("rate", f"must be 1 to {MAX_RATE}")
    with core.this_node.tap(query.optional("pattern", MAX_CHANNEL_CHARACTERS) or "*", _line, int(rate)) as tap:
        write = partial(_write, tap, exchange, draining)
        await stream_while_valid(core, caller, principal, exchange, start, write)


async def _write(tap: Tap, exchange: Exchange, draining: Draining) -> None:
    """Write lines until the server drains."""
    ticks, written_at = 0, 0
    while not draining.begun:
        await trio.sleep(TICK)
        ticks += 1
        lines = tap.take_lines()
        if ticks % TICKS_PER_PERIOD == 0 and (skipped := tap.renew()):
            lines.append(b'{"skipped":%d}\n' % skipped)
        if not lines and ticks - written_at >= TICKS_PER_SIGN:
            lines.append(b"\n")
        if lines:
            written_at = ticks
            await exchange.send(b"".join(lines))


def _line(publication: Publication) -> bytes:
    entry = {
        "channel": publication.channel.text,
        "type": publication.type,
        "offset": publication.offset,
        "epoch": publication.epoch,
        "publishedAt": iso_ms(publication.published_ms),
        "data": publication.data,
    }
    return strictjson.dumps(entry) + b"\n"
