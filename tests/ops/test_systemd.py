"""Sockets that systemd passes, and notices that it is sent."""

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from relay.ops import systemd
from relay.ops.systemd import Notifier, SystemdError, take_listeners, take_notifier
from tests.activation import listening, notices
from tests.running import config_for, running

NOT_OPEN = 100_000
"""A file descriptor past every limit."""

# -- sockets that are passed -------------------------------------------------------------------------------------------


def passed(monkeypatch: pytest.MonkeyPatch, fd: int, count: object = 1, pid: int | None = None) -> dict[str, str]:
    """The environment in which file descriptors from `fd` on were passed."""
    monkeypatch.setattr(systemd, "FIRST_PASSED_FILE", fd)
    return {
        "LISTEN_FDS": str(count),
        "LISTEN_PID": str(os.getpid() if pid is None else pid),
        "LISTEN_FDNAMES": "a:b",
        "HOME": "/",
    }


def test_a_listening_socket_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with listening() as socket_of_systemd:
        address = socket_of_systemd.getsockname()
        fd = os.dup(socket_of_systemd.fileno())
        os.set_inheritable(fd, True)
        environ = passed(monkeypatch, fd)
        [taken] = take_listeners(environ)
        with taken:
            assert taken.getsockname() == address
            assert taken.gettimeout() == 0.0
            assert not taken.get_inheritable()
            with socket.create_connection(address), taken.accept()[0]:
                pass
        assert environ == {"HOME": "/"}


def test_without_sockets_none_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert take_listeners({}) == []
    assert take_listeners(passed(monkeypatch, 3, count=0)) == []


def test_what_was_passed_to_another_process_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with listening() as theirs:
        environ = passed(monkeypatch, theirs.fileno(), pid=os.getppid())
        assert take_listeners(environ) == []
        assert environ == {"HOME": "/"}
        theirs.getsockname()


@pytest.fixture
def wrong(tmp_path: Path) -> Iterator[dict[str, tuple[int, str]]]:
    file = os.open(tmp_path, os.O_RDONLY)
    with (
        socket.socket(socket.AF_UNIX) as unix,
        socket.socket(type=socket.SOCK_DGRAM) as datagrams,
        socket.socket() as silent,
    ):
        yield {
            "a folder": (file, "is not a socket"),
            "nothing": (NOT_OPEN, "nothing is open there"),
            "a Unix socket": (unix.fileno(), "is not a TCP socket; use ListenStream="),
            "datagrams": (datagrams.fileno(), "is a datagram socket"),
            "a socket that does not listen": (silent.fileno(), "does not listen"),
        }
        silent.getsockname()  # still open, as all of them: it is systemd's
    os.close(file)


def test_what_cannot_be_listened_on_is_refused(
    monkeypatch: pytest.MonkeyPatch, wrong: dict[str, tuple[int, str]]
) -> None:
    for fd, message in wrong.values():
        with pytest.raises(SystemdError, match=message) as refused:
            take_listeners(passed(monkeypatch, fd))
        assert f" {fd}" in str(refused.value)


@pytest.mark.parametrize("count", ["x", "-1", "1.5", "65", "9" * 500, "²"])
def test_a_count_that_cannot_be_meant_is_refused(monkeypatch: pytest.MonkeyPatch, count: str) -> None:
    with pytest.raises(SystemdError, match="LISTEN_FDS is"):
        take_listeners(passed(monkeypatch, 3, count=count))


# -- notices -----------------------------------------------------------------------------------------------------------


def test_the_environment_says_who_wants_to_hear() -> None:
    assert take_notifier({}) == Notifier(None, None)
    assert take_notifier({"WATCHDOG_USEC": "1"}) == Notifier(None, None)
    mine, theirs = str(os.getpid()), str(os.getppid())
    for pid, timeout in ((mine, 30.0), ("", 30.0), (theirs, None)):
        environ = {"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": pid, "HOME": "/"}
        assert take_notifier(environ) == Notifier("/run/x", timeout)
        assert environ == {"HOME": "/"}
    assert take_notifier({"NOTIFY_SOCKET": "@x"}) == Notifier("@x", None)


@pytest.mark.parametrize("address", ["x", "vsock:2:1234", "@"])
def test_an_address_that_cannot_be_meant_is_refused(address: str) -> None:
    with pytest.raises(SystemdError, match="NOTIFY_SOCKET is"):
        take_notifier({"NOTIFY_SOCKET": address})


@pytest.mark.parametrize("usec", ["x", "0", "-5", "1.5"])
def test_a_watchdog_time_that_cannot_be_meant_is_refused(usec: str) -> None:
    with pytest.raises(SystemdError, match="WATCHDOG_USEC is"):
        take_notifier({"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": usec})


async def test_notices_are_sent_to_paths_and_abstract_names(tmp_path: Path) -> None:
    for address in (str(tmp_path / "notify"), f"@relay-test-{os.getpid()}"):
        with notices(address) as heard:
            notifier = Notifier(address, None)
            await notifier.ready("Listening.")
            assert await heard.receive() == {"READY": "1", "STATUS": "Listening."}
            await notifier.stopping("Going.")
            assert await heard.receive() == {"STOPPING": "1", "STATUS": "Going."}


async def test_nobody_who_hears_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "NOTICE_TIMEOUT", 0.05)
    await Notifier(None, None).ready("x")
    await Notifier(str(tmp_path / "nothing"), None).ready("x")
    with notices(str(tmp_path / "full")) as heard:
        with pytest.raises(BlockingIOError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as flood:
            flood.setblocking(False)
            while True:
                flood.sendto(b"x", heard.address)
        with trio.fail_after(2):
            await Notifier(heard.address, None).ready("x")


@pytest.mark.timed
@pytest.mark.slow
async def test_the_watchdog_hears_of_what_lives_alone(tmp_path: Path) -> None:
    """Signs of life come at half of the time, each after a proof; while there is none they stop."""
    alive = trio.Event()
    proofs = 0

    async def prove() -> None:
        nonlocal proofs
        proofs += 1
        if proofs >= 3:
            await alive.wait()

    with notices(str(tmp_path / "notify")) as heard:
        async with trio.open_nursery() as nursery:
            begun = time.monotonic()
            await nursery.start(Notifier(heard.address, 0.2).run, prove, lambda: "Well.")
            for _ in range(2):
                assert await heard.receive() == {"WATCHDOG": "1", "STATUS": "Well."}
            assert 0.2 <= time.monotonic() - begun < 0.4
            with pytest.raises(trio.TooSlowError):
                await heard.receive(0.5)
            alive.set()
            assert "WATCHDOG" in await heard.receive()
            nursery.cancel_scope.cancel()


async def test_who_is_not_watched_still_says_how_it_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "STATUS_INTERVAL", 0.02)

    async def prove() -> None:
        raise AssertionError

    with notices(str(tmp_path / "notify")) as heard:
        async with trio.open_nursery() as nursery:
            await nursery.start(Notifier(heard.address, None).run, prove, lambda: "Well.")
            assert await heard.receive() == {"STATUS": "Well."}
            nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_a_store_that_does_not_answer_is_no_sign_of_life(tmp_path: Path) -> None:
    """The writer's thread is at work for longer than the watchdog waits: it hears nothing meanwhile, and then again."""
    with notices(str(tmp_path / "notify")) as heard:
        async with (
            running(config_for(tmp_path), notifier=Notifier(heard.address, 0.4)) as (server, address),
            trio.open_nursery() as nursery,
        ):
            assert f"Listening at http://{address}; sessions: 0" in (await heard.until("WATCHDOG"))["STATUS"]
            nursery.start_soon(server.database.write, lambda _: time.sleep(1.5))
            await trio.sleep(0.3)  # what was under way is over
            heard.forget()
            with pytest.raises(trio.TooSlowError):
                await heard.until("WATCHDOG", timeout=0.8)
            await heard.until("WATCHDOG", timeout=3)
