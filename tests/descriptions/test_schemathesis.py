"""What `/openapi.json` says is true: Schemathesis finds no difference between it and a running server."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import trio

from tests.descriptions.documents import SETTINGS
from tests.descriptions.fuzzing import CALLERS, run_all
from tests.running import config_for, running

RUNS = (
    ("admin", 0, ("--phases", "coverage", "--max-time", "15")),
    ("admin", 40, ("--phases", "fuzzing,stateful", "--max-examples", "2")),
    ("user", 40, ("--phases", "fuzzing", "--max-examples", "1")),
    ("nobody", 40, ("--phases", "fuzzing", "--max-examples", "1")),
)
"""The caller, the requests that it makes at least, and the options. The first run walks along the borders of fields, as
far as it comes on this machine; the others try every operation."""


@pytest.mark.slow(15)  # 25 s: it begins when the chaos, which needs the processors too, has ended
async def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    """With every check. `python -m tests.descriptions` looks for longer."""
    assert {caller for caller, _, _ in RUNS} == CALLERS.keys()
    with trio.fail_after(240):
        async with running(config_for(tmp_path, SETTINGS)) as (_, address):
            ended = await run_all(address, tmp_path / "runs", [(caller, options) for caller, _, options in RUNS])
    for one, (caller, at_least, _) in zip(ended, RUNS, strict=True):
        assert not one.failed, f"as {caller}:\n{one.text}"
        cases = sum(map(int, re.findall(r"^  (\d+) generated", one.text, re.MULTILINE)))
        assert cases >= at_least, one.text
