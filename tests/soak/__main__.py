"""`python -m tests.soak --sessions 50000`: the soak at any length, with a report; it fails where something is left behind."""

from __future__ import annotations

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path

import trio

from tests.soak.run import soak


def main() -> int:
    """Run it and print what it found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=50_000, help="guests that come and go (%(default)s)")
    parser.add_argument("--warm-up", type=int, default=3_000, help="guests before anything is measured (%(default)s)")
    parser.add_argument("--concurrency", type=int, default=100, help="guests at a time (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="looks on the way, with nobody there (%(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="relay-soak-") as folder:
        run = partial(soak, Path(folder), **vars(options), say=lambda text: print(text, file=sys.stderr, flush=True))
        report = trio.run(run)
    print(report.text())
    return 1 if report.leaks or report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
