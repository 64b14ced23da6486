"""`relay bench`: its audit sees what is wrong, and its loads run on a real server."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.bench import counters, frames
from relay.bench import http_response as answer
from relay.bench import report as bench_report
from relay.bench import stamp as marker
from relay.bench.audit import MAX_HOLES, Audit, Track
from relay.bench.connection import Address
from relay.bench.counters import Counters, longest_lag
from relay.bench.latency import MAX_US, Latencies
from relay.bench.poller import Poller
from relay.bench.process import Usage
from relay.bench.result import Result as BenchResult
from relay.bench.stamp import Delivery
from relay.bench.subscriber import Crowd, State, Subscriber
from relay.bench.workload import Feeds, Subject, chatroom, one_channel
from relay.sessions.frames import PING, text_frame
from tests.bench.commands import bench, children, failed, measured
from tests.bench.conftest import SETTINGS
from tests.certificates import write_certificate
from tests.running import RelayProcess, token

RUN_TIMEOUT = 20
NOWHERE = Address(2, ("127.0.0.1", 1), "127.0.0.1:1")
RUN = "0123abcd"


# Loads


@pytest.mark.parametrize("dialect", ["live", "channels", "feeds"])
def test_fanout_reaches_every_subscriber(server: RelayProcess, key: str, dialect: str) -> None:
    pace = ["--connections", "5", "--rate", "50", "--seconds", "0.5"]
    report = measured(server, key, "fanout", "--dialect", dialect, *pace)
    assert report["connections"] == 5
    assert 20 <= report["publications"] <= 26
    assert report["deliveries"] == 5 * report["publications"]
    assert 0 < report["latency_ms"]["p50"] <= report["latency_ms"]["p99"] <= report["latency_ms"]["max"] < 5000
    assert sum(row["count"] for row in report["latency_histogram"]) == report["deliveries"]
    assert report["audit"] == dict.fromkeys(report["audit"], 0)


def test_fanout_with_a_window_is_paced_by_the_deliveries(server: RelayProcess, key: str) -> None:
    report = measured(server, key, "fanout", "--connections", "10", "--window", "3", "--seconds", "0.5", "--durable")
    assert report["publications"] > 10
    assert report["deliveries"] == 10 * report["publications"]


def test_flaky_clients_of_a_fanout_miss_nothing(server: RelayProcess, key: str) -> None:
    for dialect in ("live", "channels"):
        pace = ["--connections", "20", "--rate", "20", "--seconds", "0.8", "--flaky", "0.3"]
        report = measured(server, key, "fanout", "--dialect", dialect, *pace)
        assert report["audit"]["reconnected"] > 0
        assert report["audit"]["not_recovered"] == 0
        assert report["deliveries"] == 20 * report["publications"]


def test_chat_and_flaky_chat(server: RelayProcess, key: str) -> None:
    members = ["--connections", "12", "--senders", "6", "--rate", "40", "--seconds", "0.8"]
    for more in ([], ["--flaky", "0.3"]):
        report = measured(server, key, "chat", *members, *more)
        assert report["messages"] > 20
        assert report["deliveries"] == 12 * report["messages"]
        assert bool(report["audit"]["reconnected"]) is bool(more)


def test_market_reaches_everybody_with_every_symbol(server: RelayProcess, key: str) -> None:
    report = measured(server, key, "market", "--symbols", "4", "--connections", "5", "--rate", "80", "--seconds", "0.5")
    assert report["deliveries"] + report["audit"]["replaced"] == 5 * report["publications"]
    assert report["publications"] >= 30


def test_connections_that_do_nothing(server: RelayProcess, key: str) -> None:
    report = measured(server, key, "connect", "--connections", "30")
    assert report["connections"] == 30
    assert report["connections_per_s"] > 1
    report = measured(server, key, "idle", "--connections", "30", "--seconds", "0.3")
    assert report["seconds"] >= 0.3
    assert "server_cpu_percent" in report
    assert "memory_kb_per_connection" in report


def test_publishing_alone(server: RelayProcess, key: str) -> None:
    for more in ([], ["--durable"]):
        report = measured(server, key, "ingest", "--lines", "7", "--seconds", "0.1", *more)
        assert report["publications"] > 0
        assert report["publications"] % 7 == 0
        report = measured(server, key, "posts", "--connections", "3", "--seconds", "0.2", *more)
        assert report["publications"] > 0
        assert report["latency_ms"]["max"] > 0


def test_loads_over_tls(tmp_path: Path) -> None:
    """Flaky ones among them, and a certificate that is not trusted."""
    write_certificate(tmp_path)
    server = RelayProcess(tmp_path, f'{SETTINGS}[server]\ntls_cert = "relay.crt"\ntls_key = "relay.key"\n')
    server.start()
    try:
        created = server.command("keys", "create", "--user", "bench", "--scope", "publish")
        url = ["--url", f"https://{server.address}", "--token", token("bench"), "--key", created]
        trusting = ["--ca", str(tmp_path / "relay.crt")]
        for load in (
            ("fanout", "--connections", "30", "--flaky", "5"),
            ("chat", "--connections", "10", "--senders", "5"),
        ):
            done = bench(*load, "--seconds", "0.5", *url, *trusting, "--json")
            assert done.exit_code == 0, done.output
            assert json.loads(done.stdout)["ok"] is True
        assert "no TLS: self" in failed("fanout", "--connections", "2", *url)
        assert bench("connect", "--connections", "2", *url, "--insecure").exit_code == 0
    finally:
        server.stop()


def test_without_a_url_it_has_a_server_of_its_own_and_stops_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    command = [
        sys.executable,
        "-m",
        "relay",
        "bench",
        "fanout",
        "--connections",
        "5",
        "--seconds",
        "60",
        "--rate",
        "20",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + RUN_TIMEOUT
        while not any(b"authenticated" in log.read_bytes() for log in tmp_path.glob("*/relay.log")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        [own] = children(process.pid)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=RUN_TIMEOUT)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, out + err
    assert "(interrupted)" in out
    assert "Audit: nothing lost, nothing twice, everything in order." in out
    assert "latency p99.9, ms" in out
    assert not Path(f"/proc/{own}").exists()
    assert list(tmp_path.iterdir()) == []


# What cannot be


def test_a_server_that_is_not_there() -> None:
    url = ["--url", "http://127.0.0.1:1", "--token", "t", "--key", "k"]
    assert "no connection was made: Connection refused" in failed("fanout", *url, "--connections", "2")
    assert "nothing can be published: Connection refused" in failed("ingest", *url)
    assert "not accepted: Connection refused" in failed("posts", *url)
    assert "no chat room could be created at http://127.0.0.1:1" in failed("chat", *url)


def test_what_a_load_needs_is_named(server: RelayProcess, key: str) -> None:
    url = ["--url", f"http://{server.address}"]
    assert "--token or in RELAY_TOKEN" in failed("connect", *url)
    assert "--key or in RELAY_KEY" in failed("fanout", *url, "--token", "t")
    assert "is no URL of a server" in failed("connect", "--url", "http://[::1", "--token", "t")
    assert "no process 4194304" in failed("connect", *url, "--token", "t", "--pid", "4194304")


def test_refusals_of_the_server_are_shown(server: RelayProcess, key: str) -> None:
    url = ["--url", f"http://{server.address}", "--token", "no token"]
    assert "unauthorized" in failed("connect", *url, "--connections", "2")
    assert "the server answered 401" in failed("ingest", *url, "--key", "wrong")
    assert "not accepted: 401" in failed("posts", *url, "--key", "wrong")


def test_options_that_exclude_each_other() -> None:
    assert "exclude each other" in failed("fanout", "--rate", "1", "--window", "1", code=2)
    assert "feeds have neither" in failed("fanout", "--dialect", "feeds", "--flaky", "1", code=2)
    assert "--senders are members" in failed("chat", "--connections", "2", code=2)
    assert "--pid is for a server at --url" in failed("connect", "--pid", "1", code=2)


# What the audit sees


def listening(subject: Subject, offset: int = 0) -> Subscriber:
    """Return a subscriber that is subscribed, with no server behind it."""
    subscriber = Subscriber(Crowd(Poller(), NOWHERE, subject, RUN), "token")
    subscriber.state = State.CONNECTING
    subscriber.received(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
    answer = {"type": "subscribed", "data": {"offset": offset, "epoch": "e"}}
    subscriber.received(text_frame(json.dumps({"type": "init"} if isinstance(subject, Feeds) else answer).encode()))
    assert subscriber.state is State.READY
    return subscriber


def published(offset: int, sequence: int | None = None, *, run: str = RUN, own: bool = False) -> bytes:
    """Return what a subscriber gets at this offset; by default the publication of the same number."""
    note = marker.write(run, time.monotonic_ns(), 0, offset if sequence is None else sequence)
    more = ',"clientMessageId":"c"' if own else ""
    return text_frame(f'{{"type":"trade:created","offset":{offset},"data":{{"note":"{note}"{more}}}}}'.encode())


def audited(*got: int | tuple[int, int], last: int, at: int = 0, subject: Subject | None = None) -> Audit:
    """Return the audit of a subscriber that stood at `at` and got these one by one, of `last` that were published.

    Each is an offset, or an offset and the publication that stood there; else that is the one which belongs there.
    """
    subscriber = listening(subject or one_channel("live", "x", durable=False), at)
    for one in got:
        offset, sequence = one if isinstance(one, tuple) else (one, one - at)
        subscriber.received(published(offset, sequence))
    assert subscriber.track.complete([last]) is (subscriber.track.delivered >= last)
    subscriber.track.close([last])
    audit: Audit = subscriber._crowd.audit
    assert subscriber._crowd.deliveries == subscriber._crowd.latencies.count == len(got) - audit.duplicated
    return audit


def test_the_audit_counts_what_is_wrong() -> None:
    assert audited(8, 9, 10, last=3, at=7) == Audit()
    assert audited(1, 2, last=4) == Audit(lost=2)
    assert audited(1, 4, last=4) == Audit(lost=2)
    assert audited(1, 3, 2, 4, last=4) == Audit(out_of_order=1)
    assert audited(1, 2, 2, 3, 1, last=3) == Audit(duplicated=2)
    assert audited(1, MAX_HOLES + 3, last=MAX_HOLES + 3) == Audit(lost=MAX_HOLES + 1)


def test_the_audit_looks_at_what_was_published_and_not_at_the_offsets_alone() -> None:
    assert audited(1, 2, (3, 2), 4, 5, last=5) == Audit(duplicated=1, lost=1), "another one's content"
    assert audited(1, 2, (3, 2), (4, 3), (5, 4), last=4) == Audit(duplicated=1), "published twice"
    assert audited(1, (2, 3), (3, 4), last=4) == Audit(lost=1), "not published, with no gap"
    assert audited(1, (2, 3), (3, 2), 4, last=4) == Audit(out_of_order=1), "published in another order"
    assert audited(1, 2, (3, 2), last=3) == Audit(duplicated=1, lost=1), "another one's content, at the end"
    assert audited(1, (2, 1), last=1, at=0) == Audit(duplicated=1), "the last one twice"


def test_of_several_senders_each_message_must_come_once_in_whatever_order() -> None:
    room = chatroom("x")
    assert audited((1, 2), (2, 1), (3, 3), (4, 6), (5, 4), (6, 5), last=6, subject=room) == Audit()
    assert audited((1, 2), (2, 1), (3, 2), (4, 3), last=3, subject=room) == Audit(duplicated=1)
    assert audited((1, 2), (2, 2), (3, 3), last=3, subject=room) == Audit(duplicated=1, lost=1)
    assert audited((1, 3), (2, 2), (3, 5), last=5, subject=room) == Audit(lost=2)


@given(st.permutations(range(1, 30)), st.integers(0, 100))
def test_any_order_of_several_senders_is_right_and_of_one_sender_only_its_own(order: list[int], at: int) -> None:
    got = [(at + number, sequence) for number, sequence in enumerate(order, 1)]
    assert audited(*got, last=29, at=at, subject=chatroom("x")) == Audit()
    late = sum(sequence < max(order[:number], default=0) for number, sequence in enumerate(order))
    assert audited(*got, last=29, at=at) == Audit(out_of_order=late)


def test_prices_may_be_replaced_but_the_last_one_must_come() -> None:
    audit = Audit()
    track = Track(audit, 2, latest=True, ordered=True)
    assert track.unexpected(0, 5, 5)
    assert not track.unexpected(0, 4, 4)
    track.delivered = 1
    assert not track.complete([5, 3])
    track.close([5, 3])
    assert audit == Audit(replaced=4, duplicated=1, lost=3)


@pytest.mark.parametrize("wrong", [Audit(lost=1), Audit(duplicated=1), Audit(out_of_order=1), Audit(disconnected=1)])
def test_a_failed_audit_is_a_problem(wrong: Audit) -> None:
    result = BenchResult("fanout", {})
    result.audit = wrong
    result.conclude()
    assert len(result.problems) == 1
    assert result.as_dict()["ok"] is False


def used(at: float, generator: float, server: float | None) -> Usage:
    return Usage(at, generator, server, None)


@pytest.mark.parametrize(
    ("generator", "server", "limit"), [(9.5, 5.0, True), (9.5, 9.5, False), (5.0, 5.0, False), (9.5, None, True)]
)
def test_it_says_when_the_generator_was_the_limit(generator: float, server: float | None, limit: bool) -> None:
    result = BenchResult("fanout", {})
    result.took(used(0, 0, server and 0.0), used(10, generator, server), each=("deliveries", 1000))
    result.conclude()
    assert result.generator_was_limit is limit
    assert bool(result.notes) is limit
    assert result.figures["deliveries_per_s"] == 100
    assert result.figures.get("server_cpu_us_per_delivery") == (server and server * 1000)


def test_it_says_when_the_rate_was_not_reached() -> None:
    for sent, notes in ((9.0, ["The rate was not reached: 9.0 a second, of 10.0."]), (9.6, [])):
        result = BenchResult("fanout", {"rate": 10.0}, {"publications_per_s": sent})
        result.conclude()
        assert result.notes == notes


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


# The parts


@given(st.integers(0, 2**63), st.integers(0, 200), st.integers(1, 2**40), st.booleans())
def test_a_mark_says_what_was_written(sent: int, channel: int, sequence: int, own: bool) -> None:
    text, mark = marker.write(RUN, sent, channel, sequence), marker.begin(RUN)
    data = {"note": text, **({"clientMessageId": "c"} if own else {})}
    payload = json.dumps({"type": "t", "offset": 7, "data": data}, separators=(",", ":")).encode()
    assert marker.read(payload, mark) == Delivery(channel, 7, sent, sequence, own, 7 - sequence)
    assert marker.read(text.encode(), mark) == Delivery(channel, sequence, sent, sequence, False, 0)
    assert marker.read(payload, marker.begin("another")) is None


@given(st.binary())
def test_other_text_is_no_mark(rest: bytes) -> None:
    mark = marker.begin(RUN)
    assert marker.read(rest, mark) is None
    found = marker.read(mark + rest, mark)
    assert found is None or b":" in rest


@given(st.lists(st.integers(0, MAX_US), min_size=1))
def test_latencies_are_right_to_three_percent(microseconds: list[int]) -> None:
    latencies = Latencies()
    for us in microseconds:
        latencies.add(us * 1000)
    median = sorted(microseconds)[len(microseconds) // 2] / 1000
    assert latencies.percentile_ms(0.5) == pytest.approx(median, rel=0.032)
    assert latencies.summary()["max"] == max(microseconds) / 1000
    assert sum(count for _, count in latencies.histogram()) == len(microseconds)


def test_the_longest_pause_is_as_near_as_the_buckets_tell() -> None:
    before = Counters(0, {0.1: 5, 1.0: 6, math.inf: 6}, 0.7)
    assert longest_lag(before, before) is None
    assert longest_lag(before, Counters(0, {0.1: 8, 1.0: 10, math.inf: 10}, 2.7)) == 1.0
    assert longest_lag(before, Counters(0, {0.1: 7, 1.0: 9, math.inf: 9}, 0.9)) == pytest.approx(0.2), "all together"
    assert longest_lag(before, Counters(0, {0.1: 8, 1.0: 9, math.inf: 10}, 4.7)) == pytest.approx(4.0)


@pytest.mark.parametrize("text", ["", "relay_loop_lag_seconds_sum x", "<html>", "a b\nc"])
def test_other_text_holds_no_counters(text: str) -> None:
    assert counters.read(text) is None


def test_durations_over_a_second_are_shown_without_exponents(capsys: pytest.CaptureFixture[str]) -> None:
    result = BenchResult("fanout", {})
    result.latencies = Latencies()
    for us in (5, 70_000, 900_000, 20_000_000):
        result.latencies.add(us * 1000)
    bench_report.write(result, as_json=False)
    shown = capsys.readouterr().out
    for row in ("below 0.008 ms", "below 131 ms", "below 1,049 ms", "below 33,554 ms"):
        assert row in shown
    assert "e+" not in shown


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536])
def test_client_frames_are_masked_and_whole(size: int) -> None:
    frame = frames.text(b"x" * size)
    head = {True: 2, size >= 126: 4, size >= 65536: 10}[True]
    assert frame[1] & 0x80
    assert frame[head : head + 4] == bytes(4)
    assert frame[head + 4 :] == b"x" * size
    assert frames.split(text_frame(b"x" * size)) == ([(1, b"x" * size)], size + (head if size >= 126 else 2))


def test_answers_are_read_one_by_one() -> None:
    one = b"HTTP/1.1 400 \r\ncontent-length: 17\r\nConnection: close\r\n\r\n" + b'{"message":"bad"}'
    for size in range(len(one)):
        assert answer.read(one[:size]) is None
    got = answer.read(one + b"HTTP")
    assert got is not None
    assert (got[0].said(), got[0].closes, got[1]) == ("400, bad", True, len(one))
