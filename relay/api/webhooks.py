"""`/v1/admin/webhooks...`: webhooks with their events, for the console and the command line. For operators."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from quart import Blueprint, Response, request

from relay.access.steering import MAX_PAGE
from relay.api import audit
from relay.api.app import json_body, success
from relay.api.authentication import caller_of, operator_of, reader_of
from relay.api.params import Params
from relay.core import Core
from relay.ground.clock import iso_ms
from relay.ground.errors import invalid_field
from relay.hooks.sender import Attempt, Sender
from relay.hooks.webhooks import Webhooks
from relay.model.namespaces import MAX_ID_CHARACTERS
from relay.store.outbox import Count, Delivery

PREFIX = "/v1/admin/webhooks"
STATES = ("pending", "dead", "recent")


def blueprint(core: Core) -> Blueprint:
    """Return the routes. Each checks the right of the caller before it reads a parameter."""
    routes = Blueprint("webhooks", __name__, url_prefix=PREFIX)
    _add_views(routes, core)
    _add_changes(routes, core)
    return routes


def _add_views(routes: Blueprint, core: Core) -> None:
    @routes.get("")
    async def webhooks() -> Response:
        await reader_of(core, request)
        hooks, entries = core.webhooks, []
        for name, sender in list(hooks.senders.items()):
            entries.append(_webhook_entry(core, sender, await hooks.count(name)))
        return success({"webhooks": entries})

    @routes.get("/<name>/deliveries")
    async def deliveries(name: str) -> Response:
        await reader_of(core, request)
        hooks, query = _webhooks(core, name), Params(request.args)
        state = query.optional("state") or "pending"
        if state not in STATES:
            raise invalid_field("state", f"must be one of {', '.join(STATES)}")
        if state == "recent":
            attempts = [_attempt_entry(one) for one in reversed(hooks.sender(name).recent)]
            return success({"deliveries": attempts, "cursor": None})
        after, limit = _number(query, "cursor", 0, 10**15), _number(query, "limit", MAX_PAGE, MAX_PAGE)
        found, more = await hooks.page(name, dead=state == "dead", after=after, limit=max(limit, 1))
        cursor = str(found[-1].id) if more else None
        return success({"deliveries": [_delivery_entry(one) for one in found], "cursor": cursor})


def _add_changes(routes: Blueprint, core: Core) -> None:
    async def change(name: str, action: str) -> tuple[Webhooks, Params]:
        """Check the right of the caller, read the parameters, and write the line of the change."""
        principal = await operator_of(core, request)
        hooks, params = _webhooks(core, name), Params(await json_body())
        audit.record(principal, caller_of(core, request), action, webhook=name, event=params.optional("id"))
        return hooks, params

    @routes.post("/<name>/test")
    async def test(name: str) -> Response:
        hooks, _ = await change(name, "webhook tested")
        return success({"id": await hooks.test(name)})

    @routes.post("/<name>/replay")
    async def replay(name: str) -> Response:
        hooks, params = await change(name, "dead letters replayed")
        count = await hooks.replay(name, event_id=params.optional("id"), since_ms=_since_ms(params))
        return success({"replayed": count})

    @routes.post("/<name>/discard")
    async def discard(name: str) -> Response:
        hooks, params = await change(name, "dead letters discarded")
        return success({"discarded": await hooks.discard(name, event_id=params.optional("id"))})

    @routes.post("/<name>/enable")
    async def enable(name: str) -> Response:
        hooks, _ = await change(name, "webhook enabled")
        hooks.sender(name).resume()
        return success({})


def _webhooks(core: Core, name: str) -> Webhooks:
    core.webhooks.sender(name)
    return core.webhooks


def _number(query: Params, name: str, default: int, maximum: int) -> int:
    text = query.optional(name) or str(default)
    if not (text.isascii() and text.isdigit() and len(text) < 17 and int(text) <= maximum):
        raise invalid_field(name, f"must be a number up to {maximum}")
    return int(text)


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


def _webhook_entry(core: Core, sender: Sender, count: Count) -> Mapping[str, Any]:
    """Return what is told about one webhook: everything but its secrets. `attempts` and `lastError` are of this node."""
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


def _delivery_entry(delivery: Delivery) -> Mapping[str, Any]:
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


def _attempt_entry(attempt: Attempt) -> Mapping[str, Any]:
    return {
        "id": attempt.event_id,
        "type": attempt.type,
        "at": iso_ms(attempt.at_ms),
        "attempt": attempt.number,
        "status": attempt.status,
        "error": attempt.error,
        "milliseconds": attempt.milliseconds,
    }
