"""A longer run of Schemathesis: `python -m tests.descriptions --seconds 600`. It starts a server of its own."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import click
import trio

from tests.descriptions.documents import SETTINGS
from tests.descriptions.fuzzing import CALLERS, run_all
from tests.running import config_for, running


@click.command()
@click.option("--seconds", default=600, show_default=True, type=click.IntRange(1), help="How long, for each caller.")
@click.option("--examples", default=100, show_default=True, type=click.IntRange(1), help="Requests of one operation.")
@click.option("--caller", "callers", multiple=True, type=click.Choice(list(CALLERS)), help="Who asks; default: each.")
def main(seconds: int, examples: int, callers: tuple[str, ...]) -> None:
    """Look for differences between /openapi.json and a server. Exit with 1 if there is one."""
    options = ("--max-time", str(seconds), "--max-examples", str(examples))

    async def look() -> bool:
        with tempfile.TemporaryDirectory() as folder:
            async with running(config_for(Path(folder), SETTINGS)) as (_, address):
                ended = await run_all(
                    address, Path(folder) / "runs", [(caller, options) for caller in callers or CALLERS]
                )
        for one in ended:
            print(f"as {one.caller}:\n{one.text}")
        return any(one.failed for one in ended)

    sys.exit(trio.run(look))


if __name__ == "__main__":
    main()
