"""Units of systemd for this installation, its configuration and its database."""

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
"""Where systemd makes the folders of StateDirectory=."""
CREDENTIALS_FOLDER = Path("/run/credentials/relay.service")
"""Where the service finds what LoadCredential= names."""
DEFAULT_STATE = "relay"
CLOSE_PERIOD = 30
"""Seconds that closing may take after shutdown_grace: sessions, and a database on a slow disk."""
HIDDEN_FOLDERS = tuple(map(Path, ("/home", "/root", "/run/user", "/tmp", "/var/tmp")))  # noqa: S108 - not used, but told apart
"""What ProtectHome= and PrivateTmp= hide from the service."""
BACKLOG = 65535
PRIVILEGED_PORTS = range(1, 1024)

SERVICE = """\
# Relay as a service of systemd (247 or newer), written by `relay systemd`. Install it with:
#   {command} systemd{option} | sudo tee /etc/systemd/system/relay.service
#   sudo systemctl daemon-reload
#   sudo systemctl enable --now relay.service
# Then `systemctl status relay` says how it does, and `journalctl -u relay` what it logged.
# With relay.socket beside it (`relay systemd --socket`) a restart refuses no connection.

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
# It is restarted too if its loop or its database's writer stands still.
WatchdogSec=30
# Each connection is an open file.
LimitNOFILE=65536

# What it may do: serve its port and write its own folder, and nothing else.
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
# The port of Relay, owned by systemd: while relay.service restarts, connections wait, and none is refused.
# Written by `relay systemd --socket`. Install it beside relay.service with:
#   {command} systemd --socket{option} | sudo tee /etc/systemd/system/relay.socket
#   sudo systemctl daemon-reload
#   sudo systemctl stop relay.service
#   sudo systemctl enable --now relay.socket relay.service
# server.host and server.port are not used then: the address is this one. To stop Relay, stop both:
# a connection to the socket starts the service.

[Unit]
Description=The port of Relay

[Socket]
{addresses}
# IPv4 and IPv6 are addresses of their own, as they are without this unit.
BindIPv6Only=ipv6-only
# How many connections wait. sysctl net.core.somaxconn, 4096 by default, bounds it: raise that past the number of clients
# that may come back at once. Those that find no place try again, each time later.
Backlog={backlog}

[Install]
WantedBy=sockets.target
"""


def service_of(config: Config, file: Path | None) -> str:
    """Return relay.service.

    Raises:
        ClickException: a path cannot stand in it.
    """
    for path in (file, *(path for _, path in _paths(config))):
        if not str(path).isprintable():
            raise click.ClickException(f"{printable(str(path))} has characters that no unit file can hold; rename it")
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
            f"# Port {config.server.port} is one of those below 1024.\n"
            "AmbientCapabilities=CAP_NET_BIND_SERVICE\n"
            "CapabilityBoundingSet=CAP_NET_BIND_SERVICE"
            if privileged
            else "CapabilityBoundingSet=\nPrivateUsers=yes"
        ),
    )


def socket_of(config: Config, file: Path | None) -> str:
    """Return relay.socket.

    Raises:
        ClickException: there is no address that systemd could listen on.
    """
    host, port = config.server.host, config.server.port
    if port == 0:
        raise click.ClickException("server.port is 0, a port that is free; systemd needs to know one: set it")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise click.ClickException(f"server.host {host} has no address ({error.strerror}); set it to one") from None
    addresses = dict.fromkeys(str(address[0]) for *_, address in found)
    return SOCKET.format(
        command=shlex.join(_command()),
        option=_option(file),
        addresses="\n".join(f"ListenStream={_bracketed(address)}:{port}" for address in addresses),
        backlog=BACKLOG,
    )


def hints(config: Config) -> Iterator[str]:
    """Yield what is to be done so that the service works, or works together with the commands."""
    store = config.store.path
    if _state_of(store) is None:
        yield f"The service keeps its database in {_default_store()}, not in {store}: it may write nowhere else."
        if store.exists():
            yield f"To take the present one along, copy it there before the first start: {store}"
        yield f'After the first start set path = "{_default_store()}" in [store] of the configuration, so that commands'
        yield "find it too; they must be run as root then."
    hidden = _hidden_folder(Path(sys.prefix), Path(sys.base_prefix), Path(__file__))
    if hidden is not None:
        yield f"This installation is in {hidden}, which the service may not see, so that it would not start. Install Relay"
        yield "elsewhere, as with: sudo python3 -m venv /opt/relay && sudo /opt/relay/bin/pip install ."
        yield "in the folder that you installed it from, and print the unit with: /opt/relay/bin/relay systemd"


def _files(config: Config, file: Path | None) -> Iterator[str]:
    """Yield the lines about files: each is where the service can use it, however the configuration names it."""
    if file is not None:
        yield "# systemd reads the configuration, and any certificate and key, so that they stay readable by root alone;"
        yield "# after a change, restart: with relay.socket nobody is refused meanwhile."
        yield f"LoadCredential=relay.toml:{_unspecified(str(file))}"
    if _state_of(config.store.path) is None:
        yield "# The database is in the one folder that the service may write. Set store.path to it after the first start,"
        yield "# so that commands, run as root, find it too; then this line may go."
        yield _environment("store.path", _default_store())
    for key_path, path in _paths(config):
        if key_path != "store.path":
            yield f"LoadCredential={key_path}:{_unspecified(str(path.absolute()))}"
            yield _environment(key_path, CREDENTIALS_FOLDER / key_path)


def _paths(section: Any, prefix: str = "") -> Iterator[tuple[str, Path]]:
    """Yield every setting that is a path and set."""
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
    """The name for StateDirectory= in whose folder the database is, if it can be in one."""
    if STATE_FOLDER not in store.parent.parents:
        return None
    name = str(store.parent.relative_to(STATE_FOLDER))
    return name if re.fullmatch(r"[A-Za-z0-9/._-]+", name) and ".." not in name else None


def _default_store() -> Path:
    return STATE_FOLDER / DEFAULT_STATE / "relay.db"


def _command() -> list[str]:
    """How this installation is called."""
    script = Path(sys.executable).with_name("relay")
    return [str(script)] if script.exists() else [sys.executable, "-m", "relay"]


def _hidden_folder(*paths: Path) -> Path | None:
    return next((folder for folder in HIDDEN_FOLDERS for path in paths if path.resolve().is_relative_to(folder)), None)


def _option(file: Path | None) -> str:
    return "" if file is None else f" --config {shlex.quote(str(file))}"


def _word(text: str) -> str:
    """A word of a unit file (systemd.syntax(7)): quoted where it has to be, with no specifier in it."""
    if all(character.isalnum() or character in "/._-+:@=,${}" for character in text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return _unspecified(f'"{escaped}"')


def _unspecified(text: str) -> str:
    return text.replace("%", "%%")


def _bracketed(address: str) -> str:
    return f"[{address}]" if ipaddress.ip_address(address).version == 6 else address
