"""The errors that the Python client raises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from relay.client.values import Position

TEMPORARY = frozenset({"disconnected", "timeout", "rate_limited", "internal_error", "unavailable"})
"""Codes after which the same request may succeed later."""


class RelayError(Exception):
    """A refusal of the server, or a request that got no answer."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        reason: str | None = None,
        retry_after: float | None = None,
        fields: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        super().__init__(message)
        self.code = code
        """A code of the server, or one of the client: `disconnected`, `timeout`, `too_large`, `unsubscribed`, `gap`."""
        self.message = message
        self.reason = reason
        """The server's finer reason, such as `no_grant`, if it gave one."""
        self.retry_after = retry_after
        """Seconds to wait before the next try, if the server named them."""
        self.fields = tuple(fields)
        """The fields that are wrong, each with `field` and `message`, if REST refused a body."""

    @property
    def temporary(self) -> bool:
        """Whether the same request may succeed later."""
        return self.code in TEMPORARY

    def __str__(self) -> str:
        reason = f" ({self.reason})" if self.reason is not None else ""
        return f"{self.code}: {self.message}{reason}"


class Gap(RelayError):
    """Publications were missed that the server does not keep: load your state again.

    A subscription raises it at the place of the missed publications. Iterate again to go on behind them.
    """

    def __init__(self, channel: str, since: Position | None, position: Position | None) -> None:
        super().__init__("gap", f"Publications of {channel} were missed, and the server does not keep them.")
        self.channel = channel
        self.since = since
        """The position before the gap; None on a channel without history."""
        self.position = position
        """The position behind the gap; None on a channel without history."""


class Unauthorized(Exception):
    """Raised by a token function of yours: the user may not connect any more, so the client stops."""
