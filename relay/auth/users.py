"""The users that tokens have named, with the profile of their latest token."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from relay.ground import logs
from relay.ground.clock import Clock
from relay.ground.errors import RequestError
from relay.model.principal import Principal
from relay.store.database import Database
from relay.store.users import Profile, get_many, upsert

MAX_REMEMBERED = 50_000
"""Users whose stored profile is kept in memory, so that most authentications write nothing."""

log = logs.get("relay.users")


class Users:
    """Stores the profiles of users, and returns them."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        # In the order of use, the latest last. In a plain dict, finding the first gets slower with each deletion.
        self._stored: OrderedDict[str, Profile] = OrderedDict()

    @property
    def remembered_count(self) -> int:
        """How many profiles are kept in memory."""
        return len(self._stored)

    async def seen(self, principal: Principal) -> None:
        """Store the profile of a token's user if it is new. A checkpoint only then.

        If the database cannot be written, the user is served all the same, and the next token tries again.
        """
        profile = Profile(principal.user_id, principal.first_name, principal.last_name, principal.avatar)
        if profile == Profile(principal.user_id):
            return  # the token has no names
        if self._stored.pop(profile.user_id, None) != profile:
            now_ms = self._clock.now_ms()
            try:
                await self._database.write(lambda connection: upsert(connection, profile, now_ms))
            except RequestError as refusal:
                log.warning("cannot store the profile of a user", user=profile.user_id, cause=refusal.message)
                return
        self._remember(profile)

    def _remember(self, profile: Profile) -> None:
        self._stored.pop(profile.user_id, None)
        if len(self._stored) >= MAX_REMEMBERED:
            self._stored.popitem(last=False)
        self._stored[profile.user_id] = profile

    async def profiles(self, user_ids: Iterable[str]) -> dict[str, Profile]:
        """Return the stored profiles of these users. Users without one are left out."""
        ids = list(user_ids)
        return await self._database.read(lambda connection: get_many(connection, ids)) if ids else {}
