"""Socket.IO 5 on the wire: packets in Engine.IO messages, and binary attachments put back in their places. Pure.

A packet is its type, the number of attachments that follow, its namespace unless that is `/`, the id of an acknowledgement, and JSON:
`<type>[<attachments>-][<namespace>,][<id>][<JSON>]`. One whole exchange: `>` from the client, `<` from the server. On the wire each text
starts with 4, the digit of an Engine.IO message:

    > 0/api-ws,{"apiKey":"rk_live_..."}
    < 0/api-ws,{"sid":"oSO0OpakMV_3jnil"}
    < 2/api-ws,["initial-prices",[{"symbol":"BTC","price":87250.5,...}]]
    > 2/api-ws,1["subscribe",{"symbols":["btc"]}]
    < 3/api-ws,1[{"success":true,"symbols":["BTC"]}]
    < 2/api-ws,["price-update",{"symbol":"BTC","price":87251.0,...}]
    > 51-/api-ws,2["subscribe",{"_placeholder":true,"num":0}]
    > (binary)                                                      the attachment
    < 3/api-ws,2[{"success":false,"error":"..."}]
    > 0/random,
    < 4/random,{"message":"Invalid namespace"}
    > 1/api-ws,
"""

from __future__ import annotations

import enum
import re

import attrs

from relay.ground import strictjson
from relay.ground.errors import ProtocolError

MAX_ATTACHMENTS = 10
"""Attachments of one packet: the bound of the reference parser."""
MAX_NAMESPACE_CHARACTERS = 256
"""Length of a namespace. It is bounded because a refusal repeats it."""
MAX_ID_DIGITS = 16
"""Digits of the id of an acknowledgement: those of the largest safe integer in JavaScript."""
RESERVED_EVENTS = frozenset(
    {"connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"}
)
"""Events that client and server libraries raise themselves. Neither side may send them."""

_HEAD = re.compile(r"(?:(?P<namespace>/[^,]*)(?:,|\Z))?(?P<id>[0-9]*)")
_ATTACHMENTS = re.compile(r"([0-9]{1,2})-")


class PacketType(enum.IntEnum):
    """The type of a packet; the value is its digit on the wire."""

    CONNECT = 0
    DISCONNECT = 1
    EVENT = 2
    ACK = 3
    CONNECT_ERROR = 4
    BINARY_EVENT = 5
    BINARY_ACK = 6


_TYPES = {str(int(type_)): type_ for type_ in PacketType}
_BINARY = {PacketType.EVENT: PacketType.BINARY_EVENT, PacketType.ACK: PacketType.BINARY_ACK}
_PLAIN = {binary: plain for plain, binary in _BINARY.items()}


@attrs.frozen
class Packet:
    """One packet. A packet that came with attachments is an ordinary EVENT or ACK with bytes in its data."""

    type: PacketType
    namespace: str = "/"
    data: object = None
    """None if the packet has no data."""
    id: int | None = None


@attrs.frozen
class Pending:
    """A packet whose data has a placeholder for each attachment that has not arrived yet."""

    packet: Packet
    attachments: int


def decode(text: str) -> Packet | Pending:
    """Return the packet in one text message, Pending if attachments follow.

    Raises:
        ProtocolError: the text cannot be decoded, or the data does not fit the type.
    """
    type_ = _TYPES.get(text[:1])
    if type_ is None:
        raise ProtocolError("A packet starts with its type, a digit from 0 to 6.")
    start, attachments = 1, 0
    if type_ in _PLAIN:
        attachments, start = _read_attachments(text)
        type_ = _PLAIN[type_]
    head = _HEAD.match(text, start)
    assert head is not None  # the pattern matches an empty text too
    packet = Packet(
        type_, _namespace(head["namespace"]), _read_data(type_, text[head.end() :]), _read_id(type_, head["id"])
    )
    if not attachments:
        return packet
    _check_placeholders(packet.data, attachments)
    return Pending(packet, attachments)


def encode(packet: Packet) -> tuple[str, list[bytes]]:
    """Return the packet's text and the attachments that follow it. Raises ValueError for bytes in a packet that cannot carry them."""
    attachments: list[bytes] = []
    type_ = packet.type
    text = ""
    data = _take_out(packet.data, attachments)
    if attachments:
        if type_ not in _BINARY:
            raise ValueError(f"A packet of type {type_.name} cannot carry bytes.")
        type_ = _BINARY[type_]
        text = f"{len(attachments)}-"
    if packet.namespace != "/":
        text += packet.namespace + ","
    if packet.id is not None:
        text += str(packet.id)
    if data is not None:
        text += strictjson.dumps(data).decode()
    return f"{type_:d}{text}", attachments


class Assembler:
    """Decodes the messages of one connection, and holds a packet until its attachments have arrived."""

    __slots__ = ("_attachments", "_max_bytes", "_pending", "_size")

    def __init__(self, *, max_bytes: int) -> None:
        """`max_bytes` bounds the attachments of one packet together."""
        self._max_bytes = max_bytes
        self._pending: Pending | None = None
        self._attachments: list[bytes] | None = None  # made with a pending packet, because few packets have attachments
        self._size = 0

    def feed(self, message: str | bytes) -> Packet | None:
        """Return the packet that this message completes, None while attachments are due.

        Raises:
            ProtocolError: the message cannot be decoded, is too large, or is text where bytes must follow, or the reverse. The
                caller must end the connection.
        """
        if isinstance(message, str):
            if self._pending is not None:
                raise ProtocolError("An attachment was due.")
            decoded = decode(message)
            if isinstance(decoded, Packet):
                return decoded
            self._pending, self._attachments = decoded, []
            return None
        return self._attach(message)

    def _attach(self, attachment: bytes) -> Packet | None:
        pending, attachments = self._pending, self._attachments
        if pending is None or attachments is None:
            raise ProtocolError("No attachment was due.")
        self._size += len(attachment)
        if self._size > self._max_bytes:
            raise ProtocolError(f"The attachments of a packet may have at most {self._max_bytes} bytes.")
        attachments.append(attachment)
        if len(attachments) < pending.attachments:
            return None
        packet = attrs.evolve(pending.packet, data=_put_back(pending.packet.data, attachments))
        self._pending, self._attachments, self._size = None, None, 0
        return packet


# -- reading --------------------------------------------------------------------------------------------------------------


def _read_attachments(text: str) -> tuple[int, int]:
    """Return the number of attachments of a binary packet, and the position after it in the text."""
    match = _ATTACHMENTS.match(text, 1)
    count = int(match[1]) if match is not None else 0
    if match is None or not 1 <= count <= MAX_ATTACHMENTS:
        raise ProtocolError(f"A binary packet must announce 1 to {MAX_ATTACHMENTS} attachments.")
    return count, match.end()


def _namespace(text: str | None) -> str:
    if text is None:
        return "/"
    if len(text) > MAX_NAMESPACE_CHARACTERS or not text.isprintable():
        raise ProtocolError(f"A namespace has at most {MAX_NAMESPACE_CHARACTERS} characters, all of them printable.")
    # Clients of older versions send their query here; python-socketio cuts it off too.
    return text.partition("?")[0]


def _read_id(type_: PacketType, digits: str) -> int | None:
    if type_ not in _BINARY and digits:
        raise ProtocolError("Only events and acknowledgements have an id.")
    if len(digits) > MAX_ID_DIGITS:
        raise ProtocolError(f"An id may have at most {MAX_ID_DIGITS} digits.")
    if type_ is PacketType.ACK and not digits:
        raise ProtocolError("An acknowledgement needs the id of what it acknowledges.")
    return int(digits) if digits else None


def _read_data(type_: PacketType, text: str) -> object:
    if type_ is PacketType.DISCONNECT or (type_ is PacketType.CONNECT and not text):
        if text:
            raise ProtocolError("A disconnect has no data.")
        return None
    data = strictjson.loads(text)
    match type_, data:
        case (PacketType.CONNECT, dict()) | (PacketType.CONNECT_ERROR, dict() | str()) | (PacketType.ACK, list()):
            return data
        case PacketType.EVENT, [str() as name, *_] if name not in RESERVED_EVENTS:
            return data
        case PacketType.EVENT, _:
            raise ProtocolError("An event is an array that starts with the event's name; some names are reserved.")
        case _:
            raise ProtocolError(f"This data does not fit a packet of type {type_.name}.")


def _check_placeholders(data: object, attachments: int) -> None:
    numbers: list[int] = []
    _find_placeholders(data, numbers)
    if sorted(numbers) != list(range(attachments)):
        raise ProtocolError(f"{attachments} attachments were announced; the data must have a place for each.")


def _find_placeholders(data: object, numbers: list[int]) -> None:
    if isinstance(data, dict):
        if "_placeholder" in data:
            numbers.append(_number(data))
            return
        for value in data.values():
            _find_placeholders(value, numbers)
    elif isinstance(data, list):
        for value in data:
            _find_placeholders(value, numbers)


def _number(placeholder: dict[str, object]) -> int:
    match placeholder:
        case {"_placeholder": True, "num": int() as number, **rest} if not rest and not isinstance(number, bool):
            return number
        case _:
            raise ProtocolError('The place of an attachment must be {"_placeholder":true,"num":...}, and nothing else.')


def _put_back(data: object, attachments: list[bytes]) -> object:
    if isinstance(data, dict):
        if "_placeholder" in data:
            return attachments[_number(data)]
        return {key: _put_back(value, attachments) for key, value in data.items()}
    if isinstance(data, list):
        return [_put_back(value, attachments) for value in data]
    return data


# -- writing --------------------------------------------------------------------------------------------------------------


def _take_out(data: object, attachments: list[bytes]) -> object:
    if isinstance(data, (bytes, bytearray)):
        attachments.append(bytes(data))
        return {"_placeholder": True, "num": len(attachments) - 1}
    if isinstance(data, dict):
        return {key: _take_out(value, attachments) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_take_out(value, attachments) for value in data]
    return data
