"""The client's link to the server: one authenticated connection after another."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any, Protocol

import anyio
import attrs
from anyio.abc import TaskGroup

from relay.client.address import Address
from relay.client.backoff import Backoff
from relay.client.credential import Credential, Reason, unix
from relay.client.errors import RelayError, Unauthorized
from relay.client.values import State, StateChange
from relay.client.websocket import BROKEN, Closed, WebSocket

STEADY = 10.0
"""Seconds of a connection after which the delays begin to grow anew."""
BRIEF = 1.0
"""Seconds. A connection whose token was refused is replaced at once, unless it ended sooner than this."""
SPREAD = 3
"""The failures to assume at least after "try again later", because every client was told so at the same moment."""
CLOSE_TIMEOUT = 1.0
"""Seconds that the client's close may take."""
PING = '{"type": "ping"}'
FINAL = frozenset({1002, 1003, 1007})
"""Close codes after which the same client would only be closed again, because its frames are broken."""
TRY_LATER = frozenset({1001, 1008, 1013})
POLICY = 1008
FLOOD = "too many messages"
"""The reason of a close with 1008 that is not about the token."""
DISCONNECTED = "disconnected"
"""The reason of a close with 1008 by an operator: the client must not come back by itself."""


class Owner(Protocol):
    """The part of the client that a link reports to. Its functions are called synchronously, but for `begin`."""

    async def begin(self, connection: Connection) -> None:
        """Send everything that may follow `auth` without waiting for its answer."""

    def connected(self, connection: Connection) -> None:
        """Record that the connection is authenticated."""

    def received(self, frame: Mapping[str, Any], connection: Connection) -> None:
        """Take a frame that is not about the connection itself."""

    def lost(self, code: int) -> None:
        """Record the end of a connection, or of an attempt."""

    def stopped(self, error: RelayError) -> None:
        """Record the end of the link: there are no more attempts."""

    def changed(self, change: StateChange) -> None:
        """Record a state."""

    def failed(self, error: Exception) -> None:
        """Record an error that ends nothing."""


class Connection:
    """One connection. Its tasks end with it."""

    def __init__(self, socket: WebSocket, tasks: TaskGroup) -> None:
        self.socket = socket
        self.tasks = tasks
        self.is_closed = False
        """Whether nothing is sent and no task is started any more. Callers then wait for the next connection."""
        self.end: Closed | None = None
        """The reason of the end, if it has one that the server did not tell."""
        self.refusal: RelayError | None = None
        """The refusal of the token, if the server refused it."""
        self.begun = anyio.current_time()
        self.heard = self.begun
        self.since: float | None = None
        """When it was authenticated; None: not yet."""

    async def send(self, text: str) -> None:
        """Queue a frame. Waits for room. If the connection ends, the frame is dropped. Cancelled, it is not sent."""
        with suppress(anyio.ClosedResourceError, anyio.BrokenResourceError):
            await self.socket.send(text)

    def send_nowait(self, text: str) -> bool:
        """Queue a frame. Return False, and drop it, if there is no room. On a closed connection it is dropped and counts as sent."""
        return self.is_closed or self.socket.send_nowait(text)

    def start(self, function: Callable[..., Coroutine[Any, Any, None]], *arguments: object) -> None:
        """Run a function that ends with the connection. Do nothing if that is closed."""
        if not self.is_closed:
            self.tasks.start_soon(function, *arguments)

    def close(self, end: Closed) -> None:
        """End the connection. The first reason counts."""
        self.end = self.end or end
        self.tasks.cancel_scope.cancel()


@attrs.frozen
class Times:
    """How long the link waits, in seconds."""

    backoff: Backoff
    timeout: float
    ping_interval: float


class Link:
    """Connects, authenticates, watches and reconnects."""

    _owner: Owner

    def __init__(self, address: Address, credential: Credential, times: Times) -> None:
        self._address = address
        self._credential = credential
        self._times = times
        self._reason: Reason = "connect"
        self._token: str | None = None  # the one that was sent last
        self._skew = 0.0  # seconds that the server's clock is ahead
        self._connection: Connection | None = None
        self._why = "its block was not entered"  # the cause of the state, unless it is `connected`
        self._changed = anyio.Event()
        self.state: State = "disconnected"
        self.user_id: str | None = None
        self.connection_id: str | None = None

    @property
    def connection(self) -> Connection | None:
        """The authenticated connection, if there is one."""
        return self.open_connection if self.state == "connected" else None

    @property
    def open_connection(self) -> Connection | None:
        """The connection, if there is one, also before its authentication."""
        return None if self._connection is None or self._connection.is_closed else self._connection

    def check(self) -> None:
        """Raise RelayError if the link has stopped."""
        if self.state == "disconnected":
            raise RelayError("disconnected", f"The client has stopped: {self._why}.")

    async def wait_until_connected(self) -> None:
        """Return when there is an authenticated connection. Raises RelayError if the link has stopped."""
        while self.state != "connected":
            self.check()
            await self._changed.wait()

    def timeout_error(self, what: str) -> RelayError:
        """Return the error of a wait that took too long. It names why the link is not connected, if it is not."""
        lost = f" No connection: {self._why}." if self.state == "connecting" and self._why else ""
        return RelayError("timeout", f"{what}.{lost}")

    def open(self, owner: Owner) -> None:
        """Prepare `run`. From now on requests wait for a connection."""
        self._owner = owner
        self.state, self._why = "connecting", ""

    async def close_gracefully(self) -> None:
        """Send what is queued, and close the connection, for at most CLOSE_TIMEOUT seconds. Another task runs `run`."""
        if (connection := self.connection) is not None:
            with anyio.move_on_after(CLOSE_TIMEOUT):
                await connection.socket.close_gracefully()

    def close(self) -> None:
        """Record that `run` has ended because the block of the client did."""
        if self.state != "disconnected":
            self._connection = None
            self._stop(1000, "its block has ended")

    async def run(self) -> None:
        """Connect, and reconnect after each loss, until the server or the token function ends it for good."""
        failures = 0
        self._set_state(StateChange("connecting"))
        while True:
            end = await self._attempt()
            lasted = 0.0 if self._connection is None or self._connection.since is None else _since(self._connection)
            refusal = self._connection.refusal if self._connection is not None else None
            self._connection, self.connection_id = None, None
            self._owner.lost(end.code)
            if self._is_final(end, refusal, lasted):
                return self._stop(end.code, refusal.message if refusal is not None else end.reason)
            failures = 0 if lasted > STEADY else failures
            delay = self._delay(end, refusal, failures, lasted)
            failures += 1
            self._why = end.reason.rstrip(".")
            self._set_state(StateChange("connecting", end.code, end.reason, delay))
            await anyio.sleep(delay)

    def _is_final(self, end: Closed, refusal: RelayError | None, lasted: float) -> bool:
        if end.code in FINAL or (end.code == POLICY and end.reason == DISCONNECTED) or isinstance(end, _Stopped):
            return True
        was_anonymous = self._token is None and lasted > 0  # its time is over, and it may have another one
        return _is_about_token(end, refusal) and not (self._credential.can_change or was_anonymous)

    def _delay(self, end: Closed, refusal: RelayError | None, failures: int, lasted: float) -> float:
        wait = max(end.retry_after or 0.0, (refusal.retry_after if refusal is not None else None) or 0.0)
        if _is_about_token(end, refusal):
            self._reason = "refused"
            if lasted > BRIEF:
                return wait
        elif end.code in TRY_LATER:
            failures = max(failures, SPREAD)
        return max(wait, self._times.backoff.delay(failures))

    async def _attempt(self) -> Closed:
        """Connect once, and return the end of the connection."""
        try:
            self._token = await self._credential.token(self._reason, self._token)
            with anyio.fail_after(self._times.timeout):
                socket = await WebSocket.connect(self._address)
        except Unauthorized as error:
            return _Stopped(POLICY, str(error))
        except RelayError as error:
            self._owner.failed(error)
            return Closed(BROKEN, error.message)
        except TimeoutError:
            return Closed(BROKEN, "the server did not answer in time")
        except Closed as end:
            return end
        try:
            return await self._serve(socket)
        finally:
            await socket.aclose()

    async def _serve(self, socket: WebSocket) -> Closed:
        async with anyio.create_task_group() as tasks:
            connection = self._connection = Connection(socket, tasks)
            try:
                for task in (self._write, self._begin, self._watch):
                    connection.start(task, connection)
                while True:
                    text = await socket.receive()
                    connection.heard = anyio.current_time()
                    self._handle(text, connection)
            except Closed as end:
                connection.close(end)
            finally:
                connection.is_closed = True  # the group takes no more tasks, before `run` goes on
        assert connection.end is not None
        return connection.end

    async def _write(self, connection: Connection) -> None:
        try:
            await connection.socket.write()
        except Closed as end:
            connection.close(end)

    async def _begin(self, connection: Connection) -> None:
        # The ping goes before `auth`, because any frame right behind that but a subscribe begins the broadcasts.
        await connection.send(PING)
        await self._authenticate(connection)
        await self._owner.begin(connection)

    async def _authenticate(self, connection: Connection) -> None:
        await connection.send(frame_of(type="auth", token=self._token))

    async def _watch(self, connection: Connection) -> None:
        """End a connection that is not authenticated in time, or silent. Ping a server that says nothing."""
        times = self._times
        await anyio.sleep(times.timeout)
        if connection.since is None:
            connection.close(Closed(BROKEN, "the server did not answer in time"))
        while True:
            silence = anyio.current_time() - connection.heard
            if silence >= times.ping_interval + times.timeout:
                connection.close(Closed(BROKEN, "the server does not answer"))
            if silence < times.ping_interval:
                await anyio.sleep(times.ping_interval - silence)
            else:
                connection.socket.send_nowait(PING)
                await anyio.sleep(times.timeout)

    # -- frames --------------------------------------------------------------------------------------------------------

    def _handle(self, text: str, connection: Connection) -> None:
        try:
            frame = json.loads(text)
            type_ = frame["type"]
        except (ValueError, LookupError, TypeError, RecursionError):
            raise Closed(BROKEN, "the server does not speak like Relay") from None
        if "channel" in frame or "offset" in frame:
            self._owner.received(frame, connection)
            return
        data = frame.get("data")
        match type_:
            case "auth:success":
                self._authenticated(data, connection)
            case "auth:error":
                self._refused(data, connection)
            case "error" if data.get("request") == "auth" and connection.since is None:
                self._refused(data, connection)
                raise Closed(POLICY, data["message"])
            case "pong":
                self._skew = unix(data["timestamp"]) - time.time()
            case _:
                self._owner.received(frame, connection)

    def _authenticated(self, data: Mapping[str, Any], connection: Connection) -> None:
        user = data["userId"]
        if self.user_id is not None and self.user_id != user:
            raise _Stopped(POLICY, "the token is of another user than before")
        self.user_id, self.connection_id = user, data.get("connectionId")
        self._reason = "connect"
        if data.get("expiresAt") and (self._credential.can_change or self._token is None):
            left = unix(data["expiresAt"]) - time.time() - self._skew
            connection.start(self._refresh, connection, self._credential.expires_in(left))
        if connection.since is None:
            connection.since = anyio.current_time()
            self._set_state(StateChange("connected"))
            self._owner.connected(connection)

    def _refused(self, data: Mapping[str, Any], connection: Connection) -> None:
        """Record the refusal of a token. The server closes the connection next, unless the code is `forbidden`."""
        refusal = refusal_of(data)
        connection.refusal = refusal
        self._owner.failed(refusal)

    async def _refresh(self, connection: Connection, delay: float) -> None:
        while True:
            await anyio.sleep(delay)
            try:
                self._token = await self._credential.token("refresh")
            except Unauthorized as error:
                connection.close(_Stopped(POLICY, str(error)))
            except RelayError as error:
                self._owner.failed(error)
                delay = self._times.backoff.delay(SPREAD)
            else:
                await self._authenticate(connection)
                return

    # -- states --------------------------------------------------------------------------------------------------------

    def _stop(self, code: int, reason: str) -> None:
        self._why = reason.rstrip(".")
        self._set_state(StateChange("disconnected", code, reason))
        self._owner.stopped(RelayError("disconnected", f"The client has stopped: {reason}."))

    def _set_state(self, change: StateChange) -> None:
        self.state = change.state
        self._changed.set()
        self._changed = anyio.Event()
        self._owner.changed(change)


class _Stopped(Closed):
    """The client ended the connection, and must not come back."""


def _is_about_token(end: Closed, refusal: RelayError | None) -> bool:
    return end.code == POLICY and end.reason != FLOOD and not (refusal is not None and refusal.temporary)


def _since(connection: Connection) -> float:
    assert connection.since is not None
    return anyio.current_time() - connection.since


def refusal_of(data: Mapping[str, Any]) -> RelayError:
    """Return the error in a frame `error` or `auth:error`."""
    return RelayError(data["code"], data["message"], reason=data.get("reason"), retry_after=data.get("retryAfter"))


def frame_of(**fields: object) -> str:
    """Return a frame. Fields that are None are left out, but for `data`. Raises ValueError for NaN and Infinity."""
    given = {name: value for name, value in fields.items() if value is not None or name == "data"}
    return json.dumps(given, allow_nan=False)
