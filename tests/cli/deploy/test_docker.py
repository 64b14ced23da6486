"""`relay deploy docker`: the Dockerfile and the compose file, read as Docker reads them."""

from __future__ import annotations

import json
import re
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from tests.certificates import write_certificate
from tests.cli.commands import configured, relay

VERSION = metadata.version("relay-server")


def printed(*arguments: str) -> tuple[list[tuple[str, str]], dict[str, Any], str]:
    """Return the instructions of the Dockerfile, the compose file, and the hints."""
    result = relay("deploy", "docker", *arguments)
    assert result.exit_code == 0, result.stderr
    dockerfile, compose = result.stdout.split("# ---- compose.yaml ----\n")
    lines = re.sub(r"(?m)^#.*\n", "", dockerfile).replace("\\\n", "").splitlines()
    instructions = [(line.split(" ", 1)[0], line.split(" ", 1)[1].strip()) for line in lines if line]
    return instructions, yaml.safe_load(compose), result.stderr


def values_of(instructions: list[tuple[str, str]], name: str) -> list[str]:
    """Return the arguments of each instruction of this name."""
    return [value for instruction, value in instructions if instruction == name]


def test_the_image_has_a_user_without_rights_a_volume_and_a_health_check() -> None:
    instructions, _, hints = printed()
    assert values_of(instructions, "FROM") == ["python:3.13-slim AS build", "python:3.13-slim"]
    assert values_of(instructions, "COPY")[0] == f"relay_server-{VERSION}-py3-none-any.whl /wheels/"
    [installing, creating] = values_of(instructions, "RUN")
    assert "--only-binary :all:" in installing
    assert "useradd --system --uid 10001" in creating
    assert "--owner=relay --mode=0700 /data" in creating
    order = [instruction for instruction, _ in instructions]
    assert order.index("USER") > order.index("RUN", order.index("USER") - 2)
    assert values_of(instructions, "USER") == ["relay"]
    assert values_of(instructions, "VOLUME") == ["/data"]
    assert values_of(instructions, "EXPOSE") == ["8080"]
    assert json.loads(values_of(instructions, "CMD")[0]) == ["relay", "serve"]
    environment = dict(word.split("=", 1) for word in values_of(instructions, "ENV")[0].split())
    assert environment["RELAY_SERVER__HOST"] == "0.0.0.0"
    assert environment["RELAY_STORE__PATH"] == "/data/relay.db"
    assert "pip wheel --no-deps --wheel-dir FOLDER ." in hints


def test_the_container_may_write_its_volume_alone(folder: Path) -> None:
    configured(folder, "[server]\nshutdown_grace = 7.5\nport = 9000\n")
    _, compose, hints = printed()
    assert set(compose["services"]) == {"relay"}
    service = compose["services"]["relay"]
    assert service["ports"] == ["127.0.0.1:9000:9000"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["stop_grace_period"] == "38s"
    assert service["ulimits"] == {"nofile": 65536}
    assert service["volumes"] == ["data:/data", f"{folder}/relay.toml:/etc/relay/relay.toml:ro"]
    assert service["environment"]["RELAY_CONFIG"] == "/etc/relay/relay.toml"
    assert f"sudo chown 10001 {folder}/relay.toml" in hints
    subnet = compose["networks"]["default"]["ipam"]["config"][0]["subnet"]
    assert json.loads(service["environment"]["RELAY_SERVER__TRUSTED_PROXIES"]) == [subnet]
    assert "depends_on" not in service


def test_variables_are_values_that_relay_reads() -> None:
    _, compose, _ = printed()
    value = compose["services"]["relay"]["environment"]["RELAY_SERVER__TRUSTED_PROXIES"]
    assert tomllib.loads(f"value = {value}")["value"] == ["172.30.80.0/24"]


def test_without_a_configuration_nothing_is_mounted() -> None:
    _, compose, hints = printed()
    service = compose["services"]["relay"]
    assert service["volumes"] == ["data:/data"]
    assert "RELAY_CONFIG" not in service["environment"]
    assert "chown" not in hints


def test_a_certificate_is_mounted_and_the_health_check_uses_tls(tmp_path: Path) -> None:
    home = tmp_path / "my $files"
    home.mkdir()
    write_certificate(home)
    configured(home, "[server]\ntls_cert = 'relay.crt'\ntls_key = 'relay.key'\n")
    instructions, compose, _ = printed("--config", str(home / "relay.toml"))
    service = compose["services"]["relay"]
    escaped = str(home).replace("$", "$$")
    assert f"{escaped}/relay.key:/etc/relay/server.tls_key:ro" in service["volumes"]
    assert service["environment"]["RELAY_SERVER__TLS_KEY"] == "/etc/relay/server.tls_key"
    [check] = values_of(instructions, "HEALTHCHECK")
    command = json.loads(check.partition("CMD ")[2])
    assert command[:2] == ["python", "-c"]
    assert "https://127.0.0.1:8080/readyz" in command[2]
    compile(command[2], "health check", "exec")


def test_postgres_runs_beside_it() -> None:
    instructions, compose, _ = printed("--postgres")
    assert "[postgres]" in values_of(instructions, "RUN")[0]
    assert "RELAY_STORE__PATH" not in values_of(instructions, "ENV")[0]
    service, postgres = compose["services"]["relay"], compose["services"]["postgres"]
    assert service["environment"]["RELAY_STORE__URL"].startswith("postgresql://relay:${POSTGRES_PASSWORD:?")
    assert service["environment"]["RELAY_STORE__URL"].endswith("@postgres/relay")
    assert service["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert postgres["healthcheck"]["test"][:2] == ["CMD", "pg_isready"]
    assert "ports" not in postgres, "only Relay reaches it"
    assert set(compose["volumes"]) == {"data", "postgres"}


def test_the_image_has_a_python_that_relay_supports() -> None:
    [image, _] = values_of(printed()[0], "FROM")
    version = re.search(r"3\.(\d+)", image)
    assert version is not None
    assert f"Python :: 3.{version[1]}" in "".join(metadata.metadata("relay-server").get_all("Classifier") or ())
