import math
from collections.abc import Callable

import pytest
from engineio.payload import Payload as OraclePayload  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st

from relay.dialects.socketio.actions import Actions, AnswerPoll, Closed, Deliver, DropWebSocket, Refuse, Send
from relay.dialects.socketio.engine import (
    LINGER_TIMEOUT,
    MAX_POLL_PACKETS,
    NOOP_DELAY,
    UPGRADE_TIMEOUT,
    Engine,
    Settings,
    State,
)
from relay.dialects.socketio.engineio import Encoded
from relay.errors import Reason

# The suite's own: 300 ms and 200 ms
INTERVAL, TIMEOUT = 0.3, 0.2
SETTINGS = Settings(ping_interval=INTERVAL, ping_timeout=TIMEOUT, max_payload_bytes=100, max_queue_bytes=20)
WS, OTHER = "ws", "other"
GARBAGE = Closed(Reason.PROTOCOL_ERROR)


def polling(now: float = 0.0) -> Engine:
    return Engine(SETTINGS, now)


def native(now: float = 0.0) -> Engine:
    return Engine(SETTINGS, now, websocket=WS)


def upgraded() -> Engine:
    engine = polling()
    assert engine.open_websocket(WS, 0) == []
    assert engine.frame(WS, "2probe", 0) == [sent("3probe")]
    assert engine.frame(WS, "5", 0) == []
    return engine


def posted(engine: Engine, body: str | bytes, now: float = 0.0) -> Actions:
    assert engine.begin_post(now) == []
    return engine.post(body if isinstance(body, bytes) else body.encode(), now)


def text(packet: str) -> Encoded:
    return Encoded(packet.encode())


def sent(*packets: str | bytes) -> Send:
    return Send(
        tuple(Encoded(packet, binary=True) if isinstance(packet, bytes) else text(packet) for packet in packets)
    )


def answered(body: str) -> AnswerPoll:
    return AnswerPoll(body.encode())


# Messages


def test_a_text_packet_goes_both_ways_by_polling() -> None:
    """The suite: "sends and receives a payload containing one plain text packet"."""
    engine = polling()
    assert posted(engine, "4hello") == [Deliver("hello")]
    assert engine.push(text("4hello")) == []
    assert engine.poll(0) == [answered("4hello")]


def test_several_packets_go_both_ways_by_polling() -> None:
    """The suite: "sends and receives a payload containing several plain text packets"."""
    engine = polling()
    assert posted(engine, "4test1\x1e4test2\x1e4test3") == [Deliver("test1"), Deliver("test2"), Deliver("test3")]
    for number in (1, 2, 3):
        engine.push(text(f"4test{number}"))
    assert engine.poll(0) == [answered("4test1\x1e4test2\x1e4test3")]


def test_text_and_bytes_go_both_ways_by_polling() -> None:
    """The suite: "sends and receives a payload containing plain text and binary packets"."""
    engine = polling()
    assert posted(engine, "4hello\x1ebAQIDBA==") == [Deliver("hello"), Deliver(b"\x01\x02\x03\x04")]
    engine.push(text("4hello"), Encoded(b"\x01\x02\x03\x04", binary=True))
    assert engine.poll(0) == [answered("4hello\x1ebAQIDBA==")]


@pytest.mark.parametrize("message", ["hello", b"\x01\x02\x03\x04"])
def test_a_packet_goes_both_ways_by_websocket(message: str | bytes) -> None:
    """The suite: "sends and receives a plain text packet" and "a binary packet", over WebSocket."""
    engine = native()
    frame = f"4{message}" if isinstance(message, str) else message
    assert engine.frame(WS, frame, 0) == [Deliver(message)]
    assert engine.push(*sent(frame).packets) == [sent(frame)]
    assert engine.queued_bytes == 0


def test_an_open_poll_is_answered_at_once() -> None:
    engine = polling()
    assert engine.poll(0) == []
    assert engine.push(text("4a"), text("4b")) == [answered("4a\x1e4b")]
    assert engine.push(text("4c")) == [], "there is no poll any more"
    assert engine.poll(0) == [answered("4c")]
    assert engine.poll(0) == []


# What ends a session


@pytest.mark.parametrize("body", ["abc", "", "4a\x1e", "b!", b"\xff", "0", "2", "2probe", "5", "4a\x1e7"])
def test_garbage_ends_a_session_that_polls(body: str | bytes) -> None:
    """The suite: "closes the session upon invalid packet format": the POST is refused, and so is every later request."""
    engine = polling()
    assert posted(engine, body)[-2:] == [GARBAGE, Refuse(400)]
    assert engine.poll(0) == [Refuse(400)]
    assert engine.begin_post(0) == [Refuse(400)]
    assert engine.open_websocket(WS, 0) == [Refuse(400)]


def test_what_came_before_garbage_of_the_session_is_delivered() -> None:
    assert posted(polling(), "4a\x1e5") == [Deliver("a"), GARBAGE, Refuse(400)]


def test_garbage_lets_an_open_poll_go() -> None:
    engine = polling()
    engine.poll(0)
    assert posted(engine, "abc") == [answered("1"), GARBAGE, Refuse(400)]


@pytest.mark.parametrize("frame", ["abc", "", "7", "0", "2", "2probe", "5"])
def test_garbage_ends_a_session_over_websocket(frame: str) -> None:
    """The suite: "closes the session upon invalid packet format", over WebSocket."""
    engine = native()
    assert engine.frame(WS, frame, 0) == [GARBAGE]
    assert engine.frame(WS, "4a", 0) == []


def test_two_polls_at_once_end_the_session() -> None:
    """The suite: "closes the session upon duplicate poll requests": the first gets `1`, the second 400, a third 400."""
    engine = polling()
    assert engine.poll(0) == []
    assert engine.poll(0.005) == [answered("1"), GARBAGE, Refuse(400)]
    assert engine.poll(0.01) == [Refuse(400)]


def test_two_posts_at_once_end_the_session() -> None:
    """The document: should a client have two POSTs active, the server answers 400 and closes the session."""
    engine = polling()
    assert engine.begin_post(0) == []
    assert engine.begin_post(0) == [GARBAGE, Refuse(400)]
    assert engine.post(b"4a", 0) == [Refuse(400)], "the first one's body comes too late"


def test_posts_one_after_the_other_are_welcome() -> None:
    engine = polling()
    assert posted(engine, "4a") == [Deliver("a")]
    assert posted(engine, "4b") == [Deliver("b")]


def test_a_poll_whose_client_left_ends_the_session() -> None:
    """The suite: "closes the session upon cancelled polling request"."""
    engine = polling()
    engine.poll(0)
    assert engine.lose_request() == [Closed(Reason.NORMAL)]
    assert engine.poll(0) == [Refuse(400)]


def test_a_post_whose_client_left_ends_the_session() -> None:
    engine = polling()
    engine.begin_post(0)
    assert engine.lose_request() == [Closed(Reason.NORMAL)]


def test_a_request_that_was_answered_cannot_be_lost() -> None:
    engine = polling()
    engine.poll(0)
    engine.push(text("4a"))
    posted(engine, "4a")
    assert engine.lose_request() == []
    assert engine.state is State.POLLING


def test_a_post_that_is_too_large_ends_the_session() -> None:
    engine = polling()
    assert posted(engine, "4" * 100) == [Deliver("4" * 99)]
    assert posted(engine, "4" * 101) == [Closed(Reason.TOO_LARGE), Refuse(413)]


def test_a_client_closes_by_post() -> None:
    """The suite: "forcefully closes the session": the POST is answered `ok`, the open poll with `6`, the next poll with 400."""
    engine = polling()
    engine.poll(0)
    assert posted(engine, "1") == [answered("6"), Closed(Reason.NORMAL)]
    assert engine.poll(0) == [Refuse(400)]


def test_what_stands_before_a_close_is_delivered_and_what_stands_behind_is_not() -> None:
    assert posted(polling(), "4a\x1e1\x1e4b") == [Deliver("a"), Closed(Reason.NORMAL)]


def test_a_client_closes_by_websocket() -> None:
    """The suite: "forcefully closes the session", over WebSocket."""
    assert native().frame(WS, "1", 0) == [Closed(Reason.NORMAL)]


def test_a_websocket_that_closes_ends_its_session() -> None:
    engine = native()
    assert engine.lose_websocket(WS) == [Closed(Reason.NORMAL)]
    assert engine.lose_websocket(WS) == []


def test_a_noop_means_nothing() -> None:
    assert posted(polling(), "6\x1e4a") == [Deliver("a")]


# Heartbeat


def test_pings_and_pongs_by_polling() -> None:
    """The suite: "sends ping/pong packets": three times a poll is answered `2`, and a POST of `3` is welcome."""
    engine, now = polling(), 0.0
    for _ in range(3):
        assert engine.poll(now) == []
        assert engine.deadline == pytest.approx(now + INTERVAL)
        now = engine.deadline
        assert engine.tick(now) == [answered("2")]
        now += 0.1
        assert posted(engine, "3", now) == []


def test_pings_and_pongs_by_websocket() -> None:
    """The suite: "sends ping/pong packets", over WebSocket."""
    engine, now = native(), 0.0
    for _ in range(3):
        now = engine.deadline
        assert engine.tick(now) == [sent("2")]
        assert engine.tick(now + 0.1) == [], "one ping at a time"
        assert engine.frame(WS, "3", now + 0.1) == []
        assert engine.deadline == pytest.approx(now + 0.1 + INTERVAL)


@pytest.mark.parametrize("method", ["poll", "begin_post"])
def test_a_client_that_does_not_poll_is_gone_when_it_comes_late(method: str) -> None:
    """The suite: "closes the session upon ping timeout": nothing happens for the interval and the timeout, then a poll gets 400.

    No timer has run: the deadlines are kept by whatever comes.
    """
    engine = polling()
    request: Callable[[float], Actions] = getattr(engine, method)
    assert request(INTERVAL + TIMEOUT) == [Closed(Reason.IDLE), Refuse(400)]


def test_a_ping_waits_for_a_poll_that_is_late_but_not_too_late() -> None:
    engine = polling()
    now = INTERVAL + TIMEOUT - 0.01
    assert engine.poll(now) == [answered("2")]
    assert engine.deadline == pytest.approx(INTERVAL + TIMEOUT), "counted from when it was due"
    assert posted(engine, "3", now) == []
    assert engine.deadline == pytest.approx(now + INTERVAL)


@pytest.mark.parametrize("late", [0.0, 100.0])
def test_an_unanswered_ping_ends_the_session(late: float) -> None:
    """The suite: "closes the session upon ping timeout", over WebSocket. A ping that a busy server sends late counts from then."""
    engine = native()
    assert engine.tick(INTERVAL + late) == [sent("2")]
    assert engine.deadline == pytest.approx(INTERVAL + late + TIMEOUT)
    assert engine.frame(WS, "4still here", INTERVAL + late + TIMEOUT - 0.01) == [Deliver("still here")]
    assert engine.tick(engine.deadline) == [Closed(Reason.IDLE)]
    assert engine.deadline == math.inf


def test_an_unanswered_ping_lets_the_open_poll_go() -> None:
    engine = polling()
    engine.poll(0)
    assert engine.tick(INTERVAL) == [answered("2")]
    engine.poll(INTERVAL)
    assert engine.tick(INTERVAL + TIMEOUT) == [answered("1"), Closed(Reason.IDLE)]


def test_a_tick_before_the_deadline_does_nothing() -> None:
    engine = polling()
    assert engine.tick(INTERVAL - 0.001) == []


# Upgrade


def test_an_upgrade() -> None:
    """The suite: "successfully upgrades from HTTP long-polling to WebSocket"; the pending poll gets `6`."""
    engine = polling()
    assert engine.poll(0) == []
    assert engine.open_websocket(WS, 0) == []
    assert engine.frame(WS, "2probe", 0) == [answered("6"), sent("3probe")]
    assert engine.frame(WS, "5", 0) == []
    assert engine.state is State.WEBSOCKET
    assert engine.frame(WS, "4hello", 0) == [Deliver("hello")]
    assert engine.push(text("4hello")) == [sent("4hello")]
    assert engine.deadline == pytest.approx(INTERVAL), "the heartbeat goes on"


def test_a_poll_during_an_upgrade_is_let_go_soon() -> None:
    """The suite polls after `3probe` and expects `6`. It is not at once: a client whose upgrade hangs would poll without a rest."""
    engine = polling()
    engine.open_websocket(WS, 0)
    engine.frame(WS, "2probe", 0)
    assert engine.poll(0.01) == []
    assert engine.deadline == pytest.approx(0.01 + NOOP_DELAY)
    assert engine.tick(engine.deadline) == [answered("6")]
    assert engine.deadline == pytest.approx(INTERVAL)


def test_a_poll_during_an_upgrade_takes_what_waits() -> None:
    engine = polling()
    engine.open_websocket(WS, 0)
    engine.frame(WS, "2probe", 0)
    engine.push(text("4a"))
    assert engine.poll(0) == [answered("4a")]


def test_a_poll_that_is_open_at_the_upgrade_is_let_go() -> None:
    engine = polling()
    engine.open_websocket(WS, 0)
    engine.frame(WS, "2probe", 0)
    engine.poll(0)
    assert engine.frame(WS, "5", 0) == [answered("6")]


def test_what_waited_goes_over_the_websocket_first() -> None:
    engine = polling()
    engine.push(text("4a"))
    engine.open_websocket(WS, 0)
    engine.frame(WS, "2probe", 0)
    engine.push(Encoded(b"\x01", binary=True))
    assert engine.frame(WS, "5", 0) == [sent("4a", b"\x01")]
    assert engine.queued_bytes == 0


def test_posts_are_welcome_until_the_upgrade() -> None:
    engine = polling()
    engine.open_websocket(WS, 0)
    engine.frame(WS, "2probe", 0)
    assert posted(engine, "4a") == [Deliver("a")]


def test_after_an_upgrade_http_is_refused() -> None:
    """The suite: "ignores HTTP requests with same sid after upgrade": they get 400, and the session goes on."""
    engine = upgraded()
    assert engine.poll(0) == [Refuse(400)]
    assert engine.begin_post(0) == [Refuse(400)]
    assert engine.frame(WS, "4hello", 0) == [Deliver("hello")]


def test_a_post_that_the_upgrade_overtook_is_refused() -> None:
    engine = polling()
    engine.begin_post(0)
    engine.open_websocket(WS, 0)
    engine.frame(WS, "2probe", 0)
    engine.frame(WS, "5", 0)
    assert engine.post(b"4a", 0) == [Refuse(400)]
    assert engine.lose_request() == []
    assert engine.state is State.WEBSOCKET


@pytest.mark.parametrize("begin", [upgraded, native], ids=["upgraded", "websocket from the start"])
def test_a_second_websocket_is_closed(begin: Callable[[], Engine]) -> None:
    """The suite: "ignores WebSocket connection with same sid after upgrade": the second closes, the first goes on."""
    engine = begin()
    assert engine.open_websocket(OTHER, 0) == [Refuse(400)]
    assert engine.frame(OTHER, "4hello", 0) == []
    assert engine.lose_websocket(OTHER) == []
    assert engine.frame(WS, "4hello", 0) == [Deliver("hello")]


def test_a_second_websocket_during_an_upgrade_is_closed() -> None:
    engine = polling()
    engine.open_websocket(WS, 0)
    assert engine.open_websocket(OTHER, 0) == [Refuse(400)]
    assert engine.frame(WS, "2probe", 0) == [sent("3probe")]


@pytest.mark.parametrize(
    "frames", [["abc"], ["5"], ["4hello"], ["2"], [b"2probe"], ["2probe", "4hello"], ["2probe", ""]]
)
def test_a_websocket_that_does_not_upgrade_is_dropped(frames: list[str | bytes]) -> None:
    """As the reference server does: the WebSocket closes, and the session goes on polling."""
    engine = polling()
    engine.poll(0)
    engine.open_websocket(WS, 0)
    for frame in frames[:-1]:
        engine.frame(WS, frame, 0)
    assert engine.frame(WS, frames[-1], 0) == [DropWebSocket()]
    assert engine.frame(WS, "5", 0) == [], "what it still says counts for nothing"
    assert engine.state is State.POLLING
    assert engine.push(text("4a")) == ([answered("4a")] if len(frames) == 1 else [])
    assert engine.open_websocket(OTHER, 0) == [], "another may try"


def test_a_poll_survives_an_upgrade_that_fails() -> None:
    engine = polling()
    engine.poll(0)
    engine.open_websocket(WS, 0)
    assert engine.lose_websocket(WS) == []
    assert engine.push(text("4a")) == [answered("4a")]


def test_an_upgrade_must_come_in_time() -> None:
    engine = Engine(Settings(100.0, 100.0, 100, 100), 0)
    engine.open_websocket(WS, 1)
    engine.frame(WS, "2probe", 2)
    assert engine.deadline == 1 + UPGRADE_TIMEOUT
    assert engine.frame(WS, "5", engine.deadline) == [DropWebSocket()]
    assert engine.state is State.POLLING
    assert engine.deadline == 100.0


# What waits


def test_an_answer_has_no_more_packets_than_python_clients_read() -> None:
    """python-engineio gives up a session whose poll brings more than 16 packets."""
    engine = Engine(Settings(1, 1, 100, 10_000), 0)
    for number in range(2 * MAX_POLL_PACKETS + 1):
        engine.push(text(f"4t{number}"))
    read: list[str] = []
    for expected in (MAX_POLL_PACKETS, MAX_POLL_PACKETS, 1):
        [answer] = engine.poll(0)
        assert isinstance(answer, AnswerPoll)
        packets = OraclePayload(encoded_payload=answer.body.decode()).packets
        assert len(packets) == expected
        read += [packet.data for packet in packets]
    assert read == [f"t{number}" for number in range(2 * MAX_POLL_PACKETS + 1)]
    assert engine.queued_bytes == 0


def test_a_queue_that_would_pass_its_bound_ends_the_session() -> None:
    engine = polling()
    engine.push(text("4" * 15))
    engine.push(text("4" * 5))
    assert engine.queued_bytes == SETTINGS.max_queue_bytes
    assert engine.push(text("4")) == [Closed(Reason.TOO_SLOW)]
    assert engine.push(text("4")) == []
    assert engine.poll(0) == [Refuse(400)]


def test_one_packet_may_be_larger_than_the_bound() -> None:
    engine = polling()
    assert engine.push(text("4" * 50)) == []
    assert engine.push_latest("k", text("4")) == [Closed(Reason.TOO_SLOW)]


def test_a_ping_finds_room_always() -> None:
    engine = polling()
    engine.push(text("4" * 20))
    assert engine.tick(INTERVAL) == []
    assert engine.poll(INTERVAL) == [answered("4" * 20 + "\x1e2")]


def test_the_latest_of_a_key_takes_the_place_of_the_one_that_waits() -> None:
    engine = polling()
    engine.push_latest("BTC", text("4btc1"))
    engine.push_latest("ETH", text("4eth1"))
    engine.push(text("4x"))
    assert engine.push_latest("BTC", text("4btc22")) == []
    assert engine.queued_bytes == len("4btc22" + "4eth1" + "4x")
    assert engine.poll(0) == [answered("4btc22\x1e4eth1\x1e4x")]
    engine.push_latest("BTC", text("4btc3"))
    assert engine.poll(0) == [answered("4btc3")], "what was sent is not replaced"


def test_the_latest_replaces_nothing_while_it_can_be_sent() -> None:
    engine = polling()
    engine.poll(0)
    assert engine.push_latest("BTC", text("4btc1")) == [answered("4btc1")]
    engine = native()
    assert engine.push_latest("BTC", text("4btc1")) == [sent("4btc1")]
    assert engine.push_latest("BTC", text("4btc2")) == [sent("4btc2")]


def test_the_latest_never_fills_the_queue() -> None:
    engine = polling()
    for number in range(1_000):
        assert engine.push_latest("BTC", text(f"4btc{number}")) == []
    assert engine.poll(0) == [answered("4btc999")]


def test_the_latest_counts_what_it_frees() -> None:
    engine = polling()
    engine.push_latest("BTC", text("4" * 10))
    engine.push(text("4" * 10))
    assert engine.push_latest("BTC", text("5" * 10)) == []
    assert engine.push_latest("BTC", text("6" * 11)) == [Closed(Reason.TOO_SLOW)]


# The server ends a session


@pytest.mark.parametrize("begin", [upgraded, native], ids=["upgraded", "websocket from the start"])
def test_the_server_closes_over_websocket(begin: Callable[[], Engine]) -> None:
    assert begin().close(Reason.KEY_REVOKED, 0) == [Closed(Reason.KEY_REVOKED)]


def test_the_server_closes_an_open_poll() -> None:
    engine = polling()
    engine.poll(0)
    assert engine.close(Reason.KEY_REVOKED, 0) == [answered("1"), Closed(Reason.KEY_REVOKED)]
    assert engine.close(Reason.NORMAL, 0) == []


def test_last_words_wait_for_the_next_poll() -> None:
    engine = polling()
    engine.push(text("41/api-ws,"))
    assert engine.close(Reason.KEY_REVOKED, 0) == []
    assert engine.push(text("4late")) == [], "nothing follows a close"
    assert posted(engine, "4late") == [], "and nothing is delivered"
    assert engine.open_websocket(WS, 0) == [Refuse(400)]
    assert engine.poll(1) == [answered("41/api-ws,\x1e1"), Closed(Reason.KEY_REVOKED)]
    assert engine.poll(1) == [Refuse(400)]


def test_last_words_may_take_several_polls() -> None:
    engine = Engine(Settings(1, 1, 100, 10_000), 0)
    engine.push(*(text("4a") for _ in range(MAX_POLL_PACKETS)))
    engine.close(Reason.KEY_REVOKED, 0)
    assert engine.poll(1) == [answered("\x1e".join(["4a"] * MAX_POLL_PACKETS))]
    assert engine.poll(1) == [answered("1"), Closed(Reason.KEY_REVOKED)]


def test_last_words_do_not_wait_for_ever() -> None:
    engine = polling()
    engine.close(Reason.SHUTTING_DOWN, 5)
    assert engine.deadline == 5 + LINGER_TIMEOUT
    assert engine.tick(engine.deadline) == [Closed(Reason.SHUTTING_DOWN)]


def test_a_client_may_close_a_session_that_lingers() -> None:
    engine = polling()
    engine.close(Reason.SHUTTING_DOWN, 0)
    assert posted(engine, "1") == [Closed(Reason.NORMAL)]


def test_the_server_closes_during_an_upgrade() -> None:
    engine = polling()
    engine.open_websocket(WS, 0)
    assert engine.close(Reason.SHUTTING_DOWN, 0) == [Closed(Reason.SHUTTING_DOWN)]
    assert engine.frame(WS, "2probe", 0) == []


# Whatever comes in whatever order

frames = st.sampled_from(["2probe", "5", "4a", "3", "1", "6", "x", b"\x01"])
bodies = st.sampled_from([b"4a", b"3", b"1", b"6\x1ebAQ==", b"x", b"4" * 101])
steps = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["poll", "begin_post", "tick", "lose_request", "close"])),
        st.tuples(st.just("post"), bodies),
        st.tuples(st.just("open_websocket"), st.sampled_from([WS, OTHER])),
        st.tuples(st.just("frame"), st.sampled_from([WS, OTHER]), frames),
        st.tuples(st.just("lose_websocket"), st.sampled_from([WS, OTHER])),
        st.tuples(st.just("push"), st.integers(1, 12)),
        st.tuples(st.just("push_latest"), st.sampled_from(["a", "b"]), st.integers(1, 12)),
        st.tuples(st.just("wait"), st.sampled_from([0.05, 0.2, 0.5])),
    ),
    max_size=30,
)


def taken(engine: Engine, step: tuple[object, ...], now: float) -> Actions:
    match step:
        case ("lose_request",):
            return engine.lose_request()
        case ("lose_websocket", websocket):
            return engine.lose_websocket(websocket)
        case ("close",):
            return engine.close(Reason.NORMAL, now)
        case ("post", bytes() as body):
            return engine.post(body, now)
        case ("open_websocket", websocket):
            return engine.open_websocket(websocket, now)
        case ("frame", websocket, (str() | bytes()) as data):
            return engine.frame(websocket, data, now)
        case ("push", int() as size):
            return engine.push(text("4" * size))
        case ("push_latest", str() as key, int() as size):
            return engine.push_latest(key, text("4" * size))
        case (str() as name,):
            actions: Actions = getattr(engine, name)(now)
            return actions
        case _:
            raise AssertionError(step)


@given(steps, st.booleans())
def test_a_session_keeps_its_promises(steps: list[tuple[object, ...]], websocket: bool) -> None:
    """Only an open poll is answered, and each once; a session ends once, and then says and keeps nothing; what waits is bounded."""
    engine = native() if websocket else polling()
    now, open_polls, ended, was_websocket = 0.0, 0, 0, websocket
    for step in steps:
        if step[0] == "wait":
            now += float(str(step[1]))
            continue
        actions = taken(engine, step, now)
        if step[0] == "poll":
            open_polls += Refuse() not in actions
        answers = sum(isinstance(action, AnswerPoll) for action in actions)
        assert answers <= open_polls
        open_polls -= answers
        assert open_polls <= 1
        if step[0] == "lose_request" and actions:
            open_polls = 0
        after_end = bool(ended)
        ended += sum(isinstance(action, Closed) for action in actions)
        assert ended <= 1
        assert (engine.state is State.CLOSED) == bool(ended)
        if after_end:
            assert not any(isinstance(action, (Deliver, Send, AnswerPoll, DropWebSocket)) for action in actions)
        if ended:
            assert open_polls == engine.queued_bytes == 0
            assert engine.deadline == math.inf
        else:
            assert engine.deadline < math.inf
        was_websocket |= engine.state in (State.WEBSOCKET, State.UPGRADING)
        if any(isinstance(action, Send) for action in actions):
            assert was_websocket
        assert engine.queued_bytes <= SETTINGS.max_queue_bytes + len("2") + len("1")
