"""A signal: sent to the subscribers of a channel as they are now, with no offset, and kept nowhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import attrs

from relay.model.namespaces import ChannelName


class Receiver(Protocol):
    """A subscriber as a signal sees it."""

    user_id: str | None
    subscriptions: dict[str, Any]


@attrs.frozen
class Signal:
    """Typing, presence, the end of a room, or a publication that skips the history.

    Its audience is data, so that another server can find it, too.
    """

    channel: ChannelName
    type: str
    data: dict[str, Any]
    except_user: str | None = None
    """The user that does not get it."""
    except_present_in: Sequence[str] = ()
    """Names of channels whose present subscribers do not get it."""
    users_only: bool = False
    """Whether clients without a user do not get it."""
    published_ms: int = 0
    """When it was published, in Unix milliseconds, if it is a publication. Every dialect encodes it as one then."""

    def reaches(self, subscriber: Receiver) -> bool:
        """Return whether a subscriber of the channel gets it."""
        if self.except_user is not None and subscriber.user_id == self.except_user:
            return False
        if self.users_only and subscriber.user_id is None:
            return False
        subscriptions = subscriber.subscriptions
        return not any(text in subscriptions and subscriptions[text].present for text in self.except_present_in)
