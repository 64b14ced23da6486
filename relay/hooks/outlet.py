"""Writes events into the store, for each webhook that they are for, and wakes the senders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import trio

from relay.config.webhooks import PUBLICATION_CREATED
from relay.ground import logs, strictjson
from relay.hooks.event_filters import EventFilter, EventFilters
from relay.hooks.span_kinds import channel_key
from relay.model.publication import Publication
from relay.store import webhook_events
from relay.store.transaction import Transaction
from relay.store.webhook_events import Event

MAX_BODY_BYTES = 16_384
"""Bytes of the data of a publication that its event carries. Larger data is left out."""

log = logs.get("relay.webhooks")


class Outlet:
    """The way of every event into the store. Its functions of a transaction run in the store's thread."""

    def __init__(self, filters: EventFilters, *, on_written: Callable[[], None]) -> None:
        """`on_written` is called synchronously, in Trio's thread, after events were written."""
        self._filters = filters
        self._on_written = on_written
        self._token: trio.lowlevel.TrioToken | None = None
        self.full: set[str] = set()
        """The webhooks with more pending events than they may have."""
        self.overfull: set[str] = set()
        """The webhooks with twice as many."""
        self.dropped: Counter[str] = Counter()
        """Events that were never sent, by webhook, because too many were pending."""

    def open(self) -> None:
        """Record the loop in which senders are woken. Call it in Trio's thread before anything is written."""
        self._token = trio.lowlevel.current_trio_token()

    def endpoints(self, type_: str, channel: str | None) -> list[str]:
        """Return the webhooks that an event is for."""
        return [event_filter.endpoint for event_filter in self._filters.of(type_, channel)]

    def events(self, type_: str, key: str, channel: str | None, at_ms: int, data: str) -> Iterator[Event]:
        """Yield an event for each webhook that it is for. `data`: a JSON object with at least one member."""
        for event_filter in self._filters.of(type_, channel):
            yield Event(event_filter.endpoint, key, type_, at_ms, data)

    def write(self, connection: Transaction, events: Sequence[Event], now_ms: int) -> None:
        """Write events. If too many are pending for a webhook, the newest one of each key stays."""
        if not events:
            return
        for endpoint, key in dict.fromkeys((event.endpoint, event.key) for event in events):
            if endpoint in self.full:
                self.dropped[endpoint] += webhook_events.coalesce(connection, endpoint, key)
        self._append(connection, events, now_ms)

    def record(self, connection: Transaction, publications: Sequence[Publication]) -> None:
        """Write the events of publications that the transaction commits."""
        events = [event for publication in publications for event in self._published(publication)]
        if events:
            self._append(connection, events, publications[0].published_ms)

    def _append(self, connection: Transaction, events: Sequence[Event], now_ms: int) -> None:
        webhook_events.append(connection, events, now_ms)
        assert self._token is not None
        # The transaction is not committed yet. Sending begins with a claim, which takes its turn after the commit.
        self._token.run_sync_soon(self._on_written, idempotent=True)

    def _published(self, publication: Publication) -> Iterator[Event]:
        channel = publication.channel
        if not channel.namespace.durable:
            return
        for event_filter in self._filters.of(PUBLICATION_CREATED, channel.text):
            if event_filter.endpoint in self.overfull:
                self.dropped[event_filter.endpoint] += 1
                continue
            data = _publication_data(publication, event_filter)
            yield Event(
                event_filter.endpoint, channel_key(channel.text), PUBLICATION_CREATED, publication.published_ms, data
            )


def _publication_data(publication: Publication, event_filter: EventFilter) -> str:
    named = {
        "channel": publication.channel.text,
        "offset": publication.offset,
        "epoch": publication.epoch,
        "type": publication.type,
    }
    data = strictjson.dumps(named).decode()[:-1]
    if publication.publisher is not None:
        data += f',"publisher":{publication.publisher.decode()}'
    if event_filter.bodies:
        body = publication.json
        data += f',"data":{body.decode()}' if len(body) <= MAX_BODY_BYTES else ',"data":null,"truncated":true'
    return data + "}"
