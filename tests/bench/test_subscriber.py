"""One client of a load: pieces of frames, drops and resumes."""

from __future__ import annotations

import json

from relay.bench.audit import Audit
from relay.bench.subscriber import State
from relay.bench.workload import chatroom, one_channel
from relay.sessions.frames import PING, text_frame
from tests.bench.subscribers import listening, published


def test_frames_may_come_in_any_pieces() -> None:
    stream = b"".join([published(1), PING, published(2), published(3)])
    for size in range(1, len(stream)):
        subscriber = listening(one_channel("live", "x", durable=False))
        for begin in range(0, len(stream), size):
            subscriber.received(stream[begin : begin + size])
        assert subscriber.track.positions == [3]
        assert subscriber._crowd.deliveries == 3
        assert not subscriber._crowd.audit.failed()


def test_a_connection_that_the_server_ends_is_counted() -> None:
    subscriber = listening(one_channel("live", "x", durable=False))
    subscriber.received(published(1) + b"\x88\x02\x03\xf5")
    assert subscriber.state is State.CLOSED
    assert subscriber._crowd.audit == Audit(disconnected=1)
    assert subscriber._crowd.reasons == ["closed with 1013"]


def test_a_resume_that_is_not_recovered_is_no_loss() -> None:
    subscriber = listening(one_channel("live", "x", durable=True), 3)
    subscriber.drop()
    subscriber.state = State.SUBSCRIBING
    answer = {"type": "subscribed", "data": {"offset": 9, "epoch": "e", "recovered": False}}
    subscriber.received(text_frame(json.dumps(answer).encode()) + published(10, 7))
    assert subscriber.track.complete([7])
    subscriber.track.close([7])
    assert subscriber._crowd.audit == Audit(reconnected=1, not_recovered=1, missed=6)


def test_a_message_that_was_sent_again_may_be_answered_again_once() -> None:
    subscriber = listening(chatroom("x"))
    for sequence in (1, 2):
        subscriber.post(sequence, {"type": "chat:send"})
    subscriber.received(published(1, own=True))
    subscriber.drop()
    subscriber.state = State.SUBSCRIBING
    answer = {"type": "subscribed", "data": {"offset": 1, "epoch": "e", "recovered": True}}
    subscriber.received(text_frame(json.dumps(answer).encode()) + published(2))
    subscriber.received(published(2, own=True))  # the answer to what was sent again
    assert subscriber._crowd.audit == Audit(reconnected=1)
    subscriber.received(published(2, own=True))
    subscriber.received(published(1, own=True))
    assert subscriber._crowd.audit == Audit(reconnected=1, duplicated=2)


def test_another_publisher_of_the_same_channel_is_no_disorder() -> None:
    subscriber = listening(one_channel("live", "x", durable=False))
    other = text_frame(b'{"type":"trade:created","offset":2,"data":{"note":"not ours"}}')
    subscriber.received(published(1) + other + published(3, 2) + published(4, 1, run="another") + published(5, 3))
    subscriber.track.close([3])
    assert subscriber._crowd.audit == Audit()
    assert subscriber._crowd.deliveries == 3
