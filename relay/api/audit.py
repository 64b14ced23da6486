"""One line in the log for each change that an operator makes: the action, its target, the caller and the address."""

from __future__ import annotations

from relay.api.authentication import Caller
from relay.ground import logs
from relay.model.principal import Principal

log = logs.get("relay.audit")


def record(principal: Principal, caller: Caller, action: str, **target: object) -> None:
    """Write the line of a change. Call it before the change is made, so that a crash leaves no change without a line."""
    log.info(
        action,
        by=principal.user_id,
        key=principal.key_id,
        address=caller.address,
        **{name: value for name, value in target.items() if value is not None},
    )
