"""Parameters and results of the management API. `/openapi.json` describes its methods by these tables.

Each method of `methods.NAMES` has an entry in `PARAMETERS`; its result is the annotation of its function.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

from relay.access.publishing import MAX_KEY_CHARACTERS
from relay.api.params import CHANNEL, FLAG, INTEGER, MAX_LISTED, OPTIONAL, PATTERN, POSITION, TEXT, TEXTS
from relay.api.views import OfAllNodes
from relay.config.namespaces import TYPE_PATTERN
from relay.ground.schema import Fields, Param, Schema, reference

MAX_COMMANDS = 1000
"""Commands of one batch."""


class MethodError(TypedDict):
    """An error, with the number that Centrifugo gives it."""

    code: int
    message: str


class NoResult(TypedDict):
    """A result without a field."""


class NodesResult(OfAllNodes):
    """The result of a method that acts on all nodes."""


class PublishResult(TypedDict):
    """The place of a publication. One that is not kept has none."""

    offset: NotRequired[int]
    epoch: NotRequired[str]


class PublishReply(TypedDict):
    """The outcome for one channel: a result or an error."""

    result: NotRequired[PublishResult]
    error: NotRequired[MethodError]


class BroadcastResult(TypedDict):
    """The outcome for each channel, in their order."""

    responses: list[PublishReply]


class BatchReply(TypedDict, total=False):
    """The outcome of one command: the result under the name of its method, or an error."""

    error: MethodError


class BatchResult(TypedDict):
    """The outcome of each command, in their order."""

    replies: list[BatchReply]


class Failed(TypedDict):
    """The answer to a request that was refused."""

    error: MethodError


class ClientView(TypedDict):
    """A connection that is present, and its user."""

    client: str
    user: str


class PresenceResult(OfAllNodes):
    """The connections that are subscribed, by their id."""

    presence: dict[str, ClientView]


class PresenceStatsResult(OfAllNodes):
    """The numbers of connections and users that are subscribed."""

    num_clients: int
    num_users: int


class KeptView(TypedDict):
    """A publication of the history. The tag `type` is its type."""

    data: Any
    offset: int
    tags: dict[str, str]


class HistoryResult(TypedDict):
    """A part of the history, and the position of the channel."""

    publications: list[KeptView]
    offset: int
    epoch: str


class ClientCount(TypedDict):
    """The number of connections that are subscribed."""

    num_clients: int


class ChannelsResult(OfAllNodes):
    """The channels with a subscriber."""

    channels: dict[str, ClientCount]


class NodeView(TypedDict):
    """A node as it is now. `uptime` is in seconds."""

    uid: str
    name: str
    version: str
    num_clients: int
    num_users: int
    num_channels: int
    num_subs: int
    uptime: int


def node_view(report: Mapping[str, Any]) -> NodeView:
    """Return a node as this API names its fields. `report` is one of `AllNodes.info`."""
    return {
        "uid": report["id"],
        "name": report["name"] or "relay",
        "version": report["version"],
        "num_clients": report["connections"],
        "num_users": report["users"],
        "num_channels": report["channels"],
        "num_subs": report["subscriptions"],
        "uptime": report["uptime"],
    }


class InfoResult(OfAllNodes):
    """The nodes that share the database, or this one."""

    nodes: list[NodeView]


_TAGS: Schema = {
    "type": ["object", "null"],
    "properties": {"type": {"type": ["string", "null"], "pattern": f"^{TYPE_PATTERN}$"}},
    "additionalProperties": False,
    "description": "`type` is the type of the publication. There are no other tags.",
}
_ITEM: Fields = {
    "data": Param(reference("Json"), required=True),
    "tags": Param(_TAGS),
    "idempotency_key": Param({"type": ["string", "null"], "maxLength": MAX_KEY_CHARACTERS}),
    "skip_history": FLAG,
}
_EXPIRE_AT = Param({**INTEGER.schema, "description": "Unix seconds, after 0. Required unless `expired` is true."})
_COMMANDS: Schema = {
    "type": "array",
    "maxItems": MAX_COMMANDS,
    "items": {
        "description": "An object with one field: the name of a method, and its parameters. Another value is answered "
        "with an error in its place."
    },
}
_CHANNELS: Schema = {
    "type": "array",
    "minItems": 1,
    "maxItems": MAX_LISTED,
    "items": {
        "type": "string",
        "format": "channel",
        "description": "A wrong name is answered with an error in its place.",
    },
}
_TARGET: Fields = {"user": TEXT, "client": OPTIONAL}

PARAMETERS: Mapping[str, Fields] = {
    "publish": {"channel": CHANNEL, **_ITEM},
    "broadcast": {
        "channels": Param(_CHANNELS, required=True),
        **_ITEM,
    },
    "batch": {"commands": Param(_COMMANDS, required=True)},
    "subscribe": {
        **_TARGET,
        "channel": CHANNEL,
        "recover_since": POSITION,
    },
    "unsubscribe": {**_TARGET, "channel": CHANNEL},
    "disconnect": {
        **_TARGET,
        "whitelist": TEXTS,
        "disconnect": Param({"type": ["object", "null"], "properties": {"code": INTEGER.schema}}),
    },
    "refresh": {**_TARGET, "expired": FLAG, "expire_at": _EXPIRE_AT},
    "presence": {"channel": CHANNEL},
    "presence_stats": {"channel": CHANNEL},
    "history": {"channel": CHANNEL, "limit": INTEGER, "since": POSITION, "reverse": FLAG},
    "history_remove": {"channel": CHANNEL},
    "channels": {"pattern": PATTERN},
    "info": {},
}
"""The parameters of each method. The handbook names those of Centrifugo that are refused."""
