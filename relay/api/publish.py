"""`POST /v1/publish`: one publication, an array of them, or a stream of lines, each published as it arrives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import Any, Literal, NotRequired, TypedDict

import trio
from quart import Blueprint, Response, request

from relay.access.publishing import MAX_ITEM_BYTES, Publishing, too_large
from relay.api.answers import decode_json
from relay.api.app import success
from relay.api.authentication import caller_of, publisher_of, while_valid
from relay.api.direct import LINES, DirectRequest, Route
from relay.api.operation import BACKEND, Success, describe
from relay.api.read_ahead import work_through
from relay.core import Core
from relay.ground import strictjson
from relay.ground.errors import Code, ProtocolError, RequestError
from relay.ground.schema import Schema, reference
from relay.model.principal import Principal
from relay.model.publication import Draft, Outcome

PATH = "/v1/publish"
MAX_ERRORS = 100
"""Bad lines that the answer names; all are counted."""
ITEMS_PER_TURN = 100
"""Items, or lines, that are checked before other tasks run."""


_ITEMS: Schema = {
    "type": "array",
    "items": {"anyOf": [reference("Item"), reference("Json")]},
    "description": "An item that is not valid is refused in its place. The others are published.",
}


class RefusalView(TypedDict):
    """The refusal of one item."""

    code: str
    message: str
    reason: NotRequired[str]


class ItemView(TypedDict):
    """The place of a published item. `skipped`: an item of this version or a later one was there before."""

    channel: str
    offset: int
    epoch: str
    skipped: NotRequired[Literal[True]]


class RefusedView(TypedDict):
    """The refusal of an item, in its place in the array."""

    error: RefusalView


class LineRefusalView(RefusalView):
    """The refusal of one line, which is numbered from 1."""

    line: int


class LinesView(TypedDict):
    """The outcome of a stream of lines. `errors` has the first of the lines that failed."""

    published: int
    failed: int
    errors: list[LineRefusalView]


def blueprint(core: Core) -> Blueprint:
    """Return the route for requests that are not answered directly: lines, and bodies in chunks."""
    routes = Blueprint("publish", __name__)

    @routes.post(PATH)
    @describe(
        "Publish one item, an array of items, or a stream of lines.",
        BACKEND,
        body={"anyOf": [reference("Item"), {**_ITEMS, "maxItems": core.config.limits.max_publish_items}]},
        bodies={LINES: {"type": "string", "description": "An item a line, each published as it arrives."}},
        media={"application/json": Success(list[ItemView | RefusedView] | LinesView)},
        errors=[Code.UNKNOWN_CHANNEL, Code.NOT_FOUND, Code.CONFLICT],
    )
    async def publish() -> Response:
        principal = await publisher_of(core, caller_of(core, request))
        if request.mimetype == LINES:
            lines = Lines(core.publishing, scope_of(principal))
            try:
                await work_through(request.body, lines.feed, while_reading=while_valid(core, principal))
            except RequestError as error:
                raise lines.stopped(error) from error
            await lines.end()
            return success(lines.report())
        request.max_content_length = core.config.limits.max_publish_bytes
        return success(await publish_document(core, principal, await request.body, request.mimetype))

    return routes


async def publish_directly(core: Core, request: DirectRequest) -> list[dict[str, Any]]:
    """Publish what a request says whose body has a length. Raises as `publish_document`, `publisher_of` and `request.body`."""
    principal = await publisher_of(core, request.caller)
    body = await request.body(core.config.limits.max_publish_bytes)
    return await publish_document(core, principal, body, request.mimetype)


ROUTE = Route(publish_directly, leaves=frozenset({LINES}))


def allow_item(core: Core) -> None:
    """Let the body of Quart's request be as large as one item for the namespace that allows the most.

    Call it after the caller's right was checked, and before the body is read. `limits.max_publish_bytes` bounds it too.
    """
    request.max_content_length = min(core.config.limits.max_publish_bytes, core.publishing.max_item_bytes)


async def publish_document(core: Core, principal: Principal, body: bytes, mimetype: str) -> list[dict[str, Any]]:
    """Publish one item or an array, and return what became of each. Always a checkpoint, but for an empty array.

    Raises:
        RequestError: the body cannot be read, there are too many items, or a single one was refused.
    """
    scope = scope_of(principal)
    value = decode_json(body, mimetype)
    if isinstance(value, list):
        return await _publish_array(core, value, scope, body)
    draft = core.publishing.draft(value, scope=scope, size=len(body), document=body)
    [outcome] = await core.publishing.publish_many([draft])
    if isinstance(outcome, RequestError):
        raise outcome
    return [_result(draft, outcome)]


def scope_of(principal: Principal) -> str:
    """Return whose idempotency keys a request's keys are."""
    return f"key:{principal.key_id}" if principal.key_id is not None else f"user:{principal.user_id}"


async def _publish_array(core: Core, items: list[object], scope: str, body: bytes) -> list[dict[str, Any]]:
    maximum = core.config.limits.max_publish_items
    if len(items) > maximum:
        raise RequestError(Code.TOO_LARGE, f"An array may have at most {maximum} publications.")
    drafts: list[Draft] = []
    refused: list[tuple[int, RequestError]] = []
    for number, (item, (size, document)) in enumerate(zip(items, _forms(core, items, body), strict=True)):
        try:
            drafts.append(core.publishing.draft(item, scope=scope, size=size, document=document))
        except RequestError as refusal:
            refused.append((number, refusal))
        if number % ITEMS_PER_TURN == ITEMS_PER_TURN - 1:
            await trio.lowlevel.checkpoint()
    outcomes = await core.publishing.publish_many(drafts) if drafts else []
    results = list(map(_result, drafts, outcomes))
    for number, error in refused:
        results.insert(number, _refusal(error))
    return results


def _forms(core: Core, items: Sequence[object], body: bytes) -> Iterator[tuple[int, bytes | None]]:
    """Yield the size of each item in bytes, and the item as it is written if that counts for any."""
    if _any_keeps_form(core, items):  # splitting costs as much as reading
        for document in strictjson.elements(body):
            yield len(document), document
        return
    # Items are measured one by one only where one could be too large.
    together, count = len(body), len(items)
    for start in range(0, len(items), ITEMS_PER_TURN):
        part = items[start : start + ITEMS_PER_TURN]
        if len(body) > MAX_ITEM_BYTES:
            together, count = len(strictjson.dumps(part)), len(part)
        for item in part:
            yield together // count if together <= MAX_ITEM_BYTES else len(strictjson.dumps(item)), None


def _any_keeps_form(core: Core, items: Sequence[object]) -> bool:
    names = {item.get("channel") for item in items if isinstance(item, dict) and isinstance(item.get("channel"), str)}
    return any(core.publishing.keeps_form({"channel": name}) for name in names)


def _result(draft: Draft, outcome: Outcome) -> dict[str, Any]:
    if isinstance(outcome, RequestError):
        return _refusal(outcome)
    position = outcome.position
    result: dict[str, Any] = {"channel": draft.channel.text, "offset": position.offset, "epoch": position.epoch}
    if outcome.skipped:
        result["skipped"] = True
    return result


def _refusal(refusal: RequestError) -> dict[str, Any]:
    return {"error": _described(refusal)}


def _described(refusal: RequestError) -> dict[str, Any]:
    described = {"code": refusal.code.value, "message": refusal.message}
    if refusal.reason is not None:
        described["reason"] = refusal.reason.value
    return described


class Lines:
    """Publications as they arrive, a line each. Holds the line that is not complete, and nothing else."""

    def __init__(self, publishing: Publishing, scope: str) -> None:
        self._publishing = publishing
        self._scope = scope
        self._rest = b""
        self._skipping = False  # in the middle of a line that is too long
        self._line = 0
        self._published = 0
        self._failed = 0
        self._errors: list[dict[str, Any]] = []

    async def feed(self, data: bytes) -> None:
        """Publish every line that `data` ends."""
        if self._skipping:
            _, end, data = data.partition(b"\n")
            if not end:
                return
            self._skipping = False
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        if lines:
            await self._publish(lines)
        if len(self._rest) > self._publishing.max_item_bytes + 1:  # a carriage return may belong to the end of the line
            self._rest = b""
            self._skipping = True
            self._line += 1
            self._fail(self._line, too_large(self._publishing.max_item_bytes))

    async def end(self) -> None:
        """Publish a last line that has no end."""
        rest, self._rest = self._rest, b""
        await self._publish([rest])

    def stopped(self, by: RequestError) -> RequestError:
        """Return what to say if no more lines are taken: up to where they were."""
        taken = f"Of your lines the first {self._line} were taken, and {self._published} of them published; none after them."
        return RequestError(by.code, f"{by.message} {taken}", retry_after=by.retry_after)

    def report(self) -> dict[str, Any]:
        """Return what became of the lines."""
        return {"published": self._published, "failed": self._failed, "errors": self._errors}

    async def _publish(self, lines: Sequence[bytes]) -> None:
        drafts: list[Draft] = []
        numbers: list[int] = []
        failed: list[tuple[int, RequestError]] = []
        for number, line in enumerate(lines, self._line + 1):
            if (number - self._line) % ITEMS_PER_TURN == 0:
                await trio.lowlevel.checkpoint()
            if not line or line.isspace():
                continue
            try:
                drafts.append(self._draft(line))
                numbers.append(number)
            except RequestError as refusal:
                failed.append((number, refusal))
        self._line += len(lines)
        for number, outcome in zip(numbers, await self._outcomes(drafts), strict=True):
            if isinstance(outcome, RequestError):
                failed.append((number, outcome))
            else:
                self._published += 1
        for number, error in sorted(failed, key=itemgetter(0)):
            self._fail(number, error)

    def _draft(self, line: bytes) -> Draft:
        if line.endswith(b"\r"):
            line = line[:-1]
        self._publishing.check_size(len(line))  # before it costs anything
        try:
            item = strictjson.loads(line)
        except ProtocolError as error:
            raise RequestError(Code.INVALID_REQUEST, str(error)) from error
        return self._publishing.draft(item, scope=self._scope, size=len(line), document=line)

    async def _outcomes(self, drafts: list[Draft]) -> list[Outcome]:
        try:
            return await self._publishing.publish_many(drafts) if drafts else []
        except RequestError as refusal:
            return [refusal] * len(drafts)

    def _fail(self, number: int, refusal: RequestError) -> None:
        self._failed += 1
        if len(self._errors) < MAX_ERRORS:
            self._errors.append({"line": number, **_described(refusal)})
