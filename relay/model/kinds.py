"""The kinds of channel: the rules for their data, their history, and their treatment of slow clients.

A channel's name is `<kind>:<id>`, or the kind alone if the kind has only one channel. Everything that differs from kind to kind is a
column of the table below. No other module decides by the name of a kind.
"""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import attrs

from relay.ground.errors import Code, FieldError, RequestError, invalid_field

MAX_ID_CHARACTERS = 256
"""Length of a channel's id. User ids are the longest ids, and have the same bound."""
ROOM_ID_RULE = "must be 1 to 64 of A-Z, a-z, 0-9, _ and -"
"""The rule for the id of a room, in words for the client."""

_TYPE = re.compile(r"[A-Za-z0-9_.:/-]{1,128}")
_EVENT_ID = re.compile(r"-?[0-9]{1,18}")
_ROOM_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Audience(enum.Enum):
    """The users that may subscribe to the channels of a kind."""

    ANYONE = "anyone"
    USERS = "any user"
    OWNER = "the user of that id, and admins"
    ROOM = "who may read the room of that id"


class Publishers(enum.Enum):
    """The publishers of the channels of a kind. Backends may publish to every channel."""

    BACKENDS = "only backends: admins, and API keys with scope publish"
    SUBSCRIBERS = "any user who may subscribe"


class Record(enum.Enum):
    """The record that a publication of the default type becomes, beside its place in the channel's history."""

    MESSAGE = "a message of its room"
    NOTIFICATION = "a notification of its user"


Check = Callable[[Mapping[str, Any]], FieldError | None]


@attrs.frozen(eq=False)
class Kind:
    """One kind of channel.

    The history has `history_size` publications, for `history_period` seconds (None: they do not expire). A history of one publication
    has the newest of the default type. A slow client of a `latest` kind gets the newest value; of any other kind it gets every
    publication or is disconnected. Publications of a `durable` kind are committed before delivery. All other kinds are write-behind.
    """

    name: str
    default_type: str | None
    audience: Audience
    durable: bool
    history_size: int
    history_period: float | None
    latest: bool = False
    has_id: bool = True
    presence: bool = False
    publishers: Publishers = Publishers.BACKENDS
    record: Record | None = None
    check: Check | None = None
    id_fields: Callable[[str], dict[str, Any]] | None = None
    normalise: Callable[[str], str | None] | None = None

    def channel(self, id_: str = "") -> ChannelName:
        """Return the name of the channel with this id.

        Raises:
            RequestError: the id is empty, too long or does not have the form that the kind requires.
        """
        if not self.has_id:
            if id_:
                raise RequestError(Code.INVALID_REQUEST, f"The channel {self.name} has no id.")
            return ChannelName(self, "", self.name)
        normal: str | None = id_
        if not 0 < len(id_) <= MAX_ID_CHARACTERS or not id_.isprintable():
            normal = None
        elif self.normalise is not None:
            normal = self.normalise(id_)
        if normal is None or len(normal) > MAX_ID_CHARACTERS:  # some letters are two in upper case
            raise RequestError(Code.INVALID_REQUEST, f"The id of the {self.name} channel is not valid.")
        return ChannelName(self, normal, f"{self.name}:{normal}")


@attrs.frozen(eq=False, repr=False)
class ChannelName:
    """A parsed channel name. Compare two names by `text`."""

    kind: Kind
    id: str
    text: str

    def __repr__(self) -> str:
        return self.text


class Kinds:
    """All kinds of this server: the built-in ones, and one for each configured entity."""

    def __init__(self, *, entities: Iterable[str], history_period: float, durable: Iterable[str]) -> None:
        """`durable` names the kinds to make durable that are write-behind by default."""
        self.entities = frozenset(entities)
        table = [*_built_in(history_period), *(_entity(name, history_period) for name in self.entities)]
        forced = frozenset(durable)
        self._kinds = {kind.name: attrs.evolve(kind, durable=kind.durable or kind.name in forced) for kind in table}

    def __getitem__(self, name: str) -> Kind:
        return self._kinds[name]

    def __iter__(self) -> Iterator[Kind]:
        return iter(self._kinds.values())

    def parse(self, text: str) -> ChannelName:
        """Return the channel of this name.

        Raises:
            RequestError: `UNKNOWN_CHANNEL` if no kind has this name, `INVALID_REQUEST` if the id is not valid.
        """
        name, _, id_ = text.partition(":")
        kind = self._kinds.get(name)
        if kind is None:
            raise RequestError(
                Code.UNKNOWN_CHANNEL,
                "There is no such kind of channel.",
                fields=[FieldError("channel", "unknown kind")],
            )
        if kind.has_id and not id_:
            raise RequestError(Code.INVALID_REQUEST, f"The channel must have an id, as in {name}:<id>.")
        return kind.channel(id_)


def complete(channel: ChannelName, type_: str | None, data: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the type and the data of a publication, completed by the default type and the fields that the channel's id implies.

    Raises:
        RequestError: a required field is missing or wrong, a field differs from the channel's id, or the type is not valid.
    """
    kind = channel.kind
    if type_ is None:
        if kind.default_type is None:
            raise invalid_field("type", f"is required on the channel {kind.name}")
        type_ = kind.default_type
    elif not _TYPE.fullmatch(type_):
        raise invalid_field("type", "must be 1 to 128 letters, digits or any of _ . : / -")
    completed = dict(data)
    if kind.id_fields is not None:
        for field, value in kind.id_fields(channel.id).items():
            if field in completed and not _agrees(kind, completed[field], value):
                raise invalid_field(field, "differs from the channel's id")
            completed[field] = value
    if kind.check is not None and type_ == kind.default_type and (problem := kind.check(completed)) is not None:
        raise invalid_field(problem.field, problem.message)
    return type_, completed


def _agrees(kind: Kind, given: object, value: object) -> bool:
    if isinstance(given, str):
        return (given if kind.normalise is None else kind.normalise(given)) == str(value)
    return isinstance(value, int) and is_number(given) and given == value


def is_number(value: object) -> bool:
    """Return whether a decoded JSON value is a finite number (true and false are not numbers)."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _text(*fields: str) -> Check:
    def check(data: Mapping[str, Any]) -> FieldError | None:
        for field in fields:
            value = data.get(field)
            if not isinstance(value, str) or not value.strip():
                return FieldError(field, "is required and must be a text that is not empty")
        return None

    return check


def _price(data: Mapping[str, Any]) -> FieldError | None:
    return None if is_number(data.get("price")) else FieldError("price", "is required and must be a finite number")


def _ratios(data: Mapping[str, Any]) -> FieldError | None:
    ratios = data.get("ratios")
    if isinstance(ratios, list) and ratios and all(is_number(ratio) and 0 <= ratio <= 1 for ratio in ratios):
        return None
    return FieldError("ratios", "is required and must be an array of numbers from 0 to 1")


def _event_id(text: str) -> str | None:
    return str(int(text)) if _EVENT_ID.fullmatch(text) else None


def is_room_id(text: str) -> bool:
    """Return whether a room can have this id."""
    return _ROOM_ID.fullmatch(text) is not None


def _room_id(text: str) -> str | None:
    return text if is_room_id(text) else None


def _built_in(period: float) -> list[Kind]:
    return [
        Kind(
            "chatroom", "chat:message", Audience.ROOM, durable=True, history_size=1000, history_period=period, presence=True,
            publishers=Publishers.SUBSCRIBERS, record=Record.MESSAGE,
            check=_text("userId", "message"), id_fields=lambda id_: {"chatroomId": id_}, normalise=_room_id,
        ),
        Kind(
            "user", "notification:new", Audience.OWNER, durable=True, history_size=200, history_period=period,
            record=Record.NOTIFICATION, check=_text("message"),
        ),
        # A market's last price does not expire: it stays the last known price until the next one.
        Kind(
            "market", "market:price", Audience.ANYONE, durable=False, history_size=1, history_period=None, latest=True,
            check=_price, id_fields=lambda id_: {"symbol": id_}, normalise=str.upper,
        ),
        Kind("trades", "trade:created", Audience.ANYONE, durable=False, history_size=500, history_period=period, has_id=False),
        Kind(
            "event", "chart:updated", Audience.ANYONE, durable=False, history_size=500, history_period=period, latest=True,
            check=_ratios, id_fields=lambda id_: {"event_id": int(id_)}, normalise=_event_id,
        ),
        Kind(
            "community", "post:created", Audience.USERS, durable=True, history_size=100, history_period=period,
            id_fields=lambda id_: {"communityId": id_},
        ),
        Kind("broadcast", None, Audience.USERS, durable=True, history_size=100, history_period=period, has_id=False),
    ]  # fmt: skip


def _entity(name: str, period: float) -> Kind:
    return Kind(
        name, "status:updated", Audience.USERS, durable=True, history_size=100, history_period=period,
        check=_text("status"), id_fields=lambda id_: {"entity_type": name, "entity_id": id_},
    )  # fmt: skip
