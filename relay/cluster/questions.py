"""Questions to all other nodes, and their answers, as notices. A node that does not answer in time is named."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import attrs
import trio

from relay.cluster.bus import Bus
from relay.ground import logs
from relay.ground.errors import RETRY_AFTER, Code, RequestError

ASK_TIMEOUT = 2.0
"""Seconds that a node has to answer, unless the caller says otherwise."""
MAX_ASKED = 64
"""Questions of this node that wait for answers. More are refused."""
MAX_ANSWERED = 64
"""Questions of other nodes that this node works on. More are refused."""
QUESTION = "question"
"""The notice of a question: `id`, `from` (a node), `kind`, `data`."""
ANSWER = "answer"
"""The notice of an answer: `id`, `to`, `from`, and `data` or `error`, a pair of code and message."""

Answer = Callable[[Mapping[str, Any]], Awaitable[Any]]
"""Answers a question on its data with JSON. It may raise RequestError."""

log = logs.get("relay.cluster")


@attrs.frozen
class Answers:
    """The answers of the other nodes."""

    given: list[Any]
    refusals: list[RequestError]
    unanswered: list[str]
    """The names of the nodes that did not answer in time."""


@attrs.define(eq=False)
class _Asked:
    missing: dict[str, str]
    answers: Answers
    complete: trio.Event = attrs.field(factory=trio.Event)


class Questions:
    """The questions of one node, and its answers to those of others."""

    def __init__(self, bus: Bus, names: Callable[[], Mapping[str, str]], *, node_id: str) -> None:
        """`names` returns the names of the live nodes by id, this one's included."""
        self._bus = bus
        self._names = names
        self._node_id = node_id
        self._answer: dict[str, Answer] = {}
        self._asked: dict[int, _Asked] = {}
        self._last = 0
        self._answering = 0
        self._nursery: trio.Nursery | None = None
        bus.on(QUESTION, self._take_question)
        bus.on(ANSWER, self._take_answer)

    def on(self, kind: str, answer: Answer) -> None:
        """Answer questions of a kind. One answer a kind."""
        assert kind not in self._answer
        self._answer[kind] = answer

    async def ask(self, kind: str, data: Mapping[str, Any], *, timeout: float = ASK_TIMEOUT) -> Answers:
        """Ask every other node, and return what they answer within `timeout` seconds.

        While the bus is not connected, all of them count as unanswered at once.

        Raises:
            RequestError: MAX_ASKED questions wait for answers already.
        """
        others = {id_: name for id_, name in self._names().items() if id_ != self._node_id}
        asked = _Asked(others, Answers([], [], []))
        if not others:
            return asked.answers
        if len(self._asked) >= MAX_ASKED:
            raise RequestError(Code.UNAVAILABLE, "Too many questions wait for other nodes.", retry_after=RETRY_AFTER)
        self._last += 1
        number = self._last
        self._asked[number] = asked
        try:
            question = {"id": number, "from": self._node_id, "kind": kind, "data": data}
            if self._bus.connected and self._bus.send(QUESTION, question):
                with trio.move_on_after(timeout):
                    await asked.complete.wait()
        finally:
            del self._asked[number]
        asked.answers.unanswered.extend(sorted(asked.missing.values()))
        if asked.missing:
            log.warning("nodes did not answer", kind=kind, nodes=",".join(asked.answers.unanswered))
        return asked.answers

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Answer the questions of other nodes until cancelled."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await trio.sleep_forever()

    def _take_question(self, data: Mapping[str, Any]) -> None:
        kind, number, asker = data["kind"], data["id"], data["from"]
        if kind not in self._answer or self._nursery is None:
            return
        if self._answering >= MAX_ANSWERED:
            self._refuse(asker, number, RequestError(Code.UNAVAILABLE, "A node has too many questions to answer."))
            return
        self._answering += 1
        self._nursery.start_soon(self._work, kind, data["data"], asker, number)

    async def _work(self, kind: str, data: Mapping[str, Any], asker: str, number: int) -> None:
        try:
            answer = await self._answer[kind](data)
        except RequestError as refusal:
            self._refuse(asker, number, refusal)
        except (KeyError, ValueError, TypeError) as error:  # of another release
            log.exception("a question cannot be read", error, kind=kind)
        else:
            if not self._bus.send(ANSWER, {"id": number, "to": asker, "from": self._node_id, "data": answer}):
                self._refuse(asker, number, RequestError(Code.TOO_LARGE, "The answer of a node is too large."))
        finally:
            self._answering -= 1

    def _refuse(self, asker: str, number: int, refusal: RequestError) -> None:
        error = [refusal.code.value, refusal.message]
        self._bus.send(ANSWER, {"id": number, "to": asker, "from": self._node_id, "error": error})

    def _take_answer(self, data: Mapping[str, Any]) -> None:
        asked = self._asked.get(data["id"]) if data["to"] == self._node_id else None
        if asked is None or asked.missing.pop(data["from"], None) is None:
            return
        if "error" in data:
            code, message = data["error"]
            asked.answers.refusals.append(RequestError(Code(code), message))
        else:
            asked.answers.given.append(data["data"])
        if not asked.missing:
            asked.complete.set()
