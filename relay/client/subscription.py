"""A subscription: the publications of one channel, over reconnects, each once and in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Literal, Self

import anyio
import attrs
from anyio.lowlevel import checkpoint

from relay.client.backoff import Backoff
from relay.client.errors import Gap, RelayError, Unauthorized
from relay.client.link import Connection, Link, frame_of, refusal_of
from relay.client.values import Position, Publication

MAX_PENDING = 1000
"""Publications that wait for the reader of a subscription, by default."""
MIN_PENDING = 10
"""The least bound for them: a smaller one would ask the server again for nearly every publication."""

AGAIN = frozenset({"backend_expired", "publications were lost"})
"""Reasons of the server for ending a subscription that may be had again at once."""

GetChannelToken = Callable[[str], Awaitable[str]]
"""Returns a subscription token for a channel. Raises Unauthorized to give the subscription up."""


@attrs.frozen
class Options:
    """The choices of a subscription's reader."""

    since: Position | None
    last: int | None
    token: GetChannelToken | None
    max_pending: int
    ignore_gaps: bool


@attrs.frozen
class Shared:
    """The parts of the client that its subscriptions share."""

    link: Link
    backoff: Backoff
    timeout: float
    next_id: Callable[[], str]
    failed: Callable[[Exception], None]
    """Takes an error that ends nothing. Called synchronously."""
    subscriptions: dict[str, Subscription] = attrs.field(factory=dict)
    """Every subscription that is not at its end, by its channel."""


class Subscription:
    """One channel. Made by `Client.subscribe`; enter it, then iterate. One task iterates at a time.

    At most `max_pending` publications wait. If the reader is slower than that, the client drops later ones. Once half
    of them are read, it resumes behind the last one that it took. So a slow reader costs bounded memory, slows no other
    subscription, and loses nothing that the server keeps.
    """

    def __init__(self, channel: str, options: Options, shared: Shared) -> None:
        self.channel = channel
        self.state: Literal["subscribing", "subscribed", "unsubscribed"] = "unsubscribed"
        self.position = options.since
        """The position behind the last publication that was read, or where the subscription began. None without history."""
        self._options = options
        self._shared = shared
        self._is_market = channel.startswith("market:")
        self._since = options.since  # behind the last publication that was taken
        self._pending: deque[Publication | Gap] = deque()
        self._request: str | None = None  # the id of the latest subscribe on this connection
        self._asked: Position | None = None  # the position that it named
        self._is_entered = False
        self._has_begun = False  # whether the channel has been subscribed to
        self._is_full = False  # publications are not taken until the reader has caught up
        self._changed = anyio.Event()
        self._end: RelayError | None = None

    async def __aenter__(self) -> Self:
        """Subscribe. When it returns, the channel is subscribed to, and nothing that is published later is missed.

        Raises:
            RelayError: the server refused, or did not answer within `timeout` seconds, or the client has stopped.
            ValueError: the client has a subscription to this channel, or this one was entered before.
        """
        shared = self._shared
        if self._is_entered or shared.subscriptions.setdefault(self.channel, self) is not self:
            raise ValueError(f"{self.channel} is subscribed to; a client has one subscription to a channel")
        self.state, self._is_entered = "subscribing", True
        if (connection := shared.link.connection) is not None:
            connection.start(self.begin, connection)
        try:
            with anyio.fail_after(shared.timeout):
                while not (self._has_begun or self._end is not None):
                    shared.link.check()
                    await self._changed.wait()
            if self._end is not None:
                raise self._end
        except TimeoutError:
            self._leave()
            raise shared.link.timeout_error(f"{self.channel} could not be subscribed to in time") from None
        except BaseException:
            self._leave()
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Unsubscribe, without waiting for the answer. The iteration ends."""
        self._leave()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Publication:
        """Return the next publication. Always a checkpoint. Cancelled, no publication is lost.

        Raises:
            Gap: publications were missed; iterate again to go on behind them. With `ignore_gaps` it is not raised.
            RelayError: the server ended the subscription, or the client has stopped.
        """
        await checkpoint()
        while True:
            if self._is_full and len(self._pending) <= self._options.max_pending // 2:
                self._is_full = False
                if (connection := self._shared.link.connection) is not None:
                    connection.start(self.begin, connection)
            if self._pending:
                item = self._pending.popleft()
                self.position = item.position
                if isinstance(item, Publication):
                    return item
                if not self._options.ignore_gaps:
                    raise item
            elif self._end is not None:
                raise self._end
            elif self.state == "unsubscribed":
                raise StopAsyncIteration
            else:
                self._shared.link.check()
                await self._changed.wait()

    # -- called by the client ------------------------------------------------------------------------------------------

    @property
    def is_new(self) -> bool:
        """Whether no subscribe was sent on this connection, and one should be."""
        return self.state == "subscribing" and self._request is None and not self._is_full

    @property
    def has_token_function(self) -> bool:
        """Whether a subscribe waits for a function of the caller's."""
        return self._options.token is not None

    def answers(self, request: object) -> bool:
        """Return whether this is the id of the latest subscribe."""
        return request is not None and self._request == request

    async def begin(self, connection: Connection) -> None:
        """Subscribe on a connection, from the last position. Do nothing while the reader has to catch up."""
        if self.state != "subscribing" or self._is_full:
            return
        options = self._options
        self._request = request = self._shared.next_id()
        frame: dict[str, Any] = {"type": "subscribe", **self._target(), "requestId": request}
        if options.token is not None:
            try:
                with anyio.fail_after(self._shared.timeout):
                    frame["token"] = await options.token(self.channel)
            except Unauthorized as error:
                self._finish(RelayError("unauthorized", str(error)))
                return
            except Exception as error:  # noqa: BLE001 - a function of the caller's, which may fail in any way
                self._shared.failed(error)
                connection.start(self._begin_again, connection, request, 0.0)
                return
            if not self.answers(request) or self.state != "subscribing":
                return
        self._asked = None if self._is_market else self._since
        if self._asked is not None:
            frame["since"] = attrs.asdict(self._asked)
        elif options.last is not None and not self._has_begun:
            frame["last"] = options.last
        await connection.send(frame_of(**frame))

    def pause(self) -> None:
        """Record that the connection has ended."""
        if self.state == "subscribed":
            self.state = "subscribing"
        self._request = None
        self.wake()

    def subscribed(self, data: Mapping[str, Any]) -> None:
        """Take the answer to the latest subscribe."""
        if self._is_market:
            [data] = data["positions"].values()
        new = Position.of(data)
        gap = None
        if self._is_market:
            # The last price follows and has the offset of the answer, so the position stays before it.
            if self._since is None or self._since.epoch != data["epoch"]:
                self._since = Position(0, data["epoch"])
        elif data.get("recovered") is not True:
            if self._has_begun or self._asked is not None:
                gap = Gap(self.channel, self._asked, new)
            self._since = new
        if gap is not None:
            if self._pending and isinstance(last := self._pending[-1], Gap):
                self._pending.pop()
                gap = Gap(self.channel, last.since, new)
            self._pending.append(gap)
        elif not self._has_begun:
            self.position = self._since
        self._has_begun = True
        self.state = "subscribed"
        self.wake()

    def refused(self, data: Mapping[str, Any], connection: Connection) -> None:
        """Take the refusal of the latest subscribe."""
        error = refusal_of(data)
        if error.code == "unauthorized" and self._shared.link.connection is None:
            return  # the token of the connection was refused, and the connection ends next
        is_expired = error.reason == "token_expired" and self._options.token is not None
        # The server ended it while it began. The next refusal names the right that is missing, if one is.
        if error.temporary or is_expired or error.reason == "revoked":
            self._shared.failed(error)
            connection.start(self._begin_again, connection, self._request, error.retry_after or 0.0)
        else:
            self._finish(error)

    def ended(self, reason: str, connection: Connection) -> None:
        """Take the end of the subscription by the server."""
        if self.state != "subscribed":
            return
        if reason in AGAIN or (reason == "token_expired" and self._options.token is not None):
            self.state = "subscribing"
            connection.start(self.begin, connection)
        else:
            self._finish(RelayError("forbidden", "The server ended the subscription.", reason=reason))

    def take(self, frame: Mapping[str, Any]) -> None:
        """Take a publication, or the place of one that excludes this connection."""
        if self.state != "subscribed":
            return
        offset, since = frame.get("offset", 0), self._since
        if offset and since is not None and offset <= since.offset:
            return  # a repetition
        if frame["type"] == "skipped" and "data" not in frame:  # a publication may be of the same type
            self._since = None if since is None else Position(offset, since.epoch)
            if not self._pending:
                self.position = self._since
        elif len(self._pending) < self._options.max_pending:
            position = Position(offset, since.epoch) if offset and since is not None else None
            self._since = position or since
            self._pending.append(
                Publication(self.channel, frame["type"], frame["data"], position, frame.get("publisher"))
            )
            self.wake()
        else:
            self._is_full = True
            self._request = None
            self.state = "subscribing"

    def wake(self) -> None:
        """Wake the reader: something has changed."""
        self._changed.set()
        self._changed = anyio.Event()

    # -- within --------------------------------------------------------------------------------------------------------

    def _target(self) -> dict[str, Any]:
        """Return the fields that name the channel in a frame. The market's word is answered with the last price."""
        if self._is_market:
            return {"channel": "market", "symbols": [self.channel.removeprefix("market:")]}
        return {"channel": self.channel}

    async def _begin_again(self, connection: Connection, request: str | None, retry_after: float) -> None:
        await anyio.sleep(max(self._shared.backoff.delay(0), retry_after))
        if self.answers(request):
            await self.begin(connection)

    def _finish(self, error: RelayError) -> None:
        self._end = error
        self.state = "unsubscribed"
        self._shared.subscriptions.pop(self.channel, None)
        self.wake()

    def _leave(self) -> None:
        if self.state == "unsubscribed":
            return
        self.state = "unsubscribed"
        self._shared.subscriptions.pop(self.channel, None)
        if self._request is not None or self._is_full:
            connection = self._shared.link.open_connection
            frame = frame_of(type="unsubscribe", **self._target())
            if connection is not None and not connection.send_nowait(frame):
                connection.start(self._unsubscribe, connection, frame)
        self.wake()

    async def _unsubscribe(self, connection: Connection, frame: str) -> None:
        """Unsubscribe once there is room. A new subscription to the channel takes this one over, and must not be overtaken."""
        if self.channel not in self._shared.subscriptions:
            await connection.send(frame)
