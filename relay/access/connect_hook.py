"""Asks a backend which user a client without a token is."""

from __future__ import annotations

from collections.abc import Mapping

from relay.auth.verifier import is_user_id
from relay.ground.errors import ProtocolError
from relay.hooks.answers import Question, QuestionKind, Yes, expires_at
from relay.hooks.backend import BackendHook
from relay.model.grants import ClaimsError, read_grants, read_info
from relay.model.principal import Principal
from relay.sessions.connections import Connections
from relay.sessions.session import Session


class ConnectHook:
    """The backend hook that `auth.connect_hook` names, if it names one."""

    def __init__(self, connections: Connections, hooks: Mapping[str, BackendHook], name: str | None) -> None:
        """`name` is that of the hook; None: no backend is asked."""
        self._connections = connections
        self._hooks = hooks
        self._name = name

    def take_up(self, name: str | None) -> None:
        """Ask the hook of this name from now on; None: ask none. Call it in the step in which the hooks change."""
        self._name = name

    @property
    def is_set(self) -> bool:
        """Whether a backend is asked for the user of a client without a token."""
        return self._name is not None

    @property
    def header_names(self) -> tuple[str, ...]:
        """The headers of an upgrade that the backend is sent, in lower case."""
        return () if self._name is None else self._hooks[self._name].config.headers

    async def ask(self, session: Session) -> Principal | None:
        """Return the user that the backend names; None if it names none, so that the client is anonymous.

        Call it only if `is_set`. Always a checkpoint.

        Raises:
            RequestError: `UNAUTHORIZED` if the backend says no, `UNAVAILABLE` if it gives no clear answer in time.
            Disconnect: the backend ends the connection.
        """
        assert self._name is not None
        hook = self._hooks[self._name]
        # A connection that is older than a reload has the headers of the hook before.
        headers = {name: value for name, value in session.headers.items() if name in hook.config.headers}
        question = Question(
            QuestionKind.CONNECT,
            client=self._connections.id_of(session),
            dialect=session.dialect,
            address=session.address,
            headers=headers or None,
        )
        return await hook.ask(question, read_principal, connected=True)


def read_principal(yes: Yes) -> Principal | None:
    """Return the user that a yes to `connect` names; None if it names none.

    Raises:
        ProtocolError: the yes cannot be used. The message is for the log.
    """
    user, result = yes.result.get("user"), yes.result
    if user in (None, ""):
        return None
    if not is_user_id(user):
        raise ProtocolError("result.user is not the id of a user: 1 to 256 printable characters")
    try:
        grants, channels = read_grants(result.get("grants"), result.get("channels"))
        info = read_info(result.get("info"))
    except ClaimsError as error:
        raise ProtocolError(f"result.{error}") from error
    return Principal(str(user), expires_at=expires_at(result), grants=grants, channels=channels, info=info)
