"""What a killed server leaves: everything that any client saw or was told yes about, once, without a gap.

A dozen crashes, each kind at least twice; `RELAY_CRASHES=300 pytest -s tests/e2e/test_crash.py` for more. `RELAY_SEED` repeats
the same points in time, as far as processes let it.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.e2e.crash_loop import SETTINGS, CrashLoop
from tests.running import relay_process

pytestmark = pytest.mark.slow(12)

CRASHES = int(os.environ.get("RELAY_CRASHES", "12"))


@pytest.mark.each_store
async def test_killed_again_and_again(tmp_path: Path) -> None:
    """Under load, while it starts and while it stops: nothing acknowledged or seen is lost, repeated or moved."""
    seed = int(os.environ.get("RELAY_SEED", random.randrange(1_000_000)))
    print(f"RELAY_SEED={seed}")
    async with relay_process(tmp_path, SETTINGS) as server:
        loop = CrashLoop(server, seed)
        await loop.run(CRASHES)
    print(loop.report)
    assert loop.report.crashes >= CRASHES
    assert loop.report.while_starting >= 2
    assert loop.report.acknowledged > 10 * CRASHES
    assert loop.report.resumed > CRASHES
