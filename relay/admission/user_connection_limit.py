"""Limits the connections of each user, in dialects that have such a limit."""

from __future__ import annotations

from collections import Counter
from typing import Protocol


class UserConnectionLimit(Protocol):
    """A limit on the connections of each user: of one server, or of all nodes of a database."""

    async def take(self, user_id: str, maximum: int) -> bool:
        """Count one more connection of a user. Return False, and count none, if it has `maximum`. Not cancelled."""

    def give_back(self, user_id: str) -> None:
        """Count one connection less."""


class LocalUserConnectionLimit:
    """The limit of one server."""

    def __init__(self) -> None:
        self._taken: Counter[str] = Counter()

    async def take(self, user_id: str, maximum: int) -> bool:
        """Count one more connection. Not a checkpoint."""
        if self._taken[user_id] >= maximum:
            return False
        self._taken[user_id] += 1
        return True

    def give_back(self, user_id: str) -> None:
        """Count one connection less."""
        self._taken[user_id] -= 1
        if not self._taken[user_id]:
            del self._taken[user_id]
