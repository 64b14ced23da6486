"""A run of the fuzzer: every decoder in turn, for a given time, and what it found."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence

import attrs

from tests.fuzz import configuration, credentials, messages, publications, wire
from tests.fuzz.decoder import Decoder, Outcome, make_input, put

DECODERS: tuple[Decoder, ...] = (
    *messages.DECODERS, *wire.DECODERS, *credentials.DECODERS, *publications.DECODERS, *configuration.DECODERS,
)  # fmt: skip
TURN = 0.2
"""Seconds that one decoder gets before the next is tried."""
MAX_FAILURES = 5
"""Failures of one decoder that are kept; it is left alone then."""


@attrs.frozen
class Failure:
    """An input that a decoder does not deal with."""

    decoder: str
    number: int
    data: bytes
    wrong: str

    def __str__(self) -> str:
        shown = repr(self.data if len(self.data) <= 2000 else self.data[:2000] + b"...")
        again = f'python -m tests.fuzz --decoder "{self.decoder}" --input {self.number}'
        return f"{self.decoder}: {self.wrong}\n{len(self.data)} bytes: {shown}\nagain: {again}\n"


@attrs.define
class Tally:
    """What one decoder was put to."""

    decoder: Decoder
    number: int
    """Of the next input."""
    taken: int = 0
    refused: int = 0
    slowest: float = 0.0
    slowest_number: int = 0
    failures: list[Failure] = attrs.Factory(list)

    @property
    def inputs(self) -> int:
        """How many inputs there were."""
        return self.taken + self.refused + len(self.failures)

    def step(self) -> None:
        """Put the next input to the decoder."""
        data = make_input(self.decoder, self.number)
        outcome, wrong, took = put(self.decoder, data)
        if took > self.slowest:
            self.slowest, self.slowest_number = took, self.number
        if outcome is Outcome.TAKEN:
            self.taken += 1
        elif outcome is Outcome.REFUSED:
            self.refused += 1
        else:
            self.failures.append(Failure(self.decoder.name, self.number, data, wrong))
        self.number += 1


def fuzz(
    seconds: float, *, decoders: Sequence[Decoder] = DECODERS, first: int = 0, max_inputs: int | None = None
) -> list[Tally]:
    """Put inputs to every decoder, in turns, for so long or so many each; the first has the number `first`."""
    tallies = [Tally(decoder, first) for decoder in decoders]
    deadline = time.monotonic() + seconds
    while (open_ones := list(_unfinished(tallies, max_inputs))) and time.monotonic() < deadline:
        for tally in open_ones:
            until = min(time.monotonic() + TURN, deadline)
            while time.monotonic() < until and len(tally.failures) < MAX_FAILURES and tally.inputs != max_inputs:
                tally.step()
    return tallies


def _unfinished(tallies: Iterable[Tally], max_inputs: int | None) -> Iterator[Tally]:
    return (tally for tally in tallies if len(tally.failures) < MAX_FAILURES and tally.inputs != max_inputs)


def report(tallies: Iterable[Tally]) -> str:
    """Return a line for each decoder, and every failure."""
    lines = [
        f"{'decoder':26}{'inputs':>12}{'taken':>12}{'refused':>12}{'slowest ms':>12}{'(input)':>14}{'failures':>10}"
    ]
    total = 0
    failures: list[Failure] = []
    for tally in tallies:
        total += tally.inputs
        failures += tally.failures
        lines.append(
            f"{tally.decoder.name:26}{tally.inputs:12,}{tally.taken:12,}{tally.refused:12,}{tally.slowest * 1000:12.1f}"
            f"{tally.slowest_number:14}{len(tally.failures):10}"
        )
    lines.append(f"{'all':26}{total:12,}{len(failures):60}")
    return "\n".join([*lines, *("\n" + str(failure) for failure in failures)])
