"""Turns the items that a backend or a client sends into drafts, which it checks and completes, and publishes drafts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from relay.broker.broker import Broker
from relay.broker.excluded import Excluded
from relay.broker.signal import Signal
from relay.broker.subscription import own_subscriber
from relay.chat.messages import Messages
from relay.chat.notifications import Notifications
from relay.config.namespaces import TYPE_PATTERN
from relay.ground import strictjson
from relay.ground.clock import Clock
from relay.ground.errors import Code, FieldError, RefusalReason, RequestError, invalid_field
from relay.ground.schema import Schema, reference
from relay.model.namespaces import ChannelName, Namespaces, Record, complete
from relay.model.publication import Draft, Idempotency, Outcome
from relay.sessions.connections import Connections

MAX_ITEM_BYTES = 65_536
"""Bytes of one item for a built-in namespace, so that a publication fits into every outbox."""
MAX_OTHER_BYTES = 4096
"""Bytes of an item beside its data. A channel's name, a type and a key may take half of them."""
MAX_KEY_CHARACTERS = 128
"""Length of an idempotency key."""
MAX_CHANNELS_CACHED = 10_000
"""Parsed channel names in the cache. A backend publishes to the same channels again and again."""
MAX_UNKNOWN_NAMED = 10
"""Unknown fields of one item that its refusal names."""
MAX_FIELD_CHARACTERS = 64
"""Characters of each unknown field that the refusal repeats."""

MAX_CONNECTION_ID_CHARACTERS = 64
"""Length of the id of a connection."""
MAX_VERSION = 2**63 - 1
"""The highest version: the store keeps 64 bits."""

ITEM: Schema = {
    "type": "object",
    "properties": {
        "channel": reference("Channel"),
        "data": reference("Json"),
        "type": {"type": ["string", "null"], "pattern": f"^{TYPE_PATTERN}$"},
        "idempotencyKey": {"type": ["string", "null"], "minLength": 1, "maxLength": MAX_KEY_CHARACTERS},
        "exclude": {"type": "string", "minLength": 1, "maxLength": MAX_CONNECTION_ID_CHARACTERS},
        "version": {"type": "integer", "minimum": 0, "maximum": MAX_VERSION},
    },
    "required": ["channel", "data"],
    "additionalProperties": False,
}
"""The schema of an item. Each built-in namespace asks for more: see the handbook's page on publishing."""
_FIELDS = frozenset(ITEM["properties"])


class Publishing:
    """Publishes the items of backends, and the signals of dialects."""

    def __init__(
        self,
        namespaces: Namespaces,
        broker: Broker,
        messages: Messages,
        notifications: Notifications,
        connections: Connections,
        clock: Clock,
        *,
        idempotency_period: float,
    ) -> None:
        """`idempotency_period`: seconds for which an idempotency key counts once."""
        self._namespaces = namespaces
        self._broker = broker
        self._connections = connections
        self._prepare: Mapping[Record, Callable[[Draft], None]] = {
            Record.MESSAGE: messages.prepare_published,
            Record.NOTIFICATION: notifications.prepare_published,
        }
        self._clock = clock
        self._idempotency_period = idempotency_period
        self._channels: dict[str, ChannelName] = {}

    @property
    def max_item_bytes(self) -> int:
        """Bytes of one item in the namespace that allows the most."""
        return max(MAX_ITEM_BYTES, self._namespaces.max_data_bytes + MAX_OTHER_BYTES)

    @property
    def cached_count(self) -> int:
        """The number of parsed channel names in the cache."""
        return len(self._channels)

    def forget_channels(self) -> None:
        """Forget the parsed channel names, because the namespaces have changed."""
        self._channels.clear()

    def draft(self, item: object, *, scope: str, size: int, document: bytes | None = None) -> Draft:
        """Return the draft of one decoded item, which came in `size` bytes.

        An idempotency key counts once within `scope`, which names the caller. `document` is the item as it came: in a
        namespace of the configuration the data is kept as it is written there.

        Raises:
            RequestError: the item is not valid. The error names each wrong field.
        """
        self.check_size(size)
        if not isinstance(item, dict):
            raise RequestError(Code.INVALID_REQUEST, "A publication must be a JSON object.")
        # Checked by hand: cattrs takes 2.3 microseconds for an item and this 0.3, of the 20 that publishing one takes.
        name, data, type_, key = item.get("channel"), item.get("data"), None, None
        if not isinstance(name, str) or not (isinstance(data, dict) or self._takes_any(item)):
            if isinstance(name, str):
                self._parse(name)  # what data a channel takes is only known of one that may exist
            raise _refused(_problems(item, any_data=self.keeps_form(item)))
        if len(item) > 2:  # beside channel and data
            if not _has_options(item):
                raise _refused(_problems(item, any_data=self.keeps_form(item)))
            type_, key = item.get("type"), item.get("idempotencyKey")
        channel = self._channels.get(name) or self._parse(name)
        if channel.namespace.built_in and size > MAX_ITEM_BYTES:
            raise too_large(MAX_ITEM_BYTES)
        type_, completed = complete(channel, type_, data)
        draft = Draft(channel, type_, completed, self._clock.now_ms())
        draft.size = size
        if key is not None:
            # Names of channels and ids of users may have spaces, but no line break.
            draft.idempotency = Idempotency(f"{channel.text}\n{scope}", key, self._idempotency_period)
        if not channel.namespace.built_in:
            draft.keep(None if document is None else strictjson.member(document, "data"))
            _check_size(draft)
        if len(item) > 2:  # beside channel and data
            self._add_options(draft, item)
        record = channel.namespace.record
        if record is not None and type_ == channel.namespace.default_type:
            self._prepare[record](draft)
        return draft

    def check_size(self, size: int) -> None:
        """Raise unless an item may have `size` bytes in some namespace."""
        if size > MAX_ITEM_BYTES and size > self.max_item_bytes:
            raise too_large(self.max_item_bytes)

    def keeps_form(self, item: object) -> bool:
        """Return whether the data of an item is kept as it is written: in a namespace of the configuration."""
        name = item.get("channel") if isinstance(item, dict) else None
        namespace = self._namespaces.of(name) if isinstance(name, str) else None
        return namespace is not None and not namespace.built_in

    def _takes_any(self, item: Mapping[str, Any]) -> bool:
        return "data" in item and self.keeps_form(item)

    def _add_options(self, draft: Draft, item: Mapping[str, Any]) -> None:
        version, exclude = item.get("version"), item.get("exclude")
        if version is not None and not draft.channel.namespace.history_size:
            raise invalid_field("version", "cannot be compared in a namespace that keeps nothing (history_size = 0)")
        draft.version = None if version is None else int(version)
        if exclude is not None:
            self.exclude(draft, exclude)

    def exclude(self, draft: Draft, connection_id: str) -> None:
        """Leave one connection out of the subscribers that get a draft. An unknown id is ignored: it may have ended.

        The connection may be one of another node.
        """
        draft.excluded = connection_id
        subscriber = own_subscriber(self._connections.get(connection_id))
        if subscriber is not None:
            draft.origin = Excluded(subscriber, draft.channel)

    def _parse(self, name: str) -> ChannelName:
        try:
            channel = self._namespaces.parse(name)
        except RequestError as refusal:
            if refusal.reason is RefusalReason.UNKNOWN_NAMESPACE:  # a backend may know the others
                names = ", ".join(row.name for row in self._namespaces)
                message = f"{refusal.message} There are: {names}."
                raise RequestError(refusal.code, message, fields=refusal.fields, reason=refusal.reason) from None
            raise
        if len(self._channels) >= MAX_CHANNELS_CACHED:
            self._channels.clear()
        self._channels[name] = channel
        return channel

    async def publish_many(self, drafts: Sequence[Draft]) -> list[Outcome]:
        """Publish drafts, in order within each channel, and return the outcome of each. Always a checkpoint.

        Raises:
            RequestError: the store is not available, and no draft was published.
        """
        return await self._broker.publish_many(drafts)

    def signal(self, signal: Signal) -> None:
        """Send a signal to the current subscribers of its channel, on every node."""
        self._broker.signal(signal)


def too_large(max_bytes: int = MAX_ITEM_BYTES) -> RequestError:
    """Return the refusal of an item that is too large."""
    return RequestError(Code.TOO_LARGE, f"A publication may have at most {max_bytes} bytes.")


def _check_size(draft: Draft) -> None:
    maximum = draft.channel.namespace.max_data_bytes
    if len(draft.encode()) > maximum:
        name = draft.channel.namespace.name
        raise RequestError(Code.TOO_LARGE, f"The data of a publication to {name} may have at most {maximum} bytes.")


def _has_options(item: Mapping[str, Any]) -> bool:
    """Return whether the fields of an item beside channel and data are valid."""
    type_, key = item.get("type"), item.get("idempotencyKey")
    return (
        (type_ is None or isinstance(type_, str))
        and (key is None or (isinstance(key, str) and 0 < len(key) <= MAX_KEY_CHARACTERS))
        and _FIELDS.issuperset(item)
        and ("version" not in item or _is_version(item["version"]))
        and ("exclude" not in item or _is_connection_id(item["exclude"]))
    )


def _is_version(value: object) -> bool:
    if isinstance(value, float):  # JSON has one kind of number, and 1.0 is an integer in it
        return value.is_integer() and 0 <= value <= MAX_VERSION
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_VERSION


def _is_connection_id(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_CONNECTION_ID_CHARACTERS


def _refused(problems: Sequence[FieldError]) -> RequestError:
    summary = "; ".join(f"{problem.field} {problem.message}" for problem in problems)
    return RequestError(Code.INVALID_REQUEST, summary, fields=problems)


def _problems(item: dict[str, Any], *, any_data: bool) -> list[FieldError]:
    """Return every problem with the form of an item that is known to have one."""
    problems = []
    if not isinstance(item.get("channel"), str):
        problems.append(FieldError("channel", "is required and must be a text"))
    if not isinstance(item.get("type"), str | None):
        problems.append(FieldError("type", "must be a text"))
    if any_data and "data" not in item:
        problems.append(FieldError("data", "is required"))
    elif not any_data and not isinstance(item.get("data"), dict):
        problems.append(FieldError("data", "is required and must be an object"))
    key = item.get("idempotencyKey")
    if key is not None and not (isinstance(key, str) and 0 < len(key) <= MAX_KEY_CHARACTERS):
        problems.append(FieldError("idempotencyKey", f"must be a text of 1 to {MAX_KEY_CHARACTERS} characters"))
    if "version" in item and not _is_version(item["version"]):
        problems.append(FieldError("version", f"must be an integer from 0 to {MAX_VERSION}"))
    if "exclude" in item and not _is_connection_id(item["exclude"]):
        problems.append(FieldError("exclude", "must be the id of a connection"))
    # The caller chose the names of these fields, so they are repeated up to a bound.
    unknown = [name for name in item if name not in _FIELDS][:MAX_UNKNOWN_NAMED]
    problems += [FieldError(name[:MAX_FIELD_CHARACTERS], "is not a field of a publication") for name in unknown]
    return problems
