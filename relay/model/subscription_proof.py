"""The proof that one user may subscribe to one channel until a time: a verified subscription token, or a backend's yes."""

from __future__ import annotations

from datetime import datetime

import attrs

from relay.ground.errors import Code, RefusalReason, RequestError


@attrs.frozen
class SubscriptionProof:
    """The claims of a valid subscription token, or what a backend hook answered in their place."""

    channel: str
    user_id: str | None
    """The user that it is for; None for a client that is not authenticated."""
    expires_at: datetime | None
    """The time, aware and in UTC, at which a subscription that rests on it ends; None if it does not."""
    info: bytes | None = None
    """JSON that others see of the subscriber, in place of the connection token's; None if it has none."""
    by_backend: bool = False
    """Whether a backend hook gave the right."""

    @property
    def end_reason(self) -> RefusalReason:
        """The reason with which a subscription ends when the right expires."""
        return RefusalReason.BACKEND_EXPIRED if self.by_backend else RefusalReason.TOKEN_EXPIRED

    def check(self, channel: str, user_id: str | None) -> None:
        """Raise RequestError unless it proves the right to this channel of this user. Only a token can be for others."""
        if self.channel != channel:
            raise RequestError(
                Code.FORBIDDEN, "The token is for another channel.", reason=RefusalReason.TOKEN_OTHER_CHANNEL
            )
        if self.user_id != user_id:
            raise RequestError(Code.FORBIDDEN, "The token is for another user.", reason=RefusalReason.TOKEN_OTHER_USER)
