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

import attrs
import click

from relay.cli.deploy.facts import CLOSE_PERIOD, STORE_PATH, fixed_port, paths_of, uses_sqlite, variable_of
from relay.config.tree import Config
from relay.ground.logs import printable

STATE_FOLDER = Path("/var/lib")
"""The folder in which systemd creates those of StateDirectory=."""
RUNTIME_FOLDER = Path("/run")
"""The folder in which systemd creates those of RuntimeDirectory=, and removes them at the stop."""
CREDENTIALS_FOLDER = Path("/run/credentials")
"""The folder with a folder for each service, in which the service finds the files of LoadCredential=."""
DEFAULT_STATE = "relay"
HIDDEN_FOLDERS = tuple(map(Path, ("/home", "/root", "/run/user", "/tmp", "/var/tmp")))  # noqa: S108 - these folders are only compared
"""The folders that ProtectHome= and PrivateTmp= hide from the service."""
BACKLOG = 65535
PRIVILEGED_PORTS = range(1, 1024)

SERVICE = """\
{header}
[Unit]
Description=Relay, a realtime server{instance}
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
{user}StateDirectory={state}
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

HEADER = """\
# Relay as a service of systemd (247 or newer), written by `relay deploy systemd`. Install it with:
#   {command} deploy systemd{option} | sudo tee /etc/systemd/system/relay.service
#   sudo systemctl daemon-reload
#   sudo systemctl enable --now relay.service
# Then `systemctl status relay` shows its state, and `journalctl -u relay` its log.
# With relay.socket (`relay deploy systemd --socket`) a restart does not refuse connections.
"""

INSTANCES_HEADER = """\
# Several processes of Relay that share one port, as services of systemd (247 or newer), written by
# `relay deploy systemd --instances`. The part behind the @ names a process. Install two of them with:
#   {command} deploy systemd --instances{option} | sudo tee /etc/systemd/system/relay@.service
#   sudo systemctl daemon-reload
#   sudo systemctl enable --now relay@1 relay@2
# Restart them one after the other, so that the other one takes new connections: systemctl restart relay@1
# Connections that wait when a process stops go to another one if the kernel (5.14 or newer) moves them:
#   sudo sysctl -w net.ipv4.tcp_migrate_req=1
"""

SHARED_USER = """\
# The kernel shares a port between processes of one user alone, so the instances have the same one.
User=relay
"""

SOCKET = """\
# The port of Relay, owned by systemd: while relay.service restarts, connections wait instead of being refused.
# Written by `relay deploy systemd --socket`. Install it beside relay.service with:
#   {command} deploy systemd --socket{option} | sudo tee /etc/systemd/system/relay.socket
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


@attrs.frozen
class Unit:
    """The name of a service, and the places that follow from it."""

    instances: bool
    """Whether it is a template for several processes that share the port."""

    @property
    def state(self) -> str:
        """The name for StateDirectory=, unless the configuration names another one."""
        return f"{DEFAULT_STATE}/%i" if self.instances else DEFAULT_STATE

    @property
    def store(self) -> Path:
        """The database in that folder."""
        return STATE_FOLDER / self.state / "relay.db"

    @property
    def config(self) -> Path:
        """The copy of the configuration that the service reads."""
        return RUNTIME_FOLDER / (f"{DEFAULT_STATE}/%i" if self.instances else DEFAULT_STATE) / "relay.toml"

    @property
    def credentials(self) -> Path:
        """The folder with the files of LoadCredential=."""
        return CREDENTIALS_FOLDER / ("relay@%i.service" if self.instances else "relay.service")

    def state_of(self, config: Config) -> str | None:
        """Return the name for StateDirectory= that is the folder of the database, or None if the database moves."""
        return None if self.instances or not uses_sqlite(config) else _state_of(config.store.path)


def service_of(config: Config, file: Path | None, *, instances: bool = False) -> str:
    """Return relay.service, or relay@.service for several processes that share the port.

    Raises:
        ClickException: a path has characters that a unit file cannot contain, or the instances have no fixed port.
    """
    for path in (file, *(path for _, path in paths_of(config))):
        if not str(path).isprintable():
            raise click.ClickException(
                f"{printable(str(path))} has characters that a unit file cannot contain; rename it"
            )
    unit = Unit(instances)
    if instances:
        fixed_port(config)
    arguments = "" if file is None else f" --config {unit.config}"
    header = (INSTANCES_HEADER if instances else HEADER).format(command=shlex.join(_command()), option=_option(file))
    return SERVICE.format(
        header=header,
        instance=" (%i)" if instances else "",
        exec_start=" ".join(map(_argument, [*_command(), "serve"])) + arguments,
        files="\n".join(_files(config, file, unit)),
        grace=config.server.shutdown_grace,
        stop_timeout=math.ceil(config.server.shutdown_grace) + CLOSE_PERIOD,
        user=SHARED_USER if instances else "",
        state=unit.state_of(config) or unit.state,
        capabilities=(
            f"# A port below 1024, such as {config.server.port}, needs this capability.\n"
            "AmbientCapabilities=CAP_NET_BIND_SERVICE\n"
            "CapabilityBoundingSet=CAP_NET_BIND_SERVICE"
            if config.server.port in PRIVILEGED_PORTS
            else "CapabilityBoundingSet=\nPrivateUsers=yes"
        ),
    )


def socket_of(config: Config, file: Path | None) -> str:
    """Return relay.socket.

    Raises:
        ClickException: server.host and server.port are not an address that systemd can listen on.
    """
    host, port = config.server.host, fixed_port(config)
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


def hints(config: Config, *, instances: bool = False) -> Iterator[str]:
    """Yield the steps that remain, so that the service starts and commands use the same database."""
    unit = Unit(instances)
    store = config.store.path
    if not uses_sqlite(config):
        pass
    elif instances:
        yield f"Each instance has a database of its own, {unit.store}, because SQLite serves one process. So a client"
        yield "does not receive a publication to another instance. Instances share their data in PostgreSQL alone."
    elif unit.state_of(config) is None:
        yield f"The service keeps its database in {unit.store}, not in {store}, because it may write only there."
        if store.exists():
            yield f"To keep the present database, copy it there before the first start: {store}"
        yield f'After the first start set path = "{unit.store}" in [store] of the configuration, so that commands'
        yield "use it too. Commands must then run as root."
    hidden = _hidden_folder(Path(sys.prefix), Path(sys.base_prefix), Path(__file__))
    if hidden is not None:
        yield f"This installation is in {hidden}, which systemd hides from the service, so it would not start. Install Relay"
        yield "elsewhere, as with: sudo python3 -m venv /opt/relay && sudo /opt/relay/bin/pip install ."
        yield "in the folder that you installed it from, and print the unit with: /opt/relay/bin/relay deploy systemd"


def _files(config: Config, file: Path | None, unit: Unit) -> Iterator[str]:
    """Yield the lines about files, so that the service can read each of them."""
    if file is not None:
        copy = f"+/usr/bin/install -m 0444 {_argument(str(file))} {unit.config}"
        yield "# The service reads a copy of the configuration, in a folder that only it and root may enter. systemd passes"
        yield "# certificates and keys, too. So only root needs to be able to read the files."
        yield f"RuntimeDirectory={unit.config.parent.relative_to(RUNTIME_FOLDER)}"
        yield "RuntimeDirectoryMode=0700"
        yield f"ExecStartPre={copy}"
        yield "# `systemctl reload` copies it again. Relay takes up the changes, and logs those that need a restart."
        yield f"ExecReload={copy}"
        yield "ExecReload=/bin/kill -HUP $MAINPID"
    if unit.instances:
        yield "# Each process listens on the same port, and the kernel spreads new connections over them."
        yield f"Environment={variable_of('server.reuse_port')}=true"
    if unit.instances and uses_sqlite(config):
        yield "# SQLite serves one process, so each one has its own database."
        yield f"Environment={variable_of(STORE_PATH)}={unit.store}"
    elif uses_sqlite(config) and unit.state_of(config) is None:
        yield "# The database is in the only folder that the service may write. Set store.path to it after the first start,"
        yield "# so that commands, run as root, use it too. Then remove this line."
        yield f"Environment={variable_of(STORE_PATH)}={unit.store}"
    for key_path, path in paths_of(config):
        if key_path != STORE_PATH:
            yield f"LoadCredential={key_path}:{_unspecified(str(path.absolute()))}"
            yield f"Environment={variable_of(key_path)}={unit.credentials / key_path}"


def _state_of(store: Path) -> str | None:
    """Return the name for StateDirectory= that is the database's folder, or None if it is elsewhere."""
    if STATE_FOLDER not in store.parent.parents:
        return None
    name = str(store.parent.relative_to(STATE_FOLDER))
    return name if re.fullmatch(r"[A-Za-z0-9/._-]+", name) and ".." not in name else None


def _command() -> list[str]:
    """Return the command that runs this installation."""
    script = Path(sys.executable).with_name("relay")
    return [str(script)] if script.exists() else [sys.executable, "-m", "relay"]


def _hidden_folder(*paths: Path) -> Path | None:
    return next((folder for folder in HIDDEN_FOLDERS for path in paths if path.resolve().is_relative_to(folder)), None)


def _option(file: Path | None) -> str:
    return "" if file is None else f" --config {shlex.quote(str(file))}"


def _argument(text: str) -> str:
    """Return a word of a command line, without variables too."""
    return _word(text).replace("$", "$$")


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
