"""Asks one backend for decisions: bounded in time, number and memory, and no where there is no clear yes.

A question waits for its backend alone. Nothing else waits for it but the request that needs the decision.
"""

from __future__ import annotations

import random
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Protocol, TypeVar

import trio

from relay.config.hooks import HookConfig
from relay.ground import logs
from relay.ground.clock import Clock
from relay.ground.errors import RETRY_AFTER, Code, Disconnect, ProtocolError, Reason, RefusalReason, RequestError
from relay.ground.histogram import Histogram
from relay.hooks.addresses import OWN_NETWORKS, networks
from relay.hooks.answers import No, Question, QuestionKind, Yes, expires_at, read
from relay.hooks.egress import EgressError, Response, Target
from relay.hooks.signing import signed_headers

MAX_RESPONSE_BYTES = 262_144
"""Bytes of one answer: the largest data of a publication that a backend is likely to rewrite, and some room."""
MAX_CACHED = 10_000
"""Answers that one hook keeps. The oldest one goes first."""
EXPIRY_MARGIN = 1.0
"""Seconds before the end of a right from which the answer that gave it is not used again, so that no client gets a right
that ends at once."""
RETRY_SPREAD = 5.0
"""Seconds over which the clients of a backend that fails are spread, so that they do not come back at one moment."""
LOG_PERIOD = 60.0
"""Seconds between two lines of the log about a backend that keeps failing."""
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""The bounds of the histogram of answers, in seconds."""

T = TypeVar("T")

log = logs.get("relay.hooks")


class HookTarget(Protocol):
    """The part of a `Target` that a hook needs."""

    async def post(self, body: bytes, *, timeout: float, headers: Mapping[str, str] | None, max_bytes: int) -> Response:
        """Send a JSON document and return the response. See `Target.post`."""

    def close(self) -> None:
        """Close the connections that are kept."""


class BackendHook:
    """One backend that is asked: its connections, its cache and its counters."""

    def __init__(self, name: str, config: HookConfig, clock: Clock, *, target: HookTarget | None = None) -> None:
        assert config.url is not None  # the configuration was checked
        self.name = name
        self.config = config
        self.outcomes: Counter[tuple[QuestionKind, str]] = Counter()
        """Questions by kind and outcome: allowed, refused, cached, unreachable or busy."""
        self.durations = Histogram(BOUNDS)
        """Durations of the questions that were sent, the wait for a free connection included."""
        self.pending = 0
        """The questions that wait for an answer, or for a free connection."""
        self._clock = clock
        self._timeout = config.timeout
        self._max_pending = config.max_in_flight + config.max_waiting
        self._keys = config.keys
        self._target = target or Target(
            config.url,
            allowed=networks(OWN_NETWORKS) if config.allow_private else (),
            max_connections=config.max_in_flight,
        )
        self._cache: dict[tuple[object, ...], tuple[Any, float]] = {}
        self._failures = 0
        self._next_log_at = 0.0

    @property
    def cached_count(self) -> int:
        """The number of answers that are kept."""
        return len(self._cache)

    def close(self) -> None:
        """Close the connections that are kept."""
        self._target.close()

    async def ask(self, question: Question, read_yes: Callable[[Yes], T], *, connected: bool) -> T:
        """Return what `read_yes` makes of the backend's yes. Always a checkpoint.

        `read_yes` is called synchronously, and raises ProtocolError for a yes that it cannot use. An answer that asks to
        be kept is used again for the same question of the same user and channel. `connected` tells whether there is a
        connection that the backend may end. Cancelled, it closes the connection to the backend.

        Raises:
            RequestError: the backend says no, gives no clear answer in time, or too many questions wait.
            Disconnect: the backend ends the connection.
        """
        key = (question.kind, question.user, question.channel)
        may_keep = question.kind is not QuestionKind.CONNECT and not question.explaining
        if may_keep and (found := self._cache.get(key)) is not None:
            if trio.current_time() < found[1]:
                self.outcomes[question.kind, "cached"] += 1
                await trio.lowlevel.checkpoint()
                value: T = found[0]
                return value
            del self._cache[key]
        answer = await self._bounded(question, read_yes)
        if isinstance(answer, No):
            self.outcomes[question.kind, "refused"] += 1
            raise self._refusal(answer, question.kind, connected=connected)
        self.outcomes[question.kind, "allowed"] += 1
        made, period = answer
        if may_keep and period > 0:
            self._keep(key, made, period)
        return made

    async def _bounded(self, question: Question, read_yes: Callable[[Yes], T]) -> No | tuple[T, float]:
        if self.pending >= self._max_pending:
            self.outcomes[question.kind, "busy"] += 1
            raise _later("Too many requests wait for the backend.", RefusalReason.BACKEND_BUSY)
        self.pending += 1
        begun = trio.current_time()
        try:
            answer = await self._answer(question)
            found = answer if isinstance(answer, No) else (read_yes(answer), self._keep_period(question.kind, answer))
        except (EgressError, ProtocolError) as failure:
            raise self._unreachable(question.kind, str(failure)) from failure
        finally:
            self.pending -= 1
            self.durations.observe(trio.current_time() - begun)
        if self._failures:
            log.info("backend hook answers again", hook=self.name, failures=self._failures)
            self._failures, self._next_log_at = 0, 0.0
        return found

    async def _answer(self, question: Question) -> Yes | No:
        body = question.encode()
        now = self._clock.now_ms() // 1000
        headers = {
            "relay-hook": question.kind.value,
            **signed_headers(self._keys, f"hook_{uuid.uuid4().hex}", now, body),
        }
        response = await self._target.post(body, timeout=self._timeout, headers=headers, max_bytes=MAX_RESPONSE_BYTES)
        if response.status != 200:
            raise ProtocolError(f"the response has the status {response.status}")
        return read(response.body)

    def _keep_period(self, kind: QuestionKind, yes: Yes) -> float:
        """Return the seconds for which a yes is kept: less than the right that it gives lasts. Raises ProtocolError."""
        end = expires_at(yes.result) if yes.cache and kind is QuestionKind.SUBSCRIBE else None
        if end is None:
            return yes.cache
        return min(yes.cache, (end - self._clock.now()).total_seconds() - EXPIRY_MARGIN)

    def _keep(self, key: tuple[object, ...], made: object, period: float) -> None:
        if len(self._cache) >= MAX_CACHED:
            del self._cache[next(iter(self._cache))]
        self._cache[key] = (made, trio.current_time() + period)

    def _unreachable(self, kind: QuestionKind, cause: str) -> RequestError:
        self.outcomes[kind, "unreachable"] += 1
        self._failures += 1
        now = trio.current_time()
        if now >= self._next_log_at:
            log.warning(
                "backend hook gives no answer", hook=self.name, kind=kind.value, cause=cause, failures=self._failures
            )
            self._next_log_at = now + LOG_PERIOD
        return _later("The backend gave no answer.", RefusalReason.BACKEND_UNREACHABLE)

    def _refusal(self, no: No, kind: QuestionKind, *, connected: bool) -> Exception:
        if no.disconnect and connected:
            return Disconnect(Reason.DISCONNECTED)
        if no.temporary:
            return _later(no.message, RefusalReason.BACKEND_REFUSED)
        code = Code.UNAUTHORIZED if kind is QuestionKind.CONNECT else Code.FORBIDDEN
        return RequestError(code, no.message, reason=RefusalReason.BACKEND_REFUSED)


class BackendHooks(Mapping[str, BackendHook]):
    """The hooks of the configuration, by name. A `with` block closes their connections at its end."""

    def __init__(self, configured: Mapping[str, HookConfig], clock: Clock) -> None:
        self._clock = clock
        self._hooks: dict[str, BackendHook] = {}
        self.take_up(configured)

    def __getitem__(self, name: str) -> BackendHook:
        return self._hooks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._hooks)

    def __len__(self) -> int:
        return len(self._hooks)

    def take_up(self, configured: Mapping[str, HookConfig]) -> None:
        """Become the hooks of another configuration. One with the same options stays, with its connections and answers.

        Questions under way are answered by the old ones. Called synchronously.
        """
        before = self._hooks
        self._hooks = {
            name: before.pop(name)
            if name in before and before[name].config == config
            else BackendHook(name, config, self._clock)
            for name, config in configured.items()
        }
        for hook in before.values():
            hook.close()

    def __enter__(self) -> BackendHooks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for hook in self._hooks.values():
            hook.close()


def _later(message: str, reason: RefusalReason) -> RequestError:
    wait = RETRY_AFTER + random.uniform(0, RETRY_SPREAD)  # noqa: S311 - not a secret
    return RequestError(Code.UNAVAILABLE, message, retry_after=wait, reason=reason)
