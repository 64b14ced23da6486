"""The limits of one server, as the configuration sets them."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from relay.admission.auth_failures import AuthFailureLimit
from relay.admission.frame_rate import FrameRateLimit
from relay.admission.rate_limits import RateLimit
from relay.config.tree import LimitsConfig

ADDRESS_FACTOR = 10
"""REST requests of one address for each request of one user, because many users may share an address."""


@attrs.frozen
class Limits:
    """Every limit that several connections share, and the one that each connection has for itself."""

    handshakes: RateLimit
    """WebSocket and Socket.IO handshakes, by address."""
    messages: RateLimit
    """Chat messages over all connections and REST together, by user."""
    publications: RateLimit
    """Publications of clients over all connections and REST together, by user."""
    requests: RateLimit
    """REST requests, by user."""
    address_requests: RateLimit
    """REST requests, by address."""
    auth_failures: AuthFailureLimit
    """Failed authentications, by address."""
    frames_per_minute: int

    def frames(self) -> FrameRateLimit:
        """Return the limit on frames of a new connection."""
        return FrameRateLimit(self.frames_per_minute)

    def tables(self) -> Mapping[str, RateLimit]:
        """Return every table by its name in the metrics. The janitor sweeps all of them."""
        return {
            "handshake_limits": self.handshakes,
            "message_limits": self.messages,
            "publication_limits": self.publications,
            "request_limits": self.requests,
            "address_request_limits": self.address_requests,
            "auth_failure_limits": self.auth_failures,
        }


def make_limits(config: LimitsConfig) -> Limits:
    """Return the limits of a configuration, all unused."""

    def per_minute(count: int, message: str) -> RateLimit:
        return RateLimit(count, count / 60, message=message)

    requests, failures = config.requests_per_minute, config.auth_failures_per_minute
    return Limits(
        handshakes=per_minute(config.handshakes_per_minute, "Too many connections from this address."),
        messages=per_minute(config.messages_per_minute, "You send messages too fast."),
        publications=per_minute(config.publications_per_minute, "You publish too fast."),
        requests=per_minute(requests, "You make requests too fast."),
        address_requests=per_minute(requests * ADDRESS_FACTOR, "You make requests too fast."),
        auth_failures=AuthFailureLimit(failures, failures / 60, message="Too many attempts without valid credentials."),
        frames_per_minute=config.frames_per_minute,
    )
