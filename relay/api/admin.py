"""`/v1/admin/...`: connections, channels and limits, for the console and the command line. Operators only."""

from __future__ import annotations

from typing import cast

import attrs
from quart import Blueprint, Response, request

from relay.access.all_nodes import MAX_CURSOR_CHARACTERS
from relay.access.busiest import PERIOD
from relay.access.explaining import Explanation, explain, explain_token
from relay.api import audit
from relay.api.admin_views import (
    AdminHistoryView,
    AdminPublicationView,
    BusiestView,
    ChannelsView,
    ConnectionsView,
    ConnectionView,
    DisconnectedView,
    ExplanationView,
    LimitsView,
    OneConnectionView,
    UnsubscribedView,
)
from relay.api.answers import decode_json
from relay.api.app import json_body, success
from relay.api.authentication import caller_of, operator_of, reader_of
from relay.api.operation import CONSOLE_OPERATOR, CONSOLE_READER, describe
from relay.api.params import (
    CHANNEL,
    FLAG,
    LONG_TEXT,
    NUMBERED_PAGE,
    OPTIONAL,
    PAGE,
    PATTERN,
    TEXTS,
    USER_OR_CLIENT,
    Params,
    number_cursor,
    page_query,
)
from relay.api.publish import allow_item
from relay.api.views import PublishedView, published, with_unanswered
from relay.auth.verifier import principal_of_key
from relay.core import Core
from relay.ground import strictjson
from relay.ground.clock import iso_ms
from relay.ground.errors import Code, Reason, RefusalReason, RequestError, invalid_field
from relay.ground.schema import Fields, Param, reference
from relay.model.namespaces import MAX_CHANNEL_CHARACTERS, MAX_ID_CHARACTERS
from relay.model.principal import Principal
from relay.model.publication import Publication
from relay.model.subscription_proof import SubscriptionProof

PREFIX = "/v1/admin"

_QUERY_TEXT = Param({"type": "string", "maxLength": MAX_ID_CHARACTERS})
_QUERY_CHANNEL = Param({"type": "string", "format": "channel", "maxLength": MAX_CHANNEL_CHARACTERS})
_CHANNEL_TEXT = Param({"type": "string", "minLength": 1, "maxLength": MAX_CHANNEL_CHARACTERS}, required=True)
_CHANNEL_CURSOR = Param(
    {"type": "string", "maxLength": MAX_CHANNEL_CHARACTERS, "description": "The cursor of the last page."}
)
_PLACES = Param(
    {
        "type": "string",
        "pattern": r"^([^.-]*-[0-9]{1,15}(\.[^.-]*-[0-9]{1,15})*)?$",
        "maxLength": MAX_CURSOR_CHARACTERS,
        "description": "The cursor of the last page.",
    }
)
_TARGET: Fields = {"user": USER_OR_CLIENT, "client": USER_OR_CLIENT}


def blueprint(core: Core) -> Blueprint:
    """Return the routes. Each checks the right of the caller before it reads a parameter."""
    routes = Blueprint("admin", __name__, url_prefix=PREFIX)
    _add_views(routes, core)
    _add_figures(routes, core)
    _add_why(routes, core)
    _add_connection(routes, core)
    _add_changes(routes, core)
    _add_publish(routes, core)
    return routes


def _add_views(routes: Blueprint, core: Core) -> None:
    @routes.get("/connections")
    @describe(
        "List the connections.",
        CONSOLE_READER,
        query={**PAGE, "cursor": _PLACES, "user": _QUERY_TEXT, "dialect": _QUERY_TEXT, "channel": _QUERY_CHANNEL},
        answer=ConnectionsView,
        errors=[Code.UNKNOWN_CHANNEL],
    )
    async def connections() -> Response:
        await reader_of(core, request)
        query, limit = page_query()
        name = query.optional("channel", MAX_CHANNEL_CHARACTERS)
        page = await core.all_nodes.connections(
            cursor=query.long_text("cursor"),
            limit=limit,
            user_id=query.optional("user"),
            dialect=query.optional("dialect"),
            channel=None if name is None else core.namespaces.parse(name),
        )
        entries = cast(list[ConnectionView], page.entries)
        data: ConnectionsView = {"connections": entries, "cursor": page.cursor, "total": page.total}
        return success(with_unanswered(data, page.unanswered))

    @routes.get("/channels")
    @describe(
        "List the channels with a subscriber.",
        CONSOLE_READER,
        query={**PAGE, "cursor": _CHANNEL_CURSOR, "pattern": PATTERN},
        answer=ChannelsView,
    )
    async def channels() -> Response:
        await reader_of(core, request)
        query, limit = page_query()
        after = query.optional("cursor", MAX_CHANNEL_CHARACTERS) or ""
        found, unanswered = await core.all_nodes.channels(
            query.optional("pattern", MAX_CHANNEL_CHARACTERS) or "*", after=after, limit=limit
        )
        cursor = found[-1].name if len(found) == limit else None
        data = {"channels": [attrs.asdict(one) for one in found], "cursor": cursor}
        return success(with_unanswered(cast(ChannelsView, data), unanswered))


def _add_figures(routes: Blueprint, core: Core) -> None:
    @routes.get("/busiest")
    @describe(
        "List the channels with the most deliveries.",
        CONSOLE_READER,
        query={"limit": PAGE["limit"]},
        answer=BusiestView,
    )
    async def busiest() -> Response:
        await reader_of(core, request)
        _, limit = page_query()
        found = await core.this_node.busiest.find(limit)
        return success({"seconds": PERIOD, "channels": [attrs.asdict(one) for one in found]})

    @routes.get("/limits")
    @describe("Return the limits, and the places that are taken.", CONSOLE_READER, answer=LimitsView)
    async def limits() -> Response:
        await reader_of(core, request)
        places = {
            dialect: [{"used": one.count, "maximum": one.maximum} for one in counters]
            for dialect, counters in core.metrics.places.items()
        }
        return success({"limits": attrs.asdict(core.config.limits), "places": places})


def _add_why(routes: Blueprint, core: Core) -> None:
    @routes.post("/why")
    @describe(
        "Explain why a user may or may not subscribe or publish.",
        CONSOLE_READER,
        body={
            "channel": _CHANNEL_TEXT,
            "action": Param({"enum": ["subscribe", "publish", "", None]}),
            "user": OPTIONAL,
            "token": LONG_TEXT,
            "key": OPTIONAL,
        },
        answer=ExplanationView,
    )
    async def why() -> Response:
        await reader_of(core, request)
        params = Params(await json_body())
        action = params.optional("action") or "subscribe"
        if action not in ("subscribe", "publish"):
            raise invalid_field("action", "must be subscribe or publish")
        channel = params.text("channel", MAX_CHANNEL_CHARACTERS)
        try:
            principal, proof = await _asked_about(core, params)
        except RequestError as refusal:
            if refusal.code is not Code.UNAUTHORIZED:
                raise
            return success(_explanation_entry(explain_token(refusal)))
        explanation = await explain(
            core.namespaces, core.rooms, core.rights, principal, channel, publishing=action == "publish", proof=proof
        )
        return success(_explanation_entry(explanation))


def _add_connection(routes: Blueprint, core: Core) -> None:
    @routes.get("/connections/<connection_id>")
    @describe("Show one connection.", CONSOLE_READER, answer=OneConnectionView, errors=[Code.NOT_FOUND])
    async def connection(connection_id: str) -> Response:
        await reader_of(core, request)
        found, unanswered = await core.all_nodes.connection(connection_id)
        if found is None:
            unknown = f", or is one of a node that does not answer: {', '.join(unanswered)}" if unanswered else ""
            raise RequestError(Code.NOT_FOUND, f"No connection has this id: it has ended{unknown}.")
        return success(found)

    @routes.get("/history")
    @describe(
        "List the publications of a channel that are kept, the newest first.",
        CONSOLE_READER,
        query={**NUMBERED_PAGE, "channel": CHANNEL},
        answer=AdminHistoryView,
        errors=[Code.UNKNOWN_CHANNEL],
    )
    async def history() -> Response:
        await reader_of(core, request)
        query, limit = page_query()
        channel = core.namespaces.parse(query.text("channel", MAX_CHANNEL_CHARACTERS))
        before = number_cursor(query)
        page = await core.reading.page(channel, limit=limit, before=before or None)
        head, found = page.head, page.publications
        cursor = str(found[-1].offset) if found and found[-1].offset > 1 else None
        shown = [history_entry(one) for one in found]
        return success({"publications": shown, "offset": head.offset, "epoch": head.epoch, "cursor": cursor})


def _add_changes(routes: Blueprint, core: Core) -> None:
    @routes.post("/disconnect")
    @describe(
        "End connections.",
        CONSOLE_OPERATOR,
        body={**_TARGET, "whitelist": TEXTS, "reconnect": FLAG},
        answer=DisconnectedView,
    )
    async def disconnect() -> Response:
        principal, caller = await operator_of(core, request), caller_of(core, request)
        params = Params(await json_body())
        user, client = _target(params)
        spared, reconnect = params.texts("whitelist"), params.flag("reconnect")
        reason = Reason.RECONNECT if reconnect else Reason.DISCONNECTED
        audit.record(principal, caller, "disconnect", user=user, client=client, reason=reason.text)
        ended, unanswered = await core.all_nodes.disconnect(
            user_id=user, connection_id=client, spared=spared, reason=reason
        )
        data: DisconnectedView = {"disconnected": ended}
        return success(with_unanswered(data, unanswered))

    @routes.post("/unsubscribe")
    @describe(
        "End subscriptions.",
        CONSOLE_OPERATOR,
        body={**_TARGET, "channel": CHANNEL},
        answer=UnsubscribedView,
        errors=[Code.UNKNOWN_CHANNEL],
    )
    async def unsubscribe() -> Response:
        principal, caller = await operator_of(core, request), caller_of(core, request)
        params = Params(await json_body())
        (user, client), channel = _target(params), core.namespaces.parse(params.text("channel", MAX_CHANNEL_CHARACTERS))
        audit.record(principal, caller, "unsubscribe", user=user, client=client, channel=channel.text)
        ended, unanswered = await core.all_nodes.unsubscribe(channel, user_id=user, connection_id=client)
        data: UnsubscribedView = {"unsubscribed": ended}
        return success(with_unanswered(data, unanswered))


def _add_publish(routes: Blueprint, core: Core) -> None:
    @routes.post("/publish")
    @describe(
        "Publish one item.",
        CONSOLE_OPERATOR,
        body=reference("Item"),
        answer=PublishedView,
        errors=[Code.UNKNOWN_CHANNEL, Code.NOT_FOUND, Code.CONFLICT],
    )
    async def publish() -> Response:
        principal, caller = await operator_of(core, request), caller_of(core, request)
        allow_item(core)
        body = await request.body
        item = decode_json(body, request.mimetype)
        draft = core.publishing.draft(item, scope=f"admin:{principal.user_id}", size=len(body), document=body)
        audit.record(principal, caller, "publish", channel=draft.channel.text, type=draft.type)
        [outcome] = await core.publishing.publish_many([draft])
        if isinstance(outcome, RequestError):
            raise outcome
        return success(published(draft.channel.text, outcome))


def _target(params: Params) -> tuple[str | None, str | None]:
    user, client = params.optional("user"), params.optional("client")
    if user is None and client is None:
        raise invalid_field("user", "is required, or client, the id of a connection")
    return user, client


async def _asked_about(core: Core, params: Params) -> tuple[Principal | None, SubscriptionProof | None]:
    """Return the principal of a token, of a key's id, or of a user id; None for a client that is not authenticated.

    The second has the claims of the token if it is a subscription token.

    Raises:
        RequestError: `UNAUTHORIZED`, the token is not accepted; `INVALID_REQUEST`, it is another user's, or no key is valid
            that has this id.
    """
    secret, user = params.long_text("token"), params.optional("user")
    if secret is not None:
        try:
            principal = await core.auth.tokens.authenticate(secret)
        except RequestError as refusal:
            if refusal.reason is not RefusalReason.WRONG_TOKEN:
                raise
            proof = await core.auth.tokens.subscription(secret)
            name = proof.user_id if user is None else user
            return None if name is None else Principal(name), proof
        if user not in (None, principal.user_id):
            raise invalid_field("token", f"is one of the user {principal.user_id}")
        return principal, None
    key_id = params.optional("key")
    if key_id is not None:
        key = await core.auth.keys.get(key_id)
        if key is None or key.revoked_at is not None:
            raise invalid_field("key", "is not the id of a key that is valid")
        return principal_of_key(key), None
    return None if user is None else Principal(user), None


def history_entry(publication: Publication) -> AdminPublicationView:
    """Return the entry of one publication of a channel in answers."""
    return {
        "type": publication.type,
        "offset": publication.offset,
        "publishedAt": iso_ms(publication.published_ms),
        "data": strictjson.embedded(publication.json),
    }


def _explanation_entry(explanation: Explanation) -> ExplanationView:
    return {
        "allowed": explanation.allowed,
        "code": None if explanation.code is None else explanation.code.value,
        "message": explanation.message,
        "change": explanation.change,
        "steps": [{"check": step.check, "found": step.found} for step in explanation.steps],
    }
