"""The certificate of new connections, and what becomes of it when its files change."""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import trio
from cryptography import x509

from relay.config.certificate import CertificateError
from relay.ground.clock import Clock
from relay.transports.certificates import Certificates
from tests.certificates import serial_number, write_certificate

POLL_INTERVAL = 0.02


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="relay.tls")


def logged(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str, dict[str, Any]]]:
    """Return level, message and fields of what was logged since this was last asked."""
    found = [(record.levelname, record.getMessage(), vars(record)["fields"]) for record in caplog.records]
    caplog.clear()
    return found


def open_certificates(folder: Path, poll_interval: float = POLL_INTERVAL) -> Certificates:
    return Certificates(folder / "relay.crt", folder / "relay.key", Clock().now, poll_interval=poll_interval)


async def served(certificates: Certificates) -> int:
    """Return the serial number of the certificate that a new connection is given."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def handshake() -> bytes:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            with (
                socket.create_connection(listening.getsockname()) as plain,
                context.wrap_socket(plain) as client,
            ):
                client.send(b"x")
                return client.getpeercert(binary_form=True) or b""

        async def serve() -> None:
            sock, peer = await trio.to_thread.run_sync(listening.accept)
            stream = certificates.make_stream(sock, peer)
            await stream.receive_some()
            stream.close()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            certificate = await trio.to_thread.run_sync(handshake)
    return serial_number(certificate)


@asynccontextmanager
async def watched(folder: Path, poll_interval: float = POLL_INTERVAL) -> AsyncIterator[Certificates]:
    certificates = open_certificates(folder, poll_interval)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            await nursery.start(certificates.run)
            yield certificates
            nursery.cancel_scope.cancel()


async def until_logged(caplog: pytest.LogCaptureFixture, message: str) -> dict[str, Any]:
    while True:
        for _, text, fields in logged(caplog):
            if text == message:
                return fields
        await trio.sleep(POLL_INTERVAL)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["written", "replaced", "linked"])
async def test_a_renewed_certificate_is_taken_up(tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str) -> None:
    first = write_certificate(tmp_path)
    if how == "linked":  # as certbot and Kubernetes have it
        (tmp_path / "1").mkdir()
        for name in ("relay.crt", "relay.key"):
            (tmp_path / name).rename(tmp_path / "1" / name)
            (tmp_path / name).symlink_to(tmp_path / "live" / name)
        (tmp_path / "live").symlink_to("1")
    async with watched(tmp_path) as certificates:
        assert await served(certificates) == first
        if how == "written":
            second = write_certificate(tmp_path)
        else:
            (tmp_path / "2").mkdir()
            second = write_certificate(tmp_path / "2")
            if how == "replaced":
                for name in ("relay.crt", "relay.key"):
                    (tmp_path / "2" / name).replace(tmp_path / name)
            else:
                (tmp_path / "new").symlink_to("2")
                (tmp_path / "new").replace(tmp_path / "live")
        assert (await until_logged(caplog, "certificate renewed"))["hosts"] == "localhost,127.0.0.1"
        assert await served(certificates) == second != first
        await trio.sleep(5 * POLL_INTERVAL)
        assert logged(caplog) == [], "once"


@pytest.mark.slow
async def test_a_renewal_that_takes_its_time_is_not_read_in_the_middle(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_certificate(tmp_path)
    async with watched(tmp_path, poll_interval=0.4) as certificates:
        (tmp_path / "2").mkdir()
        second = write_certificate(tmp_path / "2")
        for name in ("relay.crt", "relay.key"):
            content = (tmp_path / "2" / name).read_bytes()
            for end in range(0, len(content), 40):
                (tmp_path / name).write_bytes(content[:end])
                await trio.sleep(0.05)
            (tmp_path / name).write_bytes(content)
        assert [level for level, _, _ in logged(caplog)] == ["INFO"], "loaded once"
        await until_logged(caplog, "certificate renewed")
        assert await served(certificates) == second


@pytest.mark.slow
@pytest.mark.parametrize("defect", ["mismatch", "garbage", "missing"])
async def test_a_renewal_that_cannot_be_used_leaves_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, defect: str
) -> None:
    first = write_certificate(tmp_path)
    async with watched(tmp_path) as certificates:
        logged(caplog)
        if defect == "mismatch":
            write_certificate(tmp_path, name="other")
            (tmp_path / "other.key").replace(tmp_path / "relay.key")
        elif defect == "garbage":
            (tmp_path / "relay.crt").write_text("nothing")
        else:
            (tmp_path / "relay.crt").unlink()
        while not (found := logged(caplog)):
            await trio.sleep(POLL_INTERVAL)
        [(level, message, fields)] = found
        assert (level, message) == ("ERROR", "new certificate cannot be used, keeping the previous one")
        assert fields["setting"] == ("server.tls_key" if defect == "mismatch" else "server.tls_cert")
        assert str(tmp_path) in str(fields["cause"])
        assert await served(certificates) == first
        await trio.sleep(5 * POLL_INTERVAL)
        assert logged(caplog) == [], "it is said once"
        third = write_certificate(tmp_path)
        await until_logged(caplog, "certificate renewed")
        assert await served(certificates) == third


async def test_a_reload_does_not_wait(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_certificate(tmp_path)
    certificates = open_certificates(tmp_path)
    second = write_certificate(tmp_path)
    await certificates.reload()
    assert await served(certificates) == second
    (tmp_path / "relay.key").write_text("nothing")
    await certificates.reload()
    assert await served(certificates) == second
    assert [level for level, _, _ in logged(caplog)][-1] == "ERROR"


@pytest.mark.parametrize(
    ("days", "warning"),
    [
        (-1, "the certificate has expired: clients will refuse it"),
        (6, "the certificate is about to expire"),
        (8, None),
    ],
)
def test_a_certificate_at_its_end_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, days: int, warning: str | None
) -> None:
    write_certificate(tmp_path, expires_in=timedelta(days=days).total_seconds())
    open_certificates(tmp_path)
    said = logged(caplog)
    assert said[0][:2] == ("INFO", "certificate loaded")
    assert [(level, message) for level, message, _ in said[1:]] == ([("WARNING", warning)] if warning else [])


def test_without_a_certificate_there_is_nothing_to_serve(tmp_path: Path) -> None:
    with pytest.raises(CertificateError) as caught:
        open_certificates(tmp_path)
    assert caught.value.setting == "tls_cert"


async def test_names_that_are_not_understood_are_no_reason_to_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A certificate may name what is no host, such as an address of X.400. It serves all the same."""
    write_certificate(tmp_path)
    certificates = open_certificates(tmp_path)
    x400 = x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, bytes.fromhex("3002a300"))
    serial = write_certificate(tmp_path, names=x400)
    await certificates.reload()
    assert (await until_logged(caplog, "certificate renewed"))["hosts"] == ""
    assert await served(certificates) == serial
