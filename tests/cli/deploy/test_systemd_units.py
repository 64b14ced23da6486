"""`relay deploy systemd`: the units, read as systemd reads them, and the hints beside them."""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from relay.cli.deploy import systemd_units as units
from tests.cli.commands import failed, relay

Unit = dict[str, dict[str, list[str]]]


def printed(*arguments: str) -> tuple[Unit, str]:
    """Return the unit that is printed, and the hints beside it."""
    result = relay("deploy", "systemd", *arguments)
    assert result.exit_code == 0, result.stderr
    return parsed(result.stdout), result.stderr


def parsed(text: str) -> Unit:
    """Read a unit as systemd does (systemd.syntax(7)), but for what is never printed: continued lines."""
    unit: Unit = {}
    assignments: dict[str, list[str]] | None = None
    for line in text.splitlines():
        assert line == line.strip()
        assert not line.endswith("\\")
        if line.startswith("["):
            assert line.endswith("]")
            assert line[1:-1] not in unit
            assignments = unit[line[1:-1]] = defaultdict(list)
        elif line and not line.startswith("#"):
            key, equals, value = line.partition("=")
            assert key.isalnum(), line
            assert equals
            assert assignments is not None
            assignments[key].append(value)
    return unit


def config(text: str = "", path: Path = Path("relay.toml")) -> Path:
    path.write_text(text)
    return path.absolute()


def test_the_service_is_this_installation_with_its_configuration() -> None:
    file = config("[server]\nshutdown_grace = 7.5\n")
    unit, hints = printed()
    service = unit["Service"]
    [start] = service["ExecStart"]
    program, *arguments = start.split(" ")
    assert Path(program).exists()
    assert Path(program).parent == Path(sys.executable).parent
    assert arguments[-3:] == ["serve", "--config", "/run/relay/relay.toml"]
    copy = f"+/usr/bin/install -m 0444 {file} /run/relay/relay.toml"
    assert (service["RuntimeDirectory"], service["RuntimeDirectoryMode"]) == (["relay"], ["0700"])
    assert service["ExecStartPre"] == [copy]
    assert service["ExecReload"] == [copy, "/bin/kill -HUP $MAINPID"]
    assert service["Type"] == ["notify"]
    assert service["TimeoutStopSec"] == ["38"]
    assert set(unit) == {"Unit", "Service", "Install"}
    for name, value in {
        "DynamicUser": "yes", "StateDirectory": "relay", "ProtectSystem": "strict", "ProtectHome": "yes", "PrivateTmp": "yes",
        "PrivateDevices": "yes", "NoNewPrivileges": "yes", "CapabilityBoundingSet": "", "SystemCallFilter": "@system-service",
        "RestrictAddressFamilies": "AF_UNIX AF_INET AF_INET6", "MemoryDenyWriteExecute": "yes", "LimitNOFILE": "65536",
        "WatchdogSec": "30", "Restart": "on-failure",
    }.items():  # fmt: skip
        assert service[name] == [value], name
    assert "/var/lib/relay/relay.db" in hints


def test_without_a_configuration_there_is_none_in_the_unit() -> None:
    unit, _ = printed()
    assert unit["Service"]["ExecStart"][0].endswith(" serve")
    assert not {"LoadCredential", "ExecStartPre", "ExecReload"} & set(unit["Service"])


def test_the_database_is_where_the_service_may_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "STATE_FOLDER", tmp_path / "lib")
    for folder, state in (
        ("lib/chat", "chat"),
        ("lib/a/b", "a/b"),
        ("lib", None),
        ("lib/a b", None),
        ("library", None),
    ):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        config(f'[store]\npath = "{tmp_path}/{folder}/x.db"\n')
        unit, hints = printed()
        assert unit["Service"]["StateDirectory"] == [state or "relay"]
        moved = unit["Service"].get("Environment")
        assert moved == (None if state else [f"RELAY_STORE__PATH={tmp_path}/lib/relay/relay.db"])
        assert ("The service keeps its database in" in hints) == (state is None)


def test_paths_are_quoted_and_have_no_specifiers(tmp_path: Path) -> None:
    folder = tmp_path / "100% of my files"
    folder.mkdir()
    (folder / "key.pem").write_bytes(_public_key())
    text = '[auth]\njwt_public_key_file = "key.pem"\njwt_algorithms = ["EdDSA"]\n'
    unit, _ = printed("--config", str(config(text, folder / "relay.toml")))
    quoted = str(folder).replace("%", "%%")
    key = "auth.jwt_public_key_file"
    assert unit["Service"]["LoadCredential"] == [f"{key}:{quoted}/key.pem"]
    assert unit["Service"]["ExecStartPre"] == [f'+/usr/bin/install -m 0444 "{quoted}/relay.toml" /run/relay/relay.toml']
    assert f"RELAY_AUTH__JWT_PUBLIC_KEY_FILE=/run/credentials/relay.service/{key}" in unit["Service"]["Environment"]


def test_a_path_that_would_break_the_unit_is_refused(tmp_path: Path) -> None:
    assert "a unit file cannot contain" in failed(
        "systemd", "--config", str(config("", tmp_path / "a\nUser=root\nb.toml"))
    )


def test_a_port_below_1024_gets_what_it_needs() -> None:
    config("[server]\nport = 80\n")
    service = printed()[0]["Service"]
    assert service["AmbientCapabilities"] == service["CapabilityBoundingSet"] == ["CAP_NET_BIND_SERVICE"]
    assert "PrivateUsers" not in service


@pytest.mark.parametrize(
    ("host", "streams"),
    [
        ("127.0.0.1", ["127.0.0.1:9000"]),
        ("0.0.0.0", ["0.0.0.0:9000"]),
        ("::", ["[::]:9000"]),
        ("::1", ["[::1]:9000"]),
    ],
)
def test_the_socket_is_the_configured_address(host: str, streams: list[str]) -> None:
    config(f'[server]\nhost = "{host}"\nport = 9000\n')
    unit, hints = printed("--socket")
    assert unit["Socket"]["ListenStream"] == streams
    assert set(unit) == {"Unit", "Socket", "Install"}
    assert hints == ""


def test_a_socket_needs_a_port() -> None:
    config("[server]\nport = 0\n")
    assert "server.port is 0" in failed("deploy", "systemd", "--socket")


def test_an_installation_that_the_service_may_not_see_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "HIDDEN_FOLDERS", (Path(sys.prefix),))
    assert f"This installation is in {sys.prefix}, which systemd hides from the service" in printed()[1]
    monkeypatch.setattr(units, "HIDDEN_FOLDERS", (Path("/nowhere"),))
    assert "hides from the service" not in printed()[1]


def test_instances_share_the_port_as_one_user_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(_public_key())
    config('[auth]\njwt_public_key_file = "key.pem"\njwt_algorithms = ["EdDSA"]\n')
    unit, hints = printed("--instances")
    service, alone = unit["Service"], printed()[0]["Service"]
    assert service["User"] == ["relay"]
    assert service["StateDirectory"] == ["relay/%i"]
    credentials = "/run/credentials/relay@%i.service"
    assert service["Environment"] == [
        "RELAY_SERVER__REUSE_PORT=true",
        "RELAY_STORE__PATH=/var/lib/relay/%i/relay.db",
        f"RELAY_AUTH__JWT_PUBLIC_KEY_FILE={credentials}/auth.jwt_public_key_file",
    ]
    assert service["RuntimeDirectory"] == ["relay/%i"]
    different = {"User", "StateDirectory", "RuntimeDirectory", "Environment"}

    def same(values: dict[str, list[str]]) -> dict[str, list[str]]:
        found = {name: value for name, value in values.items() if name not in different}
        return {name: [one.replace("/run/relay/%i/", "/run/relay/") for one in value] for name, value in found.items()}

    assert same(service) == same(alone)
    assert "SQLite serves one process" in hints
    assert "does not go with --socket" in failed("deploy", "systemd", "--instances", "--socket", code=2)


def test_the_old_name_prints_the_same() -> None:
    for options in ((), ("--socket",), ("--instances",)):
        assert relay("systemd", *options).stdout == relay("deploy", "systemd", *options).stdout


def _public_key() -> bytes:
    key = ed25519.Ed25519PrivateKey.generate().public_key()
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
