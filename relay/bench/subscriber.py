"""One WebSocket client of a load: it connects, subscribes, receives publications, and may resume after a disconnect."""

from __future__ import annotations

import enum
import json
import time
from collections.abc import Sequence
from typing import Any

import attrs

from relay.bench import frames, stamp
from relay.bench.audit import Audit, Track
from relay.bench.connection import Address, Connection
from relay.bench.frames import Batch
from relay.bench.http_response import NO_RELAY, line_of
from relay.bench.latency import Latencies
from relay.bench.poller import Poller
from relay.bench.stamp import Delivery
from relay.bench.workload import Refused, Standing, Subject

MAX_BATCHES = 512
"""Chunks that are remembered with their content, because all subscribers receive the same ones."""
MAX_BATCH_BYTES = 16 * 1024
"""Bytes of a chunk that is remembered."""
MAX_REASONS = 5
"""Different reasons of faults that a report names."""
_HEAD_END = b"\r\n\r\n"
_HTTP = b"HTTP/1.1 "


class State(enum.Enum):
    """The state of a subscriber."""

    CLOSED = enum.auto()
    CONNECTING = enum.auto()
    SUBSCRIBING = enum.auto()
    READY = enum.auto()


@attrs.define(eq=False)
class Crowd:
    """The state that all subscribers of a load share."""

    poller: Poller
    addresses: Sequence[Address]
    """The nodes that the subscribers connect to, in turn. One that comes back may resume on another node."""
    subject: Subject
    run_id: str
    audit: Audit = attrs.field(factory=Audit)
    latencies: Latencies = attrs.field(factory=Latencies)
    """From sending a publication to each of its deliveries."""
    handshakes: Latencies = attrs.field(factory=Latencies)
    """From the first packet to the response to the subscription."""
    returns: Latencies = attrs.field(factory=Latencies)
    """From the first packet of a client that comes back to the answer to its subscription."""
    leaving: bool = False
    """Whether the server is expected to end connections: their clients keep their positions, and may come back."""
    starts: int = 0
    ready: int = 0
    failures: int = 0
    """Connections that were not made, or that the server ended unasked."""
    deliveries: int = 0
    last_delivery_ns: int = 0
    """The time of the last delivery, on the monotonic clock."""
    refused: int = 0
    """Requests of clients that the server answered with an error."""
    reasons: list[str] = attrs.field(factory=list)
    """Reasons of failed connections and refused requests: the first few different ones."""
    remaining: dict[int, int] = attrs.field(factory=dict)
    """For each publication in flight, by sequence, the number of subscribers that lack it. Used with a window."""
    batches: dict[bytes, Batch] = attrs.field(factory=dict)
    mark: bytes = attrs.field(init=False)
    """The beginning of the stamps of this load's publications."""

    def __attrs_post_init__(self) -> None:
        self.mark = stamp.begin(self.run_id)

    def reason(self, text: str) -> None:
        """Record the reason of a fault."""
        if len(self.reasons) < MAX_REASONS and text not in self.reasons:
            self.reasons.append(text)

    def batch(self, data: bytes) -> Batch:
        """Return the content of a chunk."""
        found = self.batches.get(data)
        if found is None:
            found = frames.batch(data, self.mark)
            if len(data) <= MAX_BATCH_BYTES:
                if len(self.batches) >= MAX_BATCHES:
                    self.batches.clear()
                self.batches[data] = found
        return found

    def next_address(self) -> Address:
        """Return the address of the node whose turn it is."""
        self.starts += 1
        return self.addresses[self.starts % len(self.addresses)]


class Subscriber(Connection):
    """One client."""

    __slots__ = (
        "_crowd",
        "_epoch",
        "_opened_ns",
        "_resent",
        "_rest",
        "_since",
        "_token",
        "failed",
        "state",
        "track",
        "unconfirmed",
    )

    def __init__(self, crowd: Crowd, token: str) -> None:
        super().__init__(crowd.poller, crowd.addresses[0])
        self._crowd = crowd
        self._token = token
        self._rest = b""
        self._since: Standing | None = None
        self._epoch = ""
        self._opened_ns = 0
        self._resent: set[int] = set()  # own messages that were resent on this connection
        self.state = State.CLOSED
        self.failed = False
        subject = crowd.subject
        self.track = Track(crowd.audit, len(subject.channels), latest=subject.latest, ordered=subject.ordered)
        self.unconfirmed: dict[int, bytes] = {}
        """Own messages that are not confirmed yet, by sequence."""

    @property
    def away(self) -> bool:
        """Whether the subscriber disconnected and has not resumed."""
        return self._since is not None

    # -- called by the load ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start to connect. After a disconnect, resume from the last position."""
        self.failed = False
        self._rest = b""
        self._address = self._crowd.next_address()
        self._opened_ns = time.monotonic_ns()
        self.state = State.CONNECTING
        self.open()

    def drop(self) -> None:
        """Close the connection without a goodbye. `start` then resumes with `since`."""
        self._leave()
        self._since = Standing((self.track.positions[0],), self._epoch)
        self.close()

    def say(self, message: dict[str, Any]) -> None:
        """Send a message."""
        self.send(frames.text(json.dumps(message).encode()))

    def post(self, sequence: int, message: dict[str, Any]) -> None:
        """Send a chat message. After a disconnect, resend it until it is confirmed."""
        self.unconfirmed[sequence] = frame = frames.text(json.dumps(message).encode())
        self.send(frame)

    # -- received -------------------------------------------------------------------------------------------------

    def connected(self) -> None:
        """Ask for the upgrade."""
        path = self._crowd.subject.path(self._token)
        head = (
            f"GET {path} HTTP/1.1\r\nHost: {self._address.host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        self.send(head.encode())

    def received(self, data: bytes) -> None:
        """Handle received bytes. In the usual case a chunk that another subscriber also received is not parsed again."""
        if self.state is not State.READY or self._rest:
            self._received_slowly(data)
            return
        batch = self._crowd.batch(data)
        if batch.mixed:
            self._received_slowly(data)
            return
        if batch.consumed != len(data):
            self._rest = data[batch.consumed :]
        self._deliver(batch.deliveries)

    def ended(self, why: str) -> None:
        """Count a connection that the server closed, or that could not be opened."""
        if self._crowd.leaving and self.state is State.READY:
            self.drop()
            return
        if self.state is State.READY:
            self._crowd.audit.disconnected += 1
        self._leave()
        self.failed = True
        self._crowd.failures += 1
        self._crowd.reason(why)

    def _received_slowly(self, data: bytes) -> None:
        data = self._rest + data
        if self.state is State.CONNECTING:
            if not data.startswith(_HTTP[: len(data)]):
                self._fail(f"{NO_RELAY}: it sends {line_of(data)!r}")
                return
            end = data.find(_HEAD_END)
            if end < 0:
                self._rest = data
                return
            if not data.startswith(b"HTTP/1.1 101"):
                self._fail(f"the upgrade was refused: {line_of(data)}")
                return
            data = data[end + len(_HEAD_END) :]
            self.state = State.SUBSCRIBING
            for message in self._crowd.subject.hello(self._token, self._since):
                self.say(message)
        found, consumed = frames.split(data)
        self._rest = data[consumed:]
        for opcode, payload in found:
            if (
                self.state is State.READY
                and (delivery := frames.delivery(opcode, payload, self._crowd.mark)) is not None
            ):
                self._deliver([delivery])
            else:
                self._take(opcode, payload)

    def _deliver(self, deliveries: list[Delivery]) -> None:
        crowd, track = self._crowd, self.track
        positions, shifts = track.positions, track.shifts
        add, now = crowd.latencies.add, time.monotonic_ns()
        remaining = crowd.remaining
        count = 0
        for channel, position, sent_ns, sequence, own, shift in deliveries:
            if own and self._confirmed(sequence) and position <= positions[channel]:
                continue  # resent after a disconnect, and answered with the message that is already here
            if position == positions[channel] + 1 and shift == shifts[channel]:
                positions[channel] = position
            elif not track.unexpected(channel, position, sequence):
                continue
            count += 1
            add(now - sent_ns)
            if sequence in remaining:
                left = remaining[sequence] - 1
                if left:
                    remaining[sequence] = left
                else:
                    del remaining[sequence]
        if count:
            track.delivered += count
            crowd.deliveries += count
            crowd.last_delivery_ns = now

    def _confirmed(self, sequence: int) -> bool:
        """Record the sender's copy of a message.

        Return whether it may confirm a resent one; each has one confirmation.
        """
        self.unconfirmed.pop(sequence, None)
        if sequence not in self._resent:
            return False
        self._resent.remove(sequence)
        return True

    def _take(self, opcode: int, payload: bytes) -> None:
        if opcode == frames.PING:
            self.send(frames.pong(payload))
        elif opcode == frames.CLOSE:
            code = int.from_bytes(payload[:2], "big") if len(payload) >= 2 else 1005
            self._fail(f"closed with {code} {payload[2:].decode(errors='replace')}".rstrip())
        elif opcode == frames.TEXT and self.state is not State.CLOSED:
            self._hear(payload)

    def _hear(self, payload: bytes) -> None:
        try:
            message = json.loads(payload)
            standing = self._crowd.subject.standing(message)
        except (ValueError, LookupError, TypeError):
            self._fail(f"{NO_RELAY}: it sends {line_of(payload)!r}")
            return
        except Refused as refusal:
            if self.state is State.READY:
                self._crowd.refused += 1
                self._crowd.reason(f"refused: {refusal}")
            else:
                self._fail(f"the subscription was refused: {refusal}")
            return
        if standing is not None and self.state is State.SUBSCRIBING:
            self._subscribed(standing)
        elif self.state is State.READY and len(self._crowd.subject.channels) == 1:
            self._foreign(message)

    def _subscribed(self, standing: Standing) -> None:
        crowd = self._crowd
        self.state = State.READY
        self._epoch = standing.epoch
        crowd.ready += 1
        if self._since is None:
            crowd.handshakes.add(time.monotonic_ns() - self._opened_ns)
            self.track.begin(standing.offsets)
            return
        self._since = None
        crowd.audit.reconnected += 1
        crowd.returns.add(time.monotonic_ns() - self._opened_ns)
        if not standing.recovered:
            crowd.audit.not_recovered += 1
            self.track.reload(0, standing.offsets[0])
        self._resent = set(self.unconfirmed)
        for frame in self.unconfirmed.values():
            self.send(frame)

    def _foreign(self, message: dict[str, Any]) -> None:
        """Record a publication of another publisher on the load's only channel. It has a position too."""
        offset = message.get("offset")
        if message["type"] == "trade:created" and isinstance(offset, int):
            self.track.foreign(0, offset)

    def _fail(self, why: str) -> None:
        self.close()
        self.ended(why)

    def _leave(self) -> None:
        crowd = self._crowd
        if self.state is State.READY:
            crowd.ready -= 1
            for sequence in [one for one in crowd.remaining if one > self.track.highest(0)]:
                crowd.remaining[sequence] -= 1
                if not crowd.remaining[sequence]:
                    del crowd.remaining[sequence]
        self.state = State.CLOSED
