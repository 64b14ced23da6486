"""Warns of grants for built-in channels, which change nothing, so that their issuer does not rely on them."""

from __future__ import annotations

from relay.ground import logs
from relay.model.grants import NO_GRANTS, Grants
from relay.model.namespaces import Namespaces
from relay.model.principal import Principal

MAX_REMEMBERED = 1024
"""Sets of grants that were looked at, so that each is warned of once. With more, all are forgotten."""

log = logs.get("relay.auth")


class IgnoredGrants:
    """Looks at the grants of tokens."""

    def __init__(self, namespaces: Namespaces) -> None:
        self._namespaces = namespaces
        self._seen: set[Grants] = set()

    def note(self, principal: Principal) -> None:
        """Log a warning if the principal has grants for built-in channels. Once for each set of grants."""
        grants = principal.grants
        if grants is NO_GRANTS or grants in self._seen:
            return
        if len(self._seen) >= MAX_REMEMBERED:
            self._seen.clear()
        self._seen.add(grants)
        ignored = self.of(grants)
        if ignored:
            log.warning("grants for built-in channels are ignored", user=principal.user_id, patterns=", ".join(ignored))

    def of(self, grants: Grants) -> list[str]:
        """Return the patterns that change nothing because their namespace is built in."""
        texts = [text for text in (*grants.subscribe.texts(), *grants.publish.texts()) if text != "*"]
        found = ((text, self._namespaces.of(text)) for text in texts)
        return [text for text, namespace in found if namespace is not None and namespace.built_in]
