"""`/v1/admin/webhooks...`: webhooks with their events, for the console and the command line. For operators."""

from __future__ import annotations

from datetime import datetime
from typing import TypedDict

from quart import Blueprint, Response, request

from relay.api import audit
from relay.api.admin_views import NothingView
from relay.api.app import optional_json_body, success
from relay.api.authentication import caller_of, operator_of, reader_of
from relay.api.operation import CONSOLE_OPERATOR, CONSOLE_READER, describe
from relay.api.params import NUMBERED_PAGE, OPTIONAL, Params, number_cursor, page_query
from relay.core import Core
from relay.ground.clock import iso_ms
from relay.ground.errors import Code, invalid_field
from relay.ground.schema import Param
from relay.hooks.sender import Attempt, Sender
from relay.hooks.webhooks import Webhooks
from relay.model.namespaces import MAX_ID_CHARACTERS
from relay.store.webhook_events import Count, Delivery

PREFIX = "/v1/admin/webhooks"
STATES = ("pending", "dead", "recent")


class WebhookView(TypedDict):
    """A webhook without its secrets. `attempts`, by outcome, and `lastError` are of this node."""

    name: str
    url: str | None
    events: list[str]
    channels: list[str]
    state: str
    pending: int
    oldestSeconds: float | None
    dead: int
    dropped: int
    inFlight: int
    attempts: dict[str, int]
    lastError: str | None
    lastErrorAt: str | None


class WebhooksView(TypedDict):
    """The webhooks of the configuration."""

    webhooks: list[WebhookView]


class DeliveryView(TypedDict):
    """An event that waits to be sent, or a dead letter."""

    id: str
    type: str
    key: str
    seq: int
    createdAt: str
    attempts: int
    nextAt: str | None
    deadAt: str | None
    status: int | None
    error: str | None
    body: str


class AttemptView(TypedDict):
    """An attempt of this node to send an event."""

    id: str
    type: str
    at: str
    attempt: int
    status: int | None
    error: str | None
    milliseconds: float


class DeliveriesView(TypedDict):
    """A page of events, or the last attempts of this node. The cursor is null on the last page."""

    deliveries: list[DeliveryView | AttemptView]
    cursor: str | None


class TestedView(TypedDict):
    """The id of an event."""

    id: str


class ReplayedView(TypedDict):
    """The number of dead letters that are sent again."""

    replayed: int


class DiscardedView(TypedDict):
    """The number of dead letters that are deleted."""

    discarded: int


def blueprint(core: Core) -> Blueprint:
    """Return the routes. Each checks the right of the caller before it reads a parameter."""
    routes = Blueprint("webhooks", __name__, url_prefix=PREFIX)
    _add_views(routes, core)
    _add_changes(routes, core)
    return routes


def _add_views(routes: Blueprint, core: Core) -> None:
    @routes.get("")
    @describe("List the webhooks.", CONSOLE_READER, answer=WebhooksView)
    async def webhooks() -> Response:
        await reader_of(core, request)
        hooks, entries = core.webhooks, []
        for name, sender in list(hooks.senders.items()):
            entries.append(_webhook_entry(core, sender, await hooks.count(name)))
        return success({"webhooks": entries})

    @routes.get("/<webhook>/deliveries")
    @describe(
        "List the events of a webhook.",
        CONSOLE_READER,
        query={**NUMBERED_PAGE, "state": Param({"enum": [*STATES, ""]})},
        answer=DeliveriesView,
        errors=[Code.NOT_FOUND],
    )
    async def deliveries(webhook: str) -> Response:
        await reader_of(core, request)
        hooks = _webhooks(core, webhook)
        query, limit = page_query()
        state = query.optional("state") or "pending"
        if state not in STATES:
            raise invalid_field("state", f"must be one of {', '.join(STATES)}")
        if state == "recent":
            attempts = [_attempt_entry(one) for one in reversed(hooks.sender(webhook).recent)]
            return success({"deliveries": attempts, "cursor": None})
        found, more = await hooks.page(webhook, dead=state == "dead", after=number_cursor(query), limit=limit)
        cursor = str(found[-1].id) if more else None
        return success({"deliveries": [_delivery_entry(one) for one in found], "cursor": cursor})


def _add_changes(routes: Blueprint, core: Core) -> None:
    @routes.post("/<webhook>/test")
    @describe("Send a test event.", CONSOLE_OPERATOR, answer=TestedView, errors=[Code.NOT_FOUND])
    async def test_webhook(webhook: str) -> Response:
        principal, hooks = await operator_of(core, request), _webhooks(core, webhook)
        audit.record(principal, caller_of(core, request), "webhook tested", webhook=webhook)
        return success({"id": await hooks.test(webhook)})

    @routes.post("/<webhook>/replay")
    @describe(
        "Send dead letters again.",
        CONSOLE_OPERATOR,
        body={"id": OPTIONAL, "since": Param({"type": ["string", "null"], "format": "date-time"})},
        body_required=False,
        answer=ReplayedView,
        errors=[Code.NOT_FOUND],
    )
    async def replay_dead_letters(webhook: str) -> Response:
        principal = await operator_of(core, request)
        hooks, params = _webhooks(core, webhook), Params(await optional_json_body())
        event = params.optional("id")
        audit.record(principal, caller_of(core, request), "dead letters replayed", webhook=webhook, event=event)
        count = await hooks.replay(webhook, event_id=event, since_ms=_since_ms(params))
        return success({"replayed": count})

    @routes.post("/<webhook>/discard")
    @describe(
        "Discard dead letters.",
        CONSOLE_OPERATOR,
        body={"id": OPTIONAL},
        body_required=False,
        answer=DiscardedView,
        errors=[Code.NOT_FOUND],
    )
    async def discard_dead_letters(webhook: str) -> Response:
        principal = await operator_of(core, request)
        hooks, params = _webhooks(core, webhook), Params(await optional_json_body())
        event = params.optional("id")
        audit.record(principal, caller_of(core, request), "dead letters discarded", webhook=webhook, event=event)
        return success({"discarded": await hooks.discard(webhook, event_id=event)})

    @routes.post("/<webhook>/enable")
    @describe(
        "Send to a webhook again that was stopped.", CONSOLE_OPERATOR, answer=NothingView, errors=[Code.NOT_FOUND]
    )
    async def enable_webhook(webhook: str) -> Response:
        principal, hooks = await operator_of(core, request), _webhooks(core, webhook)
        audit.record(principal, caller_of(core, request), "webhook enabled", webhook=webhook)
        hooks.sender(webhook).resume()
        return success({})


def _webhooks(core: Core, name: str) -> Webhooks:
    core.webhooks.sender(name)
    return core.webhooks


def _since_ms(params: Params) -> int:
    text = params.optional("since")
    if text is None:
        return 0
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise invalid_field("since", "must be a time with a zone, such as 2026-01-31T12:00:00Z")
    return int(at.timestamp() * 1000)


def _webhook_entry(core: Core, sender: Sender, count: Count) -> WebhookView:
    """Return the entry of one webhook in answers: everything but its secrets. `attempts` and `lastError` are of this node."""
    failed = next((one for one in reversed(sender.recent) if one.error is not None), None)
    state = "stopped" if sender.is_stopped else "failing" if sender.is_failing else "ok"
    oldest_ms = count.oldest_ms
    return {
        "name": sender.name,
        "url": sender.config.url,
        "events": list(sender.config.events),
        "channels": list(sender.config.channels),
        "state": state,
        "pending": count.pending,
        "oldestSeconds": None if oldest_ms is None else max(core.clock.now_ms() - oldest_ms, 0) / 1000,
        "dead": count.dead,
        "dropped": core.webhooks.dropped.get(sender.name, 0),
        "inFlight": sender.in_flight,
        "attempts": dict(sender.attempts),
        "lastError": None if failed is None else failed.error,
        "lastErrorAt": None if failed is None else iso_ms(failed.at_ms),
    }


def _delivery_entry(delivery: Delivery) -> DeliveryView:
    return {
        "id": delivery.event_id,
        "type": delivery.type,
        "key": delivery.key[:MAX_ID_CHARACTERS],
        "seq": delivery.seq,
        "createdAt": iso_ms(delivery.created_ms),
        "attempts": delivery.attempts,
        "nextAt": None if delivery.next_ms is None else iso_ms(delivery.next_ms),
        "deadAt": None if delivery.dead_ms is None else iso_ms(delivery.dead_ms),
        "status": delivery.last_status,
        "error": delivery.last_error,
        "body": delivery.body,
    }


def _attempt_entry(attempt: Attempt) -> AttemptView:
    return {
        "id": attempt.event_id,
        "type": attempt.type,
        "at": iso_ms(attempt.at_ms),
        "attempt": attempt.number,
        "status": attempt.status,
        "error": attempt.error,
        "milliseconds": attempt.milliseconds,
    }
