"""Every decoder meets mutated inputs, the same ones in every run; `python -m tests.fuzz --seconds 3600` goes on from there."""

from __future__ import annotations

import time

import pytest

from relay.docs.handbook import read
from tests.fuzz.decoder import MAX_INPUT_TIME, Decoder, Outcome, make_input, put
from tests.fuzz.run import DECODERS, fuzz, report

SECONDS = 0.25
"""For each decoder, about five in all."""
MIN_INPUTS = 3
NEVER_REFUSES = {"X-Forwarded-For", "WebSocket frames", "publications in lines"}
NEVER_TAKES = {"API key"}  # the one that there is cannot be guessed
REACHED = 2000
"""Inputs within which each decoder takes one and refuses one."""


@pytest.mark.slow(0.25)
@pytest.mark.parametrize("decoder", DECODERS, ids=lambda decoder: decoder.name)
def test_nothing_but_documented_errors(decoder: Decoder) -> None:
    """Inputs, as many as there is time for, are taken or refused, each within its time."""
    [tally] = fuzz(SECONDS, decoders=[decoder])
    while tally.inputs < MIN_INPUTS:  # however busy the machine is
        tally.step()
    assert not tally.failures, report([tally])


@pytest.mark.parametrize("decoder", DECODERS, ids=lambda decoder: decoder.name)
def test_inputs_get_past_the_first_check(decoder: Decoder) -> None:
    """A fuzzer whose inputs are all refused, or all taken, tests nothing."""
    wanted = {Outcome.TAKEN, Outcome.REFUSED}
    if decoder.name in NEVER_REFUSES:
        wanted = {Outcome.TAKEN}
    elif decoder.name in NEVER_TAKES:
        wanted = {Outcome.REFUSED}
    met = set()
    for number in range(REACHED):
        met.add(put(decoder, make_input(decoder, number))[0])
        if met >= wanted:
            return
    raise AssertionError(f"{decoder.name}: only {met}")


@pytest.mark.parametrize("decoder", DECODERS, ids=lambda decoder: decoder.name)
def test_a_number_makes_the_same_input_again(decoder: Decoder) -> None:
    """What a failure prints repeats it."""
    for number in range(20):
        assert make_input(decoder, number) == make_input(decoder, number)


def test_the_page_counts_the_decoders() -> None:
    """The run that the page on promises describes had those of today."""
    assert f": {len(DECODERS)} decoders and " in read("promises.md")


@pytest.mark.slow
def test_failures_are_found_and_told() -> None:
    """A decoder that raises something else, and one that takes too long, fail; the report says how to repeat it."""

    def wrong(data: bytes) -> None:
        raise KeyError(data)

    [tally] = fuzz(5.0, decoders=[Decoder("json", (ValueError,), lambda chance: b"x", wrong)], max_inputs=2)
    assert [failure.number for failure in tally.failures] == [0, 1]
    assert 'python -m tests.fuzz --decoder "json" --input 1' in report([tally])

    def slow(data: bytes) -> None:
        until = time.thread_time() + MAX_INPUT_TIME * 1.1
        while time.thread_time() < until:
            pass

    assert put(Decoder("slow", (), lambda chance: b"x", slow), b"x")[0] is Outcome.FAILED
