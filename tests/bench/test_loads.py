"""The loads of `relay bench` on a real server, and what stops them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.bench.commands import bench, children, failed, measured, sockets
from tests.bench.conftest import SETTINGS
from tests.certificates import write_certificate
from tests.running import RelayProcess, token

RUN_TIMEOUT = 20


@pytest.mark.slow
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


@pytest.mark.slow
def test_fanout_with_a_window_is_paced_by_the_deliveries(server: RelayProcess, key: str) -> None:
    report = measured(server, key, "fanout", "--connections", "10", "--window", "3", "--seconds", "0.5", "--durable")
    assert report["publications"] > 10
    assert report["deliveries"] == 10 * report["publications"]


@pytest.mark.slow
def test_flaky_clients_of_a_fanout_miss_nothing(server: RelayProcess, key: str) -> None:
    for dialect in ("live", "channels"):
        pace = ["--connections", "20", "--rate", "20", "--seconds", "0.8", "--flaky", "0.3"]
        report = measured(server, key, "fanout", "--dialect", dialect, *pace)
        assert report["audit"]["reconnected"] > 0
        assert report["audit"]["not_recovered"] == 0
        assert report["deliveries"] == 20 * report["publications"]


@pytest.mark.slow
def test_chat_and_flaky_chat(server: RelayProcess, key: str) -> None:
    members = ["--connections", "12", "--senders", "6", "--rate", "40", "--seconds", "0.8"]
    for more in ([], ["--flaky", "0.3"]):
        report = measured(server, key, "chat", *members, *more)
        assert report["messages"] > 20
        assert report["deliveries"] == 12 * report["messages"]
        assert bool(report["audit"]["reconnected"]) is bool(more)


@pytest.mark.slow
@pytest.mark.parametrize("dialect", ["live", "channels"])
def test_a_crowd_that_is_cut_comes_back_beside_those_that_stay(server: RelayProcess, key: str, dialect: str) -> None:
    report = measured(
        server, key, "storm", "--dialect", dialect, "--connections", "60", "--staying", "5", "--seconds", "0.5"
    )
    assert report["connections"] == report["audit"]["reconnected"] == 60
    assert report["audit"] == {**dict.fromkeys(report["audit"], 0), "reconnected": 60}
    assert 0 < report["back_p50_s"] <= report["back_last_s"] < 10
    rounding = 0.0005 / report["back_last_s"]  # the time is told in milliseconds
    assert report["returns_per_s"] == pytest.approx(60 / report["back_last_s"], rel=0.01 + rounding)
    assert report["deliveries"] >= 5 * 20 + 60
    assert report["latency_ms"]["p99"] == pytest.approx(report["storm_p99_ms"], abs=0.001)


@pytest.mark.slow
def test_everybody_comes_back_after_a_restart() -> None:
    """Nobody stays through a restart: those that get the steady rate come back first, and resume as the crowd does."""
    result = bench("storm", "--connections", "30", "--staying", "5", "--seconds", "0.5", "--restart", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["audit"] == {**dict.fromkeys(report["audit"], 0), "reconnected": 35}


def test_only_an_own_server_is_restarted() -> None:
    assert "--restart is for a server of its own" in failed("storm", "--restart", "--url", "http://x", code=2)


@pytest.mark.slow
def test_market_reaches_everybody_with_every_symbol(server: RelayProcess, key: str) -> None:
    report = measured(server, key, "market", "--symbols", "4", "--connections", "5", "--rate", "80", "--seconds", "0.5")
    assert report["deliveries"] + report["audit"]["replaced"] == 5 * report["publications"]
    assert report["publications"] >= 30


@pytest.mark.slow
def test_connections_that_do_nothing(server: RelayProcess, key: str) -> None:
    report = measured(server, key, "connect", "--connections", "30")
    assert report["connections"] == 30
    assert report["connections_per_s"] > 1
    report = measured(server, key, "idle", "--connections", "30", "--seconds", "0.3")
    assert report["seconds"] >= 0.3
    assert "server_cpu_percent" in report
    assert "memory_kb_per_connection" in report


@pytest.mark.slow
def test_publishing_alone(server: RelayProcess, key: str) -> None:
    for more in ([], ["--durable"]):
        report = measured(server, key, "ingest", "--lines", "7", "--seconds", "0.1", *more)
        assert report["publications"] > 0
        assert report["publications"] % 7 == 0
        report = measured(server, key, "posts", "--connections", "3", "--seconds", "0.2", *more)
        assert report["publications"] > 0
        assert report["latency_ms"]["max"] > 0
        report = measured(server, key, "posts", "--connections", "3", "--array", "50", "--seconds", "0.2", *more)
        assert report["publications"] > 0
        assert report["publications"] % 50 == 0


@pytest.mark.slow
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


@pytest.mark.slow
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
        # The server logs nothing of sessions that go on: it has a socket for each of them, for the publisher and to listen.
        while not any(sockets(own) >= 5 + 2 for own in children(process.pid)):
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
    assert "Audit: no publication was lost, repeated or out of order." in out
    assert "latency p99.9, ms" in out
    assert not Path(f"/proc/{own}").exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_server_that_is_not_there() -> None:
    url = ["--url", "http://127.0.0.1:1", "--token", "t", "--key", "k"]
    assert "no connection was established: Connection refused" in failed("fanout", *url, "--connections", "2")
    assert "nothing can be published: Connection refused" in failed("ingest", *url)
    assert "not accepted: Connection refused" in failed("posts", *url)
    assert "no chat room could be created at http://127.0.0.1:1" in failed("chat", *url)


def test_what_a_load_needs_is_named(server: RelayProcess, key: str) -> None:
    url = ["--url", f"http://{server.address}"]
    assert "--token or RELAY_TOKEN" in failed("connect", *url)
    assert "--key or RELAY_KEY" in failed("fanout", *url, "--token", "t")
    assert "is not the URL of a server" in failed("connect", "--url", "http://[::1", "--token", "t")
    assert "no process has the id 4194304" in failed("connect", *url, "--token", "t", "--pid", "4194304")


@pytest.mark.slow
def test_refusals_of_the_server_are_shown(server: RelayProcess, key: str) -> None:
    url = ["--url", f"http://{server.address}", "--token", "no token"]
    assert "unauthorized" in failed("connect", *url, "--connections", "2")
    assert "the server answered 401" in failed("ingest", *url, "--key", "wrong")
    assert "not accepted: 401" in failed("posts", *url, "--key", "wrong")


def test_options_that_exclude_each_other() -> None:
    assert "exclude each other" in failed("fanout", "--rate", "1", "--window", "1", code=2)
    assert "feeds has neither" in failed("fanout", "--dialect", "feeds", "--flaky", "1", code=2)
    assert "--senders are members" in failed("chat", "--connections", "2", code=2)
    assert "--pid is for a server at --url" in failed("connect", "--pid", "1", code=2)
