"""The parts of Relay that decoders need around them: real ones, without a database, and a broker that says yes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from relay.access.publishing import Publishing
from relay.config.namespaces import NamespaceConfig
from relay.config.tree import Config
from relay.core import Core
from relay.ground.clock import Clock
from relay.ground.errors import Code, RequestError
from relay.model.publication import Draft, Outcome, Position, Published
from relay.server.build import build_core
from tests.running import SECRET

NOW_MS = 1_760_000_000_000
CONFIG = Config(namespaces={"orders": NamespaceConfig(), "default": NamespaceConfig(subscribe="anyone")})


class _Clock(Clock):
    """A clock that stands still: what an input does must not depend on when it is tried."""

    def now_ms(self) -> int:
        return NOW_MS


class Broker:
    """Takes drafts and publishes nothing; one in seven meets a store that cannot write."""

    def __init__(self) -> None:
        self.taken: list[Draft] = []

    async def publish_many(self, drafts: Sequence[Draft]) -> list[Outcome]:
        """Answer each draft, in order."""
        outcomes: list[Outcome] = []
        for draft in drafts:
            draft.encode()
            self.taken.append(draft)
            if len(draft.type) % 7 == 0:
                outcomes.append(RequestError(Code.UNAVAILABLE, "The store cannot write."))
            else:
                outcomes.append(Published(Position(len(self.taken), "epoch")))
        return outcomes


def make_core() -> Core:
    """Return the parts, with the default configuration."""
    nothing: Any = None
    core, _ = build_core(CONFIG, nothing, nothing, _Clock(), SECRET)
    return core


def make_publishing(core: Core, broker: Broker) -> Publishing:
    """Return the way of publications, to this broker."""
    taker: Any = broker
    return Publishing(
        core.namespaces,
        taker,
        core.messages,
        core.notifications,
        core.connections,
        core.clock,
        idempotency_period=300.0,
    )


CORE = make_core()


def with_broker(broker: Broker) -> Core:
    """Return the parts, publishing to this broker."""
    return attrs.evolve(CORE, publishing=make_publishing(CORE, broker))
