"""Users as Relay knows them: whoever a token named, with the names that it gave last."""

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
"""Users of whom it is remembered what is stored, so that most authentications write nothing."""

log = logs.get("relay.users")


class Users:
    """Stores who was seen, and tells their names."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        # Who was seen last is last. In a plain dict, finding the first gets slower with each that is deleted.
        self._stored: OrderedDict[str, Profile] = OrderedDict()

    @property
    def remembered_count(self) -> int:
        """How many users are remembered."""
        return len(self._stored)

    async def seen(self, principal: Principal) -> None:
        """Store what a token says about its user, if that is news. A checkpoint only then.

        Where the database cannot be written the user is served all the same, and the names are tried again next time.
        """
        profile = Profile(principal.user_id, principal.first_name, principal.last_name, principal.avatar)
        if profile == Profile(principal.user_id):
            return  # it says nothing
        if self._stored.pop(profile.user_id, None) != profile:
            now_ms = self._clock.now_ms()
            try:
                await self._database.write(lambda connection: upsert(connection, profile, now_ms))
            except RequestError as refusal:
                log.warning("names not stored", user=profile.user_id, cause=refusal.message)
                return
        self._remember(profile)

    def _remember(self, profile: Profile) -> None:
        self._stored.pop(profile.user_id, None)
        if len(self._stored) >= MAX_REMEMBERED:
            self._stored.popitem(last=False)
        self._stored[profile.user_id] = profile

    async def profiles(self, user_ids: Iterable[str]) -> dict[str, Profile]:
        """Return the profiles of those who were seen."""
        ids = list(user_ids)
        return await self._database.read(lambda connection: get_many(connection, ids)) if ids else {}
