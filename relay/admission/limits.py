"""The limits of one server, as the configuration sets them."""

from __future__ import annotations

from collections.abc import Mapping

from relay.admission.auth_failures import AuthFailureLimit
from relay.admission.frame_rate import FrameRateLimit
from relay.admission.rate_limits import Rate, RateLimit
from relay.config.tree import LimitsConfig

ADDRESS_FACTOR = 10
"""REST requests of one address for each request of one user, because many users may share an address."""


class Limits:
    """Every limit that several connections share, and those that each connection has for itself."""

    def __init__(self, config: LimitsConfig) -> None:
        """Make the limits of a configuration, all unused."""
        self.handshakes = RateLimit(1, 1, message="Too many connections from this address.")
        """WebSocket and Socket.IO handshakes, by address."""
        self.messages = RateLimit(1, 1, message="You send messages too fast.")
        """Chat messages over all connections and REST together, by user."""
        self.publications = RateLimit(1, 1, message="You publish too fast.")
        """Publications of clients over all connections and REST together, by user."""
        self.requests = RateLimit(1, 1, message="You make requests too fast.")
        """REST requests, by user."""
        self.address_requests = RateLimit(1, 1, message="You make requests too fast.")
        """REST requests, by address."""
        self.auth_failures = AuthFailureLimit(1, 1, message="Too many attempts without valid credentials.")
        """Failed authentications, by address."""
        self._frames = Rate(1, 1)
        self.max_subscriptions = 0
        """Counted subscriptions of one connection."""
        self.take_up(config)

    def take_up(self, config: LimitsConfig) -> None:
        """Take the values of a configuration, also for connections and callers that are known already.

        A caller keeps the share that it has left, at most the new capacity. A connection keeps its subscriptions, also
        if it has more of them than it may have now.
        """
        self.handshakes.rate.change_per_minute(config.handshakes_per_minute)
        self.messages.rate.change_per_minute(config.messages_per_minute)
        self.publications.rate.change_per_minute(config.publications_per_minute)
        self.requests.rate.change_per_minute(config.requests_per_minute)
        self.address_requests.rate.change_per_minute(config.requests_per_minute * ADDRESS_FACTOR)
        self.auth_failures.rate.change_per_minute(config.auth_failures_per_minute)
        self._frames.change_per_minute(config.frames_per_minute)
        self.max_subscriptions = config.max_subscriptions

    def frames(self) -> FrameRateLimit:
        """Return the limit on frames of a new connection."""
        return FrameRateLimit(self._frames)

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
