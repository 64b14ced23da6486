"""The namespaces: the rules for their channels' data, their history, and their treatment of slow clients.

A channel's name is `<namespace>:<id>`, or the namespace alone if it has only one channel. A name without a colon belongs
to the namespace `default`, if that is configured. Everything that differs from namespace to namespace is a column of the
table below: some rows are built in, the others come from the configuration.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from relay.config.namespaces import BUILT_IN, TYPE_PATTERN, BuiltInConfig, NamespaceConfig, Options
from relay.ground.errors import Code, FieldError, RefusalReason, RequestError, invalid_field
from relay.model import data_checks

if TYPE_CHECKING:
    from relay.config.tree import Config

MAX_ID_CHARACTERS = 256
"""Length of a channel's id. User ids are the longest ids, and have the same bound."""
MAX_CHANNEL_CHARACTERS = 32 + 1 + MAX_ID_CHARACTERS
"""Length of a channel's full name: a namespace, a colon and an id."""
ROOM_ID_PATTERN = "[A-Za-z0-9_-]{1,64}"
"""The form of the id of a room."""
ROOM_ID_RULE = "must be 1 to 64 of A-Z, a-z, 0-9, _ and -"
"""The rule for the id of a room, in words for the client."""
TYPE_RULE = r"1 to 200 letters, digits or any of _ . : / \ -"
"""The rule for the type of a publication, in words for the publisher."""
MAX_BUILT_IN_DATA_BYTES = 65_536
"""Bytes of the data of one publication in a built-in namespace."""
DEFAULT = "default"
"""The name of the namespace of the channels without a colon."""

_TYPE = re.compile(TYPE_PATTERN)
_EVENT_ID = re.compile(r"-?[0-9]{1,18}")
_ROOM_ID = re.compile(ROOM_ID_PATTERN)


class SubscribeRule(enum.Enum):
    """The clients that may subscribe to the channels of a namespace. An admin may subscribe to all of them."""

    ANYONE = "anyone"
    USERS = "users"
    OWNER = "owner"
    ROOM = "room"
    """The members of the room of that id; for a public room, every user. Built in."""
    GRANTED = "granted"
    NOBODY = "nobody"


class PublishRule(enum.Enum):
    """The clients that may publish to the channels of a namespace. Backends may publish to all of them."""

    USERS = "users"
    SUBSCRIBERS = "subscribers"
    GRANTED = "granted"
    NOBODY = "nobody"


class Record(enum.Enum):
    """The record that a publication of the default type becomes, beside its place in the channel's history."""

    MESSAGE = "a message of its room"
    NOTIFICATION = "a notification of its user"


FIXED = ("durable", "history_size", "presence")
"""Options that stay while the server runs, because channels in memory and in the store rely on them."""
MAX_REMOVED = 1000
"""Removed namespaces that are remembered. Channels of the oldest ones have left memory long ago."""


@attrs.define(eq=False)
class Namespace:
    """One namespace: what holds for each of its channels. `Namespaces.take_up` alone changes it."""

    name: str
    default_type: str | None
    """The type of a publication that names none; None if each publication must name one."""
    subscribe: SubscribeRule
    durable: bool
    """Whether a publication is committed before delivery. Otherwise it is write-behind."""
    history_size: int
    """Publications kept for resume. With 1 the newest of the default type is kept; with 0 none, and there are no offsets."""
    history_period: float | None
    """Seconds for which publications are kept; None: they do not expire."""
    latest: bool = False
    """Whether a slow client skips to the newest value. Otherwise it gets every publication or is disconnected."""
    has_id: bool = True
    presence: bool = False
    """Whether the users that are subscribed can be asked for."""
    join_leave: bool = False
    """Whether subscribers are told of the users that come and go."""
    publish: PublishRule = PublishRule.NOBODY
    max_data_bytes: int = MAX_BUILT_IN_DATA_BYTES
    """Bytes of one publication's data as JSON."""
    subscribe_hook: str | None = None
    """The backend hook that decides where the rule and the grants say no; None if there is none."""
    publish_hook: str | None = None
    """The backend hook that decides on each publication of a client, in place of `publish`; None if there is none."""
    built_in: bool = True
    """Whether Relay defines it. Such a namespace takes objects as data, and no grant changes its rights."""
    record: Record | None = None
    check: data_checks.Check | None = None
    id_fields: Callable[[str], dict[str, Any]] | None = None
    normalise: Callable[[str], str | None] | None = None

    def channel(self, id_: str = "") -> ChannelName:
        """Return the name of the channel with this id.

        Raises:
            RequestError: the id is empty, too long or does not have the form that the namespace requires.
        """
        if not self.has_id:
            if id_:
                raise _invalid(f"The channel {self.name} has no id.")
            return ChannelName(self, "", self.name)
        normal: str | None = id_
        if not 0 < len(id_) <= MAX_ID_CHARACTERS or not id_.isprintable():
            normal = None
        elif not self.built_in:
            normal = id_ if "*" not in id_ and id_.strip(" ") == id_ else None
        elif self.normalise is not None:
            normal = self.normalise(id_)
        if normal is None or len(normal) > MAX_ID_CHARACTERS:  # some letters are two in upper case
            raise _invalid(f"The id of the {self.name} channel is not valid.")
        return ChannelName(self, normal, normal if self.name == DEFAULT else f"{self.name}:{normal}")


@attrs.frozen(eq=False, repr=False)
class ChannelName:
    """A parsed channel name. Compare two names by `text`."""

    namespace: Namespace
    id: str
    text: str

    def __repr__(self) -> str:
        return self.text


class Namespaces:
    """All namespaces of this server: those that are built in, one for each entity, and those of the configuration."""

    def __init__(
        self,
        *,
        entities: Iterable[str],
        history_period: float,
        durable: Iterable[str],
        configured: Mapping[str, Options] | None = None,
        anonymous: bool = True,
    ) -> None:
        """`durable` names the built-in namespaces to make durable that are write-behind by default.

        `configured` has the options of each further namespace, and changes the history of those that are built in.
        Without `anonymous`, a namespace of the configuration that is for anyone is for users only.
        """
        self.entities = frozenset(entities)
        self._removed: dict[str, Namespace] = {}
        table = [*_built_in(history_period), *(_entity(name, history_period) for name in sorted(self.entities))]
        forced = frozenset(durable)
        self._namespaces = {row.name: attrs.evolve(row, durable=row.durable or row.name in forced) for row in table}
        for name, options in (configured or {}).items():
            if isinstance(options, NamespaceConfig):
                self._namespaces[name] = _own(name, options, history_period, anonymous=anonymous)
            else:
                self._namespaces[name] = _changed(self._namespaces[name], options)
        self.max_data_bytes = self._largest()
        """Bytes of one publication's data in the namespace that allows the most."""

    def __getitem__(self, name: str) -> Namespace:
        return self._namespaces[name]

    def __iter__(self) -> Iterator[Namespace]:
        return iter(self._namespaces.values())

    def check(self, name: ChannelName) -> None:
        """Raise `UNKNOWN_CHANNEL` if a channel that was parsed before belongs to no namespace now, or to another one."""
        if self.of(name.text) is not name.namespace:
            raise _unknown()

    def take_up(self, other: Namespaces) -> list[str]:
        """Become another table, and return the key paths of the options that would need a restart, which stay.

        A row that is known by its name stays the same object, so each channel and subscription has its new options at
        once. `other` must not be used afterwards. A removed row is known when it comes again. Threads of the store that
        look a name up meanwhile find the old table or the new one.
        """
        waiting: list[str] = []
        table: dict[str, Namespace] = {}
        for name, row in other._namespaces.items():
            known = self._namespaces.get(name) or self._removed.pop(name, None)
            if known is None:
                table[name] = row
                continue
            for option in FIXED:
                if getattr(known, option) != getattr(row, option):
                    waiting.append(f"namespaces.{name}.{option}")
                    setattr(row, option, getattr(known, option))
            for field in attrs.fields(Namespace):
                setattr(known, field.name, getattr(row, field.name))
            table[name] = known
        self._removed |= {name: row for name, row in self._namespaces.items() if name not in table}
        for name in list(self._removed)[:-MAX_REMOVED]:
            del self._removed[name]
        self._namespaces, self.entities = table, other.entities
        self.max_data_bytes = self._largest()
        return waiting

    def _largest(self) -> int:
        return max(row.max_data_bytes for row in self)

    @property
    def has_anonymous_readers(self) -> bool:
        """Whether a namespace of the configuration is for clients without a token too."""
        return any(not one.built_in and one.subscribe is SubscribeRule.ANYONE for one in self)

    def of(self, text: str) -> Namespace | None:
        """Return the namespace that a channel's name belongs to; None if there is none. The id is not checked."""
        name, colon, _ = text.partition(":")
        if colon:
            return None if name == DEFAULT else self._namespaces.get(name)
        return self._namespaces.get(name) or self._namespaces.get(DEFAULT)

    def parse(self, text: str) -> ChannelName:
        """Return the channel of this name.

        Raises:
            RequestError: `UNKNOWN_CHANNEL` if the name belongs to no namespace, `INVALID_REQUEST` if its id is not valid.
        """
        namespace = self.of(text)
        if namespace is None:
            raise _unknown()
        name, colon, id_ = text.partition(":")
        if not colon and namespace.name != name:
            return namespace.channel(text)
        if namespace.has_id and not id_:  # a forgotten id must not open a channel of its own
            raise _invalid(f"The channel must have an id, as in {name}:<id>.")
        return namespace.channel(id_)


def _unknown() -> RequestError:
    return RequestError(
        Code.UNKNOWN_CHANNEL,
        "There is no such namespace.",
        fields=[FieldError("channel", "unknown namespace")],
        reason=RefusalReason.UNKNOWN_NAMESPACE,
    )


def namespaces_of(config: Config) -> Namespaces:
    """Return the namespaces of a configuration."""
    return Namespaces(
        entities=config.channels.entities,
        history_period=config.channels.history_period,
        durable=config.channels.durable,
        configured=config.namespaces,
        anonymous=config.auth.anonymous,
    )


def complete(channel: ChannelName, type_: str | None, data: Any) -> tuple[str, Any]:
    """Return the type and the data of a publication, completed by the default type and the fields that the channel's id implies.

    Raises:
        RequestError: the data is not an object where it must be one, a required field is missing or wrong, a field
            differs from the channel's id, or the type is not valid.
    """
    namespace = channel.namespace
    if type_ is None:
        if namespace.default_type is None:
            raise invalid_field("type", f"is required on the channel {namespace.name}")
        type_ = namespace.default_type
    elif not is_type(type_):
        raise invalid_field("type", f"must be {TYPE_RULE}")
    if not namespace.built_in:
        return type_, data
    if not isinstance(data, dict):
        raise invalid_field("data", "is required and must be an object")
    completed = data if namespace.id_fields is None and namespace.record is None else dict(data)
    if namespace.id_fields is not None:
        for field, value in namespace.id_fields(channel.id).items():
            if field in completed and not _agrees(namespace, completed[field], value):
                raise invalid_field(field, "differs from the channel's id")
            completed[field] = value
    check = namespace.check
    if check is not None and type_ == namespace.default_type and (problem := check(completed)) is not None:
        raise invalid_field(problem.field, problem.message)
    return type_, completed


def is_type(text: str) -> bool:
    """Return whether a publication can have this type. See TYPE_RULE."""
    return _TYPE.fullmatch(text) is not None


def _agrees(namespace: Namespace, given: object, value: object) -> bool:
    if isinstance(given, str):
        return (given if namespace.normalise is None else namespace.normalise(given)) == str(value)
    return isinstance(value, int) and data_checks.is_number(given) and given == value


def _event_id(text: str) -> str | None:
    return str(int(text)) if _EVENT_ID.fullmatch(text) else None


def is_room_id(text: str) -> bool:
    """Return whether a room can have this id."""
    return _ROOM_ID.fullmatch(text) is not None


def _room_id(text: str) -> str | None:
    return text if is_room_id(text) else None


def _invalid(message: str) -> RequestError:
    return RequestError(Code.INVALID_REQUEST, message, reason=RefusalReason.INVALID_CHANNEL)


def _own(name: str, options: NamespaceConfig, period: float, *, anonymous: bool) -> Namespace:
    """Return a namespace of the configuration. `period` is the default history period, in seconds."""
    subscribe = SubscribeRule(options.subscribe)
    if subscribe is SubscribeRule.ANYONE and not anonymous:
        subscribe = SubscribeRule.USERS
    return Namespace(
        name, f"{name}:event" if options.type is None else options.type, subscribe,
        durable=options.durable, history_size=options.history_size,
        history_period=period if options.history_period is None else options.history_period,
        latest=options.slow_readers == "latest", presence=options.presence, join_leave=options.join_leave,
        publish=PublishRule(options.publish), max_data_bytes=options.max_data_bytes, built_in=False,
        subscribe_hook=options.subscribe_hook, publish_hook=options.publish_hook,
    )  # fmt: skip


def _changed(row: Namespace, options: BuiltInConfig) -> Namespace:
    """Return a built-in namespace with the options that the configuration sets."""
    return attrs.evolve(
        row,
        durable=row.durable if options.durable is None else options.durable,
        history_size=row.history_size if options.history_size is None else options.history_size,
        history_period=row.history_period if options.history_period is None else options.history_period,
    )


def _built_in(period: float) -> list[Namespace]:
    def row(name: str, type_: str | None, subscribe: SubscribeRule, **options: Any) -> Namespace:
        kept = BUILT_IN[name]
        return Namespace(
            name, type_, subscribe, durable=kept.durable, history_size=kept.history,
            history_period=None if kept.is_fixed else period, **options,
        )  # fmt: skip

    return [
        row(
            "chatroom", "chat:message", SubscribeRule.ROOM, presence=True,
            publish=PublishRule.SUBSCRIBERS, record=Record.MESSAGE,
            check=data_checks.text("userId", "message"), id_fields=lambda id_: {"chatroomId": id_}, normalise=_room_id,
        ),
        row("user", "notification:new", SubscribeRule.OWNER, record=Record.NOTIFICATION, check=data_checks.text("message")),
        # A market's last price does not expire: it stays the last known price until the next one.
        row(
            "market", "market:price", SubscribeRule.ANYONE, latest=True,
            check=data_checks.price, id_fields=lambda id_: {"symbol": id_}, normalise=str.upper,
        ),
        row("trades", "trade:created", SubscribeRule.ANYONE, has_id=False),
        row(
            "event", "chart:updated", SubscribeRule.ANYONE, latest=True,
            check=data_checks.ratios, id_fields=lambda id_: {"event_id": int(id_)}, normalise=_event_id,
        ),
        row("community", "post:created", SubscribeRule.USERS, id_fields=lambda id_: {"communityId": id_}),
        row("broadcast", None, SubscribeRule.USERS, has_id=False),
    ]  # fmt: skip


def _entity(name: str, period: float) -> Namespace:
    return Namespace(
        name, "status:updated", SubscribeRule.USERS, durable=True, history_size=100, history_period=period,
        check=data_checks.text("status"), id_fields=lambda id_: {"entity_type": name, "entity_id": id_},
    )  # fmt: skip
