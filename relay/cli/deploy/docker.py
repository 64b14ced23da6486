"""`relay deploy docker`: a Dockerfile and a compose file."""

from __future__ import annotations

import json
import math
import os
import shlex
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import click

from relay.cli.deploy.facts import CLOSE_PERIOD, STORE_PATH, fixed_port, paths_of, variable_of
from relay.cli.deploy.files import deliver, output_options
from relay.cli.settings import config_option, load
from relay.config.loading import find_config_file
from relay.config.tree import Config

USER_ID = 10001
"""The user of the server in the container. It has no name on the host."""
SUBNET = "172.30.80.0/24"
"""The network of the containers. It is fixed, so that `server.trusted_proxies` can name it."""
CONFIG_FOLDER = "/etc/relay"

DOCKERFILE = """\
# The image of Relay {version}, written by `relay deploy docker`. Its folder needs the wheel, made in Relay's repository:
#   pip wheel --no-deps --wheel-dir FOLDER .
# Then, in FOLDER: docker compose up --build --detach

# The first image installs the wheel and its dependencies. They are all wheels, so it needs no compiler.
FROM python:3.13-slim AS build
COPY relay_server-{version}-py3-none-any.whl /wheels/
RUN python -m venv /opt/relay \\
 && /opt/relay/bin/pip install --no-cache-dir --only-binary :all: "/wheels/relay_server-{version}-py3-none-any.whl{extra}"

# The second image is the one that runs. It has the installation and nothing else of the first.
FROM python:3.13-slim
COPY --from=build /opt/relay /opt/relay
# A user that can write only the volume with the database.
RUN useradd --system --uid {user_id} --no-create-home relay \\
 && install --directory --owner=relay --mode=0700 /data
USER relay
WORKDIR /data
# In the container Relay listens on every interface, and keeps its database in the volume.
ENV PATH=/opt/relay/bin:$PATH \\
    PYTHONDONTWRITEBYTECODE=1 \\
    RELAY_SERVER__HOST=0.0.0.0{store}
VOLUME /data
EXPOSE {port}
# Relay closes its sessions and its database at SIGTERM.
STOPSIGNAL SIGTERM
# /readyz answers 503 while Relay cannot work, for instance because its disk is full.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \\
    CMD ["python", "-c", {probe}]
CMD ["relay", "serve"]
"""

PROBE = "import urllib.request as u; u.urlopen('http://127.0.0.1:{port}/readyz', timeout=4)"
TLS_PROBE = (
    "import ssl, urllib.request as u; "
    "u.urlopen('https://127.0.0.1:{port}/readyz', timeout=4, context=ssl._create_unverified_context())"
)

COMPOSE = """\
# Relay {version} with docker compose, written by `relay deploy docker`. Start it with: docker compose up --build --detach
# The first token: docker compose exec relay relay token alice --admin
# Logs: docker compose logs relay. Backup: docker compose exec relay relay backup /data/backup.db

services:
  relay:
    build: .
    image: relay:{version}
    restart: unless-stopped
    # Only this machine reaches the port; a reverse proxy (`relay deploy caddy`) gives it to the world.
    ports: ["127.0.0.1:{port}:{port}"]
    environment:
      # A proxy on this machine appears as an address of this network, whose X-Forwarded-For Relay then believes.
      RELAY_SERVER__TRUSTED_PROXIES: '["{subnet}"]'
{environment}    volumes:
{volumes}    # A stop takes up to shutdown_grace ({grace:g} s), and then the time to close the database.
    stop_grace_period: {stop_period}s
    # Each connection is an open file.
    ulimits:
      nofile: 65536
    # It may write its volume, and nothing else.
    read_only: true
    tmpfs: [/tmp]
    cap_drop: [ALL]
    security_opt: ["no-new-privileges:true"]
    # The log has a bound.
    logging:
      driver: local
      options: {{max-size: 10m, max-file: "5"}}
{depends}{postgres}
volumes:
  data:
{postgres_volume}
networks:
  default:
    ipam:
      config:
        - subnet: {subnet}
"""

POSTGRES = """
  # The database. Its password comes from a file .env beside this one, letters and digits only:
  #   echo POSTGRES_PASSWORD=$(openssl rand -hex 24) > .env
  postgres:
    image: postgres:17
    restart: unless-stopped
    environment:
      POSTGRES_USER: relay
      POSTGRES_DB: relay
      POSTGRES_PASSWORD: ${POSTGRES_PASSWORD:?set it in .env}
    volumes:
      - postgres:/var/lib/postgresql/data
    healthcheck:
      test: [CMD, pg_isready, --username=relay, --dbname=relay]
      interval: 5s
    # PostgreSQL takes this long to write what it has in memory.
    stop_grace_period: 60s
    shm_size: 128mb
"""
DEPENDS = """\
    depends_on:
      postgres: {condition: service_healthy}
"""


@click.command()
@click.option("--postgres", is_flag=True, help="Add a PostgreSQL server, and keep the data there instead of in SQLite.")
@output_options
@config_option
def docker(postgres: bool, folder: Path | None, force: bool, config_file: Path | None) -> None:
    """Print a Dockerfile and a compose file: user without rights, health check, volume.

    --output writes Dockerfile and compose.yaml. The image is built from the wheel of Relay, which pip makes.

    \b
    Example:
      relay deploy docker --output relay-docker
      pip wheel --no-deps --wheel-dir relay-docker .
      cd relay-docker && docker compose up --build --detach
    """
    config = load(config_file)
    file = find_config_file(config_file, os.environ)
    files = {
        "Dockerfile": dockerfile_of(config, postgres=postgres),
        "compose.yaml": compose_of(config, file, postgres=postgres),
    }
    deliver(files, folder, force=force, hints=hints(config, file, folder or Path("FOLDER")))


def version() -> str:
    """Return the version of Relay in the name of its wheel."""
    return metadata.version("relay-server")


def dockerfile_of(config: Config, *, postgres: bool) -> str:
    """Return the Dockerfile.

    Raises:
        ClickException: the configuration has no fixed port.
    """
    probe = PROBE if config.server.tls_cert is None else TLS_PROBE
    port = fixed_port(config)
    return DOCKERFILE.format(
        version=version(),
        extra="[postgres]" if postgres else "",
        user_id=USER_ID,
        store="" if postgres else " \\\n    RELAY_STORE__PATH=/data/relay.db",
        port=port,
        probe=json.dumps(probe.format(port=port)),
    )


def compose_of(config: Config, file: Path | None, *, postgres: bool) -> str:
    """Return the compose file. `file` is the configuration that the container reads.

    Raises:
        ClickException: the configuration has no fixed port.
    """
    mounts = dict(_mounts(config, file))
    environment = {name: target for name, (_, target) in mounts.items()}
    if postgres:
        environment["RELAY_STORE__URL"] = "postgresql://relay:${POSTGRES_PASSWORD:?set it in .env}@postgres/relay"
    volumes = ["data:/data", *(f"{_uninterpolated(str(source))}:{target}:ro" for source, target in mounts.values())]
    return COMPOSE.format(
        version=version(),
        port=fixed_port(config),
        subnet=SUBNET,
        environment="".join(f"      {name}: {json.dumps(value)}\n" for name, value in environment.items()),
        volumes="".join(f"      - {json.dumps(volume)}\n" for volume in volumes),
        grace=config.server.shutdown_grace,
        stop_period=math.ceil(config.server.shutdown_grace) + CLOSE_PERIOD,
        depends=DEPENDS if postgres else "",
        postgres=POSTGRES if postgres else "",
        postgres_volume="  postgres:\n" if postgres else "",
    )


def hints(config: Config, file: Path | None, folder: Path) -> Iterator[str]:
    """Yield the steps that remain, so that the container can read its files and the image can be built."""
    sources = [str(source) for source, _ in dict(_mounts(config, file)).values()]
    if sources:
        yield f"The user {USER_ID} of the container must be able to read: {', '.join(sources)}"
        yield f"For instance: sudo chown {USER_ID} {shlex.join(sources)}"
    quoted = shlex.quote(str(folder))
    yield "In the repository of Relay, put its wheel beside the Dockerfile. Then start the container:"
    yield f"  pip wheel --no-deps --wheel-dir {quoted} ."
    yield f"  docker compose --project-directory {quoted} up --build --detach"


def _mounts(config: Config, file: Path | None) -> Iterator[tuple[str, tuple[Path, str]]]:
    """Yield, for each file that the container reads, its variable, and its paths outside and inside."""
    if file is not None:
        yield "RELAY_CONFIG", (file.absolute(), f"{CONFIG_FOLDER}/relay.toml")
    for key_path, path in paths_of(config):
        if key_path != STORE_PATH:
            yield variable_of(key_path), (path.absolute(), f"{CONFIG_FOLDER}/{key_path}")


def _uninterpolated(text: str) -> str:
    return text.replace("$", "$$")
