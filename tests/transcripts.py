"""Transcripts of sessions, run in virtual time: the exchange in the docstring of a `protocol.py`, or one in a test.

    /v1/live                    a client connects, with the query if there is one
    > {"type": "ping"}          the client sends a frame
    < {"type": "pong", ...}     the server sends a frame: the next one, and no other comes before the next line
    ! {"channel": "trades"...}  a backend publishes
    x 1008 token expired        the server closes

A line that starts otherwise continues the one before. `*` stands for any value. A text in `stand_ins` stands for another one, in
both directions. A text in `learned` stands for whatever the server sends in its place the first time, and for that from then on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import attrs

from relay.model.namespaces import ChannelName
from tests.kept import recent
from tests.virtual import Virtual, VirtualSocket, settle

MARKS = "></!x"
ANY = "*"
_ANY = re.compile(r"(?<=[:\[,])\s*\*\s*(?=[,\]}])")


@attrs.frozen
class Step:
    """One step of a transcript, and the line that it is on."""

    mark: str
    text: str
    line: int

    @property
    def value(self) -> Any:
        """The JSON value of the step."""
        return json.loads(_ANY.sub(json.dumps(ANY), self.text))


def parse(text: str) -> list[Step]:
    """Return the steps of a transcript."""
    steps: list[Step] = []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if line and line[0] in MARKS and (line[0] == "/" or line[1:2] == " "):
            steps.append(Step(line[0], line if line[0] == "/" else line[2:], number))
        elif line:
            assert steps, f"line {number} continues nothing"
            steps[-1] = attrs.evolve(steps[-1], text=f"{steps[-1].text} {line}")
    return steps


def exchange_of(module: ModuleType) -> str:
    """Return the exchange in a module's docstring: its indented lines."""
    lines = (module.__doc__ or "").splitlines()
    return "\n".join(line for line in lines if line.startswith("    "))


class Transcript:
    """One transcript as it is played: its client, and which texts stand for which."""

    def __init__(self, world: Virtual, stand_ins: Mapping[str, str], learned: Sequence[str]) -> None:
        self._world = world
        self._stands_for = dict(stand_ins)
        self._learned = frozenset(learned)
        self._client: VirtualSocket | None = None

    async def play(self, text: str) -> None:
        """Play the steps. Fails with the line of the first one that differs."""
        steps = parse(text)
        assert steps, "an empty transcript proves nothing"
        for step in steps:
            if step.mark != "<":
                self._check_silence(step)
            await self._take(step)
        self._check_silence(None)

    async def _take(self, step: Step) -> None:
        match step.mark:
            case "/":
                path, _, query = step.text.partition("?")
                self._client = self._world.connect(path, self._replaced(query))
            case ">":
                self.client.send(**self._replaced(step.value))
            case "!":
                publishing = self._world.core.publishing
                draft = publishing.draft(self._replaced(step.value), scope="transcript", size=len(step.text))
                [outcome] = await publishing.publish_many([draft])
                assert not isinstance(outcome, Exception), f"line {step.line}: {outcome}"
            case "<":
                assert self.client.messages, f"line {step.line}: nothing came, but {step.text} should"
                came = self.client.messages.pop(0)
                assert self._matches(step.value, came), f"line {step.line}: {came} came, not {step.text}"
            case _:
                assert self.client.closed is not None, f"line {step.line}: the server did not close"
                assert "{} {}".format(*self.client.closed) == step.text, f"line {step.line}"
        await settle()

    @property
    def client(self) -> VirtualSocket:
        """The client that connected last."""
        assert self._client is not None, "a transcript begins with a path"
        return self._client

    def _check_silence(self, before: Step | None) -> None:
        where = "at the end" if before is None else f"before line {before.line}"
        if self._client is not None:
            assert self._client.messages == [], f"{where} came what the transcript does not have"

    def _replaced(self, value: Any) -> Any:
        if isinstance(value, str):
            for text, actual in self._stands_for.items():
                value = value.replace(text, actual)
            return value
        if isinstance(value, dict):
            return {key: self._replaced(inner) for key, inner in value.items()}
        return [self._replaced(inner) for inner in value] if isinstance(value, list) else value

    def _matches(self, expected: Any, came: Any) -> bool:
        if expected == ANY:
            return True
        if isinstance(expected, dict):
            same = isinstance(came, dict) and expected.keys() == came.keys()
            return same and all(self._matches(expected[key], came[key]) for key in expected)
        if isinstance(expected, list):
            same = isinstance(came, list) and len(expected) == len(came)
            return same and all(map(self._matches, expected, came))
        if isinstance(expected, str) and expected in self._learned:
            self._stands_for.setdefault(expected, came)
        return bool(self._replaced(expected) == came and type(expected) is type(came))


async def play(
    world: Virtual, text: str, *, stand_ins: Mapping[str, str] | None = None, learned: Sequence[str] = ()
) -> None:
    """Play a transcript, as this module describes it."""
    await Transcript(world, stand_ins or {}, learned).play(text)


async def epoch_of(world: Virtual, channel: ChannelName) -> str:
    """Return the epoch of a channel."""
    position, _ = await recent(world.broker, channel)
    return position.epoch


REASONS = {
    "There is no such room.": "not_found",
    "This room is for its members.": "not_member",
    "This is another user's channel.": "not_owner",
    "The id of the chatroom channel is not valid.": "invalid_channel",
    "The id of the task channel is not valid.": "invalid_channel",
}
"""The reason beside the message of a refusal."""


def reason_of(message: str) -> str:
    """Return the member of a frame that has the reason of a refusal, after a comma; an empty text if it has none."""
    return f', "reason": "{REASONS[message]}"' if message in REASONS else ""
