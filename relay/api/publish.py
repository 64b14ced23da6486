"""`POST /v1/publish`: one publication, an array of them, or a stream of lines.

Lines are an ASGI application of their own in front of Quart, which would take in a body faster than it can be published.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from quart import Blueprint, Request, Response, request
from quart_trio import QuartTrio
from werkzeug.datastructures import Headers

from relay import logs, strictjson
from relay.api.app import decode_json, success
from relay.api.authentication import publisher_of
from relay.api.errors import error_answer
from relay.broker import Outcome
from relay.core import Core
from relay.errors import Code, ProtocolError, RequestError
from relay.models import Draft
from relay.principal import Principal
from relay.publishing import MAX_ITEM_BYTES

PATH = "/v1/publish"
LINES = "application/x-ndjson"
MAX_ERRORS = 100
"""Bad lines that the answer names; all are counted."""

Application = Callable[..., Awaitable[None]]

log = logs.get("relay.publish")


def blueprint(core: Core) -> Blueprint:
    """Return the route for one publication and for arrays."""
    routes = Blueprint("publish", __name__)
    limits = core.config.limits

    @routes.post(PATH)
    async def publish() -> Response:
        scope = scope_of(await publisher_of(core, request))
        request.max_content_length = limits.max_publish_bytes
        body = await request.body
        value = decode_json(body, request.mimetype)
        if not isinstance(value, list):
            draft = core.publishing.draft(value, scope=scope, size=len(body))
            [outcome] = await core.publishing.publish([draft])
            if isinstance(outcome, RequestError):
                raise outcome
            return success([_result(draft, outcome)])
        if len(value) > limits.max_publish_items:
            raise RequestError(Code.TOO_LARGE, f"An array may have at most {limits.max_publish_items} publications.")
        return success(await _publish_array(core, value, scope, len(body)))

    return routes


async def _publish_array(core: Core, items: list[object], scope: str, size: int) -> list[dict[str, Any]]:
    checked: list[Draft | RequestError] = []
    for item in items:
        try:
            # What an item came in is not known apart; only where it could be too large is it measured.
            item_size = len(strictjson.dumps(item)) if size > MAX_ITEM_BYTES else size // len(items)
            checked.append(core.publishing.draft(item, scope=scope, size=item_size))
        except RequestError as refusal:
            checked.append(refusal)
    drafts = [draft for draft in checked if isinstance(draft, Draft)]
    outcomes = iter(await core.publishing.publish(drafts) if drafts else [])
    return [_result(draft, next(outcomes)) if isinstance(draft, Draft) else _refusal(draft) for draft in checked]


def scope_of(principal: Principal) -> str:
    """Return whose idempotency keys a request's keys are."""
    return f"key:{principal.key_id}" if principal.key_id is not None else f"user:{principal.user_id}"


def _result(draft: Draft, outcome: Outcome) -> dict[str, Any]:
    if isinstance(outcome, RequestError):
        return _refusal(outcome)
    return {"channel": draft.channel.text, "offset": outcome.position.offset, "epoch": outcome.position.epoch}


def _refusal(refusal: RequestError) -> dict[str, Any]:
    return {"error": {"code": refusal.code.value, "message": refusal.message}}


def with_lines(core: Core, app: QuartTrio) -> Application:
    """Return an application that publishes streams of lines, and leaves everything else to `app`."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})  # sessions never come this way
        elif scope["type"] == "http" and scope["path"] == PATH and scope["method"] == "POST" and _is_lines(scope):
            await _answer_lines(core, app, scope, receive, send)
        else:
            await app(scope, receive, send)

    return application


def _is_lines(scope: Any) -> bool:
    return any(
        name == b"content-type" and value.partition(b";")[0].strip().lower() == LINES.encode()
        for name, value in scope["headers"]
    )


async def _answer_lines(core: Core, app: QuartTrio, scope: Any, receive: Any, send: Any) -> None:
    headers = Headers([(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]])
    http_request = Request("POST", "http", PATH, b"", headers, "", "1.1", scope, send_push_promise=_no_push)
    try:
        lines = _Lines(core, scope_of(await publisher_of(core, http_request)))
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return  # the publisher is gone; what came whole is published
            await lines.feed(message.get("body", b""))
            if not message.get("more_body", False):
                break
        await lines.end()
        status, body = 200, {"success": True, "status": 200, "data": lines.report()}
        more: list[tuple[bytes, bytes]] = []
    except RequestError as refusal:
        answer = error_answer(refusal, PATH, core.clock.now_ms())
        log.info("refused", path=PATH, status=answer.status, cause=refusal.message, errorId=answer.error_id)
        status, body = answer.status, dict(answer.body)
        # The rest of the body is not read: the connection is of no use for another request.
        more = [(name.encode(), value.encode()) for name, value in {**answer.headers, "Connection": "close"}.items()]
    payload = strictjson.dumps(body)
    head = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(payload)), *more]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": payload})


async def _no_push(path: str, headers: Headers) -> None:
    return None


class _Lines:
    """Publications as they arrive, a line each. Holds the line that is not complete, and nothing else."""

    def __init__(self, core: Core, scope: str) -> None:
        self._publishing = core.publishing
        self._scope = scope
        self._rest = b""
        self._skipping = False  # in the middle of a line that is too long
        self._line = 0
        self._published = 0
        self._failed = 0
        self._errors: list[dict[str, Any]] = []

    async def feed(self, data: bytes) -> None:
        """Publish every line that is complete now."""
        lines = (self._rest + data).split(b"\n") if self._rest else data.split(b"\n")
        self._rest = lines.pop()
        if self._skipping and lines:
            self._skipping = False
            lines.pop(0)
        await self._publish(lines)
        if self._skipping:
            self._rest = b""
        elif len(self._rest) > MAX_ITEM_BYTES + 1:
            self._line += 1
            self._fail(
                self._line, RequestError(Code.TOO_LARGE, f"A publication may have at most {MAX_ITEM_BYTES} bytes.")
            )
            self._skipping = True
            self._rest = b""

    async def end(self) -> None:
        """Publish a last line that has no end."""
        rest, self._rest = self._rest, b""
        await self._publish([rest])

    def report(self) -> dict[str, Any]:
        """Return what became of the lines."""
        return {"published": self._published, "failed": self._failed, "errors": self._errors}

    async def _publish(self, lines: list[bytes]) -> None:
        drafts: list[Draft] = []
        numbers: list[int] = []
        for line in lines:
            self._line += 1
            if not line or line.isspace():
                continue
            try:
                drafts.append(self._publishing.draft(strictjson.loads(line), scope=self._scope, size=len(line)))
                numbers.append(self._line)
            except ProtocolError as error:
                self._fail(self._line, RequestError(Code.INVALID_REQUEST, str(error)))
            except RequestError as refusal:
                self._fail(self._line, refusal)
        if not drafts:
            return
        try:
            outcomes = await self._publishing.publish(drafts)
        except RequestError as refusal:
            outcomes = [refusal] * len(drafts)
        for number, outcome in zip(numbers, outcomes, strict=True):
            if isinstance(outcome, RequestError):
                self._fail(number, outcome)
            else:
                self._published += 1

    def _fail(self, line: int, refusal: RequestError) -> None:
        self._failed += 1
        if len(self._errors) < MAX_ERRORS:
            self._errors.append({"line": line, "code": refusal.code.value, "message": refusal.message})
