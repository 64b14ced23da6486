"""`python -m tests.fuzz --seconds 3600`: mutated inputs for every decoder. What it prints repeats each failure."""

from __future__ import annotations

import argparse

from tests.fuzz.decoder import Outcome, make_input, put
from tests.fuzz.run import DECODERS, fuzz, report


def main() -> int:
    """Read the command line and fuzz; returns 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="for how long, all decoders together")
    parser.add_argument("--seed", type=int, default=0, help="where the numbers of inputs begin, times a billion")
    parser.add_argument("--decoder", choices=[decoder.name for decoder in DECODERS], help="only this one")
    parser.add_argument("--input", type=int, help="only this input, of one decoder")
    options = parser.parse_args()
    chosen = [decoder for decoder in DECODERS if options.decoder in (None, decoder.name)]
    if options.input is not None:
        [decoder] = chosen
        data = make_input(decoder, options.input)
        outcome, wrong, took = put(decoder, data)
        print(f"{data!r}\n{outcome.value} in {took * 1000:.1f} ms\n{wrong}")
        return outcome is Outcome.FAILED
    tallies = fuzz(options.seconds, decoders=chosen, first=options.seed * 10**9)
    print(report(tallies))
    return any(tally.failures for tally in tallies)


if __name__ == "__main__":
    raise SystemExit(main())
