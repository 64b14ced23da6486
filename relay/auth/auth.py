"""Everything that turns credentials into principals, as one value."""

from __future__ import annotations

import math
from datetime import datetime

import attrs
import trio

from relay.auth.api_keys import ApiKeys
from relay.auth.console_sessions import ConsoleSessions
from relay.auth.tickets import Tickets
from relay.auth.tokens import Tokens
from relay.auth.users import Users
from relay.ground.clock import Clock
from relay.model.principal import Principal


@attrs.frozen
class Auth:
    """Tokens, API keys, sessions of the console, tickets, and the users that tokens have named."""

    tokens: Tokens
    keys: ApiKeys
    console: ConsoleSessions
    users: Users
    tickets: Tickets
    clock: Clock

    def deadline_of(self, principal: Principal) -> float:
        """Return the deadline, on `trio.current_time()`, at which a principal expires; infinity if it does not."""
        return math.inf if principal.expires_at is None else self.deadline_at(principal.expires_at)

    def deadline_at(self, time: datetime) -> float:
        """Return the deadline, on `trio.current_time()`, of an aware time."""
        return trio.current_time() + (time - self.clock.now()).total_seconds()
