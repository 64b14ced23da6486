"""A client of one user, over one WebSocket: subscriptions, requests, rooms."""

from __future__ import annotations

import json
import logging
import ssl
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Literal, Self, cast
from urllib.parse import urlencode

import anyio
from anyio.abc import TaskGroup

from relay.client.address import Address
from relay.client.backoff import Backoff
from relay.client.credential import Credential, GetToken
from relay.client.dispatch import Dispatch
from relay.client.errors import RelayError
from relay.client.http import Http
from relay.client.link import Link, Times, frame_of
from relay.client.requests import Requests
from relay.client.rooms import Notifications, Room
from relay.client.subscription import (
    MAX_PENDING,
    MIN_PENDING,
    GetChannelToken,
    Options,
    Shared,
    Subscription,
)
from relay.client.values import (
    History,
    Json,
    Position,
    Presence,
    Publication,
    RoomInfo,
    Signal,
    State,
    StateChange,
)

MIN_DELAY = 0.5
"""Seconds: the shortest delay before a new connection, by default."""
MAX_DELAY = 20.0
"""Seconds: the longest one, by default."""
TIMEOUT = 10.0
"""Seconds for connecting, and for a request with all its repetitions, by default."""
PING_INTERVAL = 25.0
"""Seconds of silence after which the client asks whether the server is there, by default: the server pings each 30 s."""

log = logging.getLogger("relay.client")


def _log_error(error: Exception) -> None:
    log.warning("%s", error)


class Client:
    """One connection of one user. Enter it to connect; it reconnects until the block ends.

    A loop over a subscription, and a request, raise RelayError with the code `disconnected` once the client has stopped:
    the token function raised Unauthorized, the server refused the token and there is no function, an operator sent the
    user away, or a token is of another user than before.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | GetToken | None = None,
        tls: ssl.SSLContext | None = None,
        min_delay: float = MIN_DELAY,
        max_delay: float = MAX_DELAY,
        timeout: float = TIMEOUT,
        ping_interval: float = PING_INTERVAL,
        on_state: Callable[[StateChange], None] | None = None,
        on_signal: Callable[[Signal], None] | None = None,
        on_error: Callable[[Exception], None] = _log_error,
    ) -> None:
        """`token` is the user's token, or an async function that returns one; None: an anonymous client.

        `on_state`, `on_signal` and `on_error` are called synchronously; an exception of theirs ends the block. `on_error`
        takes errors that end nothing, such as a failed token function; by default they are logged as warnings.

        Raises:
            ValueError: the URL is not that of a server, or a duration is not positive.
        """
        for name, value in {"min_delay": min_delay, "timeout": timeout, "ping_interval": ping_interval}.items():
            if not value > 0:
                raise ValueError(f"{name} must be positive, and is {value}")
        address = Address.of(url, tls)
        self._timeout = timeout
        self._http = Http(address)
        self._credential = Credential(token, timeout)
        times = Times(Backoff(min_delay, max(min_delay, max_delay)), timeout, ping_interval)
        self._link = Link(address, self._credential, times)
        self._requests = Requests(self._link, timeout)
        self._shared = Shared(self._link, times.backoff, timeout, self._requests.id, on_error)
        self._dispatch = Dispatch(self._link, self._requests, self._shared, on_state, on_signal)
        self._tasks: TaskGroup | None = None
        self.notifications = Notifications(self)
        """The user's own notifications."""

    async def __aenter__(self) -> Self:
        """Begin to connect, and return at once. A client is entered once."""
        if self._tasks is not None:
            raise RuntimeError("a client is entered once; make another one")
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._link.open(self._dispatch)
        self._tasks.start_soon(self._link.run)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        """Send what is queued, and close the connection, within a second; after a cancellation at once.

        An exception leaves the block as it was raised; several leave it in a group.
        """
        assert self._tasks is not None
        try:
            if exc is None or isinstance(exc, Exception):
                with anyio.CancelScope(shield=True):
                    await self._link.close_gracefully()
            if exc is None:
                self._tasks.cancel_scope.cancel()
            return await self._tasks.__aexit__(exc_type, exc, traceback)
        except BaseExceptionGroup as group:
            [error, *more] = group.exceptions
            if more:
                raise
            if error is exc:
                return False
            raise error from error.__cause__
        finally:
            with anyio.CancelScope(shield=True):
                await self._http.aclose()
            self._link.close()

    @property
    def state(self) -> State:
        """`connecting` until it is authenticated, `connected`, or `disconnected` once it has stopped."""
        return self._link.state

    @property
    def user_id(self) -> str | None:
        """The user of the token. None: not connected yet, or anonymous."""
        return self._link.user_id

    @property
    def connection_id(self) -> str | None:
        """The id of the connection for `exclude` of a backend's publication. None while it is not connected."""
        return self._link.connection_id

    async def ready(self, timeout: float | None = None) -> None:
        """Wait until the client is connected, for at most `timeout` seconds; by default as long as for a request.

        Raises:
            RelayError: `timeout`, or `disconnected`: the client has stopped.
        """
        try:
            with anyio.fail_after(self._timeout if timeout is None else timeout):
                await self._link.wait_until_connected()
        except TimeoutError:
            raise self._link.timeout_error("The server did not answer in time") from None

    # -- channels ------------------------------------------------------------------------------------------------------

    def subscribe(
        self,
        channel: str,
        *,
        since: Position | None = None,
        last: int | None = None,
        token: GetChannelToken | None = None,
        max_pending: int = MAX_PENDING,
        ignore_gaps: bool = False,
    ) -> Subscription:
        """Return a subscription, to be entered: `async with client.subscribe("orders:42") as orders`.

        `channel`: a full name, such as `orders:42`, `chatroom:gold`, `market:BTC`, `trades`, `broadcast`; `notifications`
        is the user's own. `since`: the position to resume from. `last`: how many of the newest publications come first,
        in namespaces of your own. `token`: returns a subscription token. `max_pending`: publications that may wait for
        the reader, 10 or more. `ignore_gaps`: pass over missed publications instead of raising Gap.
        """
        if max_pending < MIN_PENDING:
            raise ValueError(f"max_pending must be at least {MIN_PENDING}, and is {max_pending}")
        if channel.startswith("market:"):
            channel = f"market:{channel.removeprefix('market:').upper()}"
        return Subscription(channel, Options(since, last, token, max_pending, ignore_gaps), self._shared)

    async def publish(
        self, channel: str, data: Json, *, type: str | None = None, echo: bool = True, id: str | None = None
    ) -> Position | None:
        """Publish as the user to a channel of a namespace of your own; return the position, None without history.

        It is sent again after a reconnect, and counts once. `echo`: whether this connection gets it too. `id`: 1 to 128
        characters; two publications with one id count once, for 300 s. Default: a new one. Cancelled, it may have counted.

        Raises:
            RelayError: the server refused or did not answer in time, or the client has stopped. After `timeout`, publish
                again with the same `id`.
        """
        frame = {
            "type": "publish",
            "channel": channel,
            "data": data,
            "event": type,
            "clientMessageId": id or self.new_id(),
        }
        return Position.of(await self.ask({**frame, "echo": None if echo else False}))

    async def history(
        self, channel: str, *, limit: int | None = None, before: int | None = None, since: Position | None = None
    ) -> History:
        """Return kept publications: the newest `limit` (50, at most 1,000), those before an offset, or those after a position.

        A page ends early at 262,144 bytes of data, so go on until one is empty. Raises as `publish`.
        """
        position = None if since is None else {"offset": since.offset, "epoch": since.epoch}
        frame = {"type": "history", "channel": channel, "limit": limit, "before": before, "since": position}
        data = await self.ask(frame)
        newest = Position.of(data)
        publications = [
            Publication(
                channel,
                one["type"],
                one["data"],
                None if newest is None else Position(one["offset"], newest.epoch),
                one.get("publisher"),
                one.get("timestamp"),
            )
            for one in data["publications"]
        ]
        return History(publications, newest, data.get("recovered", True))

    async def presence(self, channel: str) -> Presence:
        """Return the users that are subscribed to a channel. Raises as `publish`."""
        kind, _, id_ = channel.partition(":")
        target = {"chatroomId": id_} if kind == "chatroom" else {"channel": channel}
        data = await self.ask({"type": "presence", **target})
        users = data.get("users", [])
        return Presence(data.get("count", len(users)), users)

    # -- rooms and REST ------------------------------------------------------------------------------------------------

    def room(self, id: str) -> Room:
        """Return a room: messages, members, typing, and its subscription. Nothing is sent."""
        return Room(id, self)

    async def rooms(
        self,
        *,
        page: int | None = None,
        limit: int | None = None,
        type: Literal["public", "group", "private"] | None = None,
    ) -> list[RoomInfo]:
        """Return rooms, the newest first: a page of at most 100 (20)."""
        return cast("list[RoomInfo]", await self.rest("GET", "/v1/chatrooms", page=page, limit=limit, type=type))

    async def create_room(
        self,
        name: str,
        *,
        description: str | None = None,
        type: Literal["public", "group", "private"] = "public",
        id: str | None = None,
    ) -> RoomInfo:
        """Create a room. `id`: for admins only."""
        fields = {"name": name, "description": description, "type": type, "id": id}
        body = {name: value for name, value in fields.items() if value is not None}
        return cast("RoomInfo", await self.rest("POST", "/v1/chatrooms", body))

    async def rest(self, method: str, path: str, body: object = None, **query: object) -> Any:
        """Call a REST route with the user's token; return the `data` of the answer. Parameters that are None are left out.

        It is sent once, except a GET, PUT or DELETE on a connection that the server had closed, and after a 401 with a
        fresh token. It takes at most `timeout` seconds. Cancelled, the server may have acted.

        Raises:
            RelayError: the server refused, cannot be reached (`disconnected`), or did not answer in time (`timeout`).
        """
        given = {name: value for name, value in query.items() if value is not None}
        target = f"{path}?{urlencode(given)}" if given else path
        content = None if body is None else json.dumps(body, allow_nan=False).encode()
        try:
            with anyio.fail_after(self._timeout):
                token = await self._credential.token("connect")
                answer = await self._http.request(method, target, _bearer(token), content)
                if answer.status == 401 and self._credential.can_change:
                    token = await self._credential.token("refused", token)
                    answer = await self._http.request(method, target, _bearer(token), content)
        except TimeoutError:
            raise RelayError("timeout", "The server did not answer in time.") from None
        if 200 <= answer.status < 300 and isinstance(answer.body, dict):
            return answer.body.get("data")
        raise answer.refusal()

    async def ask(self, frame: Mapping[str, Any]) -> dict[str, Any]:
        """Send a frame of the dialect `live`, and return the data of its answer. Fields that are None are left out.

        Raises as `publish`. Cancelled, it may have counted.
        """
        return await self._requests.ask(frame)

    async def tell(self, frame: Mapping[str, Any]) -> None:
        """Send a frame that has no answer, if the client is connected. Cancelled, it is not sent."""
        if (connection := self._link.connection) is not None:
            await connection.send(frame_of(**frame))

    def new_id(self) -> str:
        """Return an id that no other request has."""
        return self._requests.id()


def _bearer(token: str | None) -> dict[str, str]:
    return {} if token is None else {"Authorization": f"Bearer {token}"}
