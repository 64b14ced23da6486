"""No end is lost when a server is killed: each beginning that a receiver was told of has its end, once.

Five kills, each with a dozen connections and with events that wait for a retry. For more:
`RELAY_WEBHOOK_KILLS=200 pytest -s -n 0 -o faulthandler_timeout=0 tests/hooks/test_killed.py`.
`RELAY_SEED` repeats the same points in time, as far as processes let it.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.hooks.kill_loop import KillLoop, settings
from tests.hooks.receiver import Unreliable, receiver
from tests.running import relay_process

pytestmark = pytest.mark.slow(25)

KILLS = int(os.environ.get("RELAY_WEBHOOK_KILLS", "5"))


@pytest.mark.each_store
async def test_killed_again_and_again(store: str, tmp_path: Path) -> None:
    """Users come and go, the receiver fails half of the time, and the server is killed at any moment."""
    seed = int(os.environ.get("RELAY_SEED", random.randrange(1_000_000)))
    print(f"RELAY_SEED={seed}")
    async with receiver(Unreliable(seed)) as backend:
        async with relay_process(tmp_path, settings(backend.backend.url())) as server:
            loop = KillLoop(server, backend, seed)
            await loop.run(KILLS)
        loop.check()
    print(f"{store}: {loop.report}")
    assert loop.report.kills == KILLS
    assert loop.report.lost_with_server
