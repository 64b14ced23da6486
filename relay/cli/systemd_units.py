"""Units for systemd, for this installation, its configuration and its database."""

from __future__ import annotations

import ipaddress
import math
import re
import shlex
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import click

from relay.config.tree import Config
from relay.ground.logs import printable

STATE_FOLDER = Path("/var/lib")
"""The folder in which systemd creates those of StateDirectory=."""
CREDENTIALS_FOLDER = Path("/run/credentials/relay.service")
"""The folder in which the service finds the files of LoadCredential=."""
DEFAULT_STATE = "relay"
CLOSE_PERIOD = 30
"""Seconds that closing sessions and the database may take after shutdown_grace, on a slow disk."""
HIDDEN_FOLDERS = tuple(map(Path, ("/home", "/root", "/run/user", "/tmp", "/var/tmp")))  # noqa: S108 - these folders are only compared
"""The folders that ProtectHome= and PrivateTmp= hide from the service."""
BACKLOG = 65535
PRIVILEGED_PORTS = range(1, 1024)

SERVICE = """\
# Relay as a service of systemd (247 or newer), written by `relay systemd`. Install it with:
#   {command} systemd{option} | sudo tee /etc/systemd/system/relay.service
#   sudo systemctl daemon-reload
#   sudo systemctl enable --now relay.service
# Then `systemctl status relay` shows its state, and `journalctl -u relay` its log.
# With relay.socket (`relay systemd --socket`) a restart does not refuse connections.

[Unit]
Description=Relay, a realtime server
Wants=network-online.target
After=network-online.target

[Service]
Type=notify
ExecStart={exec_start}
{files}
# A stop takes up to shutdown_grace ({grace:g} s), and then the time to close the database.
TimeoutStopSec={stop_timeout}
Restart=on-failure
RestartSec=1
# systemd also restarts it if its event loop or the writer of its database hangs.
WatchdogSec=30
# Each connection is an open file.
LimitNOFILE=65536

# It may serve its port and write its own folder, and nothing else.
DynamicUser=yes
StateDirectory={state}
StateDirectoryMode=0700
UMask=0077
{capabilities}
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectProc=invisible
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
"""

SOCKET = """\
# The port of Relay, owned by systemd: while relay.service restarts, connections wait instead of being refused.
# Written by `relay systemd --socket`. Install it beside relay.service with:
#   {command} systemd --socket{option} | sudo tee /etc/systemd/system/relay.socket
#   sudo systemctl daemon-reload
#   sudo systemctl stop relay.service
#   sudo systemctl enable --now relay.socket relay.service
# server.host and server.port are not used then: the address below is. To stop Relay, stop both units:
# a connection to the socket starts the service.

[Unit]
Description=The port of Relay

[Socket]
{addresses}
# IPv4 and IPv6 are separate addresses, as they are without this unit.
BindIPv6Only=ipv6-only
# The number of connections that wait. sysctl net.core.somaxconn, 4096 by default, bounds it: raise that above the
# number of clients that may reconnect at once. Clients that find the queue full retry with growing delays.
Backlog={backlog}

[Install]
WantedBy=sockets.target
"""


def service_of(config: Config, file: Path | None) -> str:
    """Return relay.service.

    Raises:
        ClickException: a path has characters that a unit file cannot contain.
    """
    for path in (file, *(path for _, path in _paths(config))):
        if not str(path).isprintable():
            raise click.ClickException(
                f"{printable(str(path))} has characters that a unit file cannot contain; rename it"
            )
    arguments = "" if file is None else " --config ${CREDENTIALS_DIRECTORY}/relay.toml"
    state = _state_of(config.store.path) or DEFAULT_STATE
    privileged = config.server.port in PRIVILEGED_PORTS
    return SERVICE.format(
        command=shlex.join(_command()),
        option=_option(file),
        exec_start=" ".join(_word(word).replace("$", "$$") for word in [*_command(), "serve"]) + arguments,
        files="\n".join(_files(config, file)),
        grace=config.server.shutdown_grace,
        stop_timeout=math.ceil(config.server.shutdown_grace) + CLOSE_PERIOD,
        state=state,
        capabilities=(
            f"# A port below 1024, such as {config.server.port}, needs this capability.\n"
            "AmbientCapabilities=CAP_NET_BIND_SERVICE\n"
            "CapabilityBoundingSet=CAP_NET_BIND_SERVICE"
            if privileged
            else "CapabilityBoundingSet=\nPrivateUsers=yes"
        ),
    )


def socket_of(config: Config, file: Path | None) -> str:
    """Return relay.socket.

    Raises:
        ClickException: server.host and server.port are not an address that systemd can listen on.
    """
    host, port = config.server.host, config.server.port
    if port == 0:
        raise click.ClickException(
            "server.port is 0, which takes a free port; systemd needs a fixed one: set server.port"
        )
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise click.ClickException(
            f"server.host {host} has no address ({error.strerror}); set it to an address"
        ) from None
    addresses = dict.fromkeys(str(address[0]) for *_, address in found)
    return SOCKET.format(
        command=shlex.join(_command()),
        option=_option(file),
        addresses="\n".join(f"ListenStream={_bracketed(address)}:{port}" for address in addresses),
        backlog=BACKLOG,
    )


def hints(config: Config) -> Iterator[str]:
    """Yield the steps that remain, so that the service starts and commands use the same database."""
    store = config.store.path
    if _state_of(store) is None:
        yield f"The service keeps its database in {_default_store()}, not in {store}, because it may write only there."
        if store.exists():
            yield f"To keep the present database, copy it there before the first start: {store}"
        yield f'After the first start set path = "{_default_store()}" in [store] of the configuration, so that commands'
        yield "use it too. Commands must then run as root."
    hidden = _hidden_folder(Path(sys.prefix), Path(sys.base_prefix), Path(__file__))
    if hidden is not None:
        yield f"This installation is in {hidden}, which systemd hides from the service, so it would not start. Install Relay"
        yield "elsewhere, as with: sudo python3 -m venv /opt/relay && sudo /opt/relay/bin/pip install ."
        yield "in the folder that you installed it from, and print the unit with: /opt/relay/bin/relay systemd"


def _files(config: Config, file: Path | None) -> Iterator[str]:
    """Yield the lines about files, so that the service can read each of them."""
    if file is not None:
        yield "# systemd reads the configuration, and any certificate and key, so only root needs to be able to read them."
        yield "# Restart after a change. With relay.socket no connection is refused meanwhile."
        yield f"LoadCredential=relay.toml:{_unspecified(str(file))}"
    if _state_of(config.store.path) is None:
        yield "# The database is in the only folder that the service may write. Set store.path to it after the first start,"
        yield "# so that commands, run as root, use it too. Then remove this line."
        yield _environment("store.path", _default_store())
    for key_path, path in _paths(config):
        if key_path != "store.path":
            yield f"LoadCredential={key_path}:{_unspecified(str(path.absolute()))}"
            yield _environment(key_path, CREDENTIALS_FOLDER / key_path)


def _paths(section: Any, prefix: str = "") -> Iterator[tuple[str, Path]]:
    """Yield the key path and the value of every path that is set."""
    for field in attrs.fields(type(section)):
        value = getattr(section, field.name)
        if attrs.has(type(value)):
            yield from _paths(value, f"{prefix}{field.name}.")
        elif isinstance(value, Path):
            yield f"{prefix}{field.name}", value


def _environment(key_path: str, path: Path) -> str:
    name = key_path.upper().replace(".", "__")
    return "Environment=" + _word(f"RELAY_{name}={path}")


def _state_of(store: Path) -> str | None:
    """Return the name for StateDirectory= that is the database's folder, or None if it is elsewhere."""
    if STATE_FOLDER not in store.parent.parents:
        return None
    name = str(store.parent.relative_to(STATE_FOLDER))
    return name if re.fullmatch(r"[A-Za-z0-9/._-]+", name) and ".." not in name else None


def _default_store() -> Path:
    return STATE_FOLDER / DEFAULT_STATE / "relay.db"


def _command() -> list[str]:
    """Return the command that runs this installation."""
    script = Path(sys.executable).with_name("relay")
    return [str(script)] if script.exists() else [sys.executable, "-m", "relay"]


def _hidden_folder(*paths: Path) -> Path | None:
    return next((folder for folder in HIDDEN_FOLDERS for path in paths if path.resolve().is_relative_to(folder)), None)


def _option(file: Path | None) -> str:
    return "" if file is None else f" --config {shlex.quote(str(file))}"


def _word(text: str) -> str:
    """Return a word of a unit file (systemd.syntax(7)), quoted if necessary and without specifiers."""
    if all(character.isalnum() or character in "/._-+:@=,${}" for character in text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return _unspecified(f'"{escaped}"')


def _unspecified(text: str) -> str:
    return text.replace("%", "%%")


def _bracketed(address: str) -> str:
    return f"[{address}]" if ipaddress.ip_address(address).version == 6 else address
