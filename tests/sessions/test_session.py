"""The barrier of a session: how a connection ends after each error that a handler raises, on a real server."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import trio

from relay.config.dialects import LiveConfig
from relay.core import Core
from relay.dialects.base import Dialect, pinged
from relay.ground.errors import Disconnect, Reason
from relay.sessions.session import Session
from tests.clients import connect
from tests.running import config_for, running


def open_failing(core: Core) -> Dialect:
    """Return a dialect whose handler fails as its client asks."""
    return pinged("failing", "/failing", fail, LiveConfig(), core, encoders=[])


async def fail(session: Session) -> None:
    """Raise an error, or let a task of a nursery raise it, perhaps once the session is cancelled."""
    message = str(await session.receive())
    back, slow, defect = Disconnect(Reason.RECONNECT), Disconnect(Reason.TOO_SLOW), ValueError("a defect")
    match message:
        case "one":
            raise back
        case "group":
            raise ExceptionGroup("", [back])
        case "several":
            raise ExceptionGroup("", [slow, back])
        case "nested":
            raise ExceptionGroup("", [ExceptionGroup("", [slow]), back])
        case "defect":
            raise defect
        case "mixed":
            raise ExceptionGroup("", [back, ExceptionGroup("", [defect])])
    async with trio.open_nursery() as nursery:
        if message == "task":
            nursery.start_soon(raise_, back)
        else:
            session.set_deadline(trio.current_time() + 0.01, Reason.TOKEN_EXPIRED)
            nursery.start_soon(raise_if_cancelled, back if message == "cancelled" else defect)
        await session.receive()


async def raise_(error: Exception) -> None:
    raise error


async def raise_if_cancelled(error: Exception) -> None:
    try:
        await trio.sleep_forever()
    finally:
        raise error


ENDS = {
    "one": Reason.RECONNECT,
    "group": Reason.RECONNECT,
    "several": Reason.TOO_SLOW,
    "nested": Reason.TOO_SLOW,
    "task": Reason.RECONNECT,
    "cancelled": Reason.RECONNECT,
    "defect": Reason.INTERNAL_ERROR,
    "mixed": Reason.INTERNAL_ERROR,
    "cancelled defect": Reason.INTERNAL_ERROR,
}
"""How the connection ends, by the message of the client."""


async def test_a_session_ends_as_the_first_disconnect_says(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Also in a group, unless it has another error; that one is logged, and no error leaves the session."""
    with trio.fail_after(20):
        async with running(config_for(tmp_path), dialects=[open_failing]) as (_, address):
            for message, reason in ENDS.items():
                caplog.clear()
                async with connect(address, "/failing") as client:
                    await client.connection.send_message(message)
                    assert (await client.closed())[0] == reason.close_code, message
                logged = [one.message for one in caplog.records if one.levelno >= logging.WARNING]
                assert logged == (["session failed"] if reason is Reason.INTERNAL_ERROR else []), message
