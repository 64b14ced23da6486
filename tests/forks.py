"""Processes of Relay that start without importing it: a process that has done so forks them.

An import takes 0.6 to 0.9 s of a processor, and a run of all tests starts some 300 processes. One that is forked is a
process like any other: it runs `python -m relay` from its first line, can be killed, and has its own memory and files.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO

IMPORTED = (
    "relay.cli.main",
    "relay.server.process",
    "relay.server.server",
    "relay.store.postgres.engine",
    "relay.store.sqlite.database",
)
"""Imported before a fork. They bring along whatever a server needs."""
MAX_REQUEST = 1 << 18
"""Bytes of a request: a command and its environment."""


class Forked:
    """A process that was forked, with the methods of `subprocess.Popen` that tests use."""

    def __init__(self, pid: int, parent: _Parent) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._parent = parent
        self._handle = os.pidfd_open(pid)
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        """Return the exit code, as `Popen` has it; None while the process runs."""
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end, and return the exit code. In any thread.

        Raises:
            subprocess.TimeoutExpired: it did not end within `timeout` seconds.
        """
        with self._lock:
            if self.returncode is None:
                poll = select.poll()
                poll.register(self._handle, select.POLLIN)
                if not poll.poll(None if timeout is None else timeout * 1000):
                    raise subprocess.TimeoutExpired("relay", timeout or 0)
                self.returncode = self._parent.ask({"ended": self.pid})
                os.close(self._handle)
            return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal, unless the process has ended."""
        with suppress(ProcessLookupError):
            if self.returncode is None:
                os.kill(self.pid, number)

    def kill(self) -> None:
        """End it as a crash would."""
        self.send_signal(signal.SIGKILL)


class _Parent:
    """The process that forks, which ends with this one."""

    def __init__(self) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lock = threading.Lock()
        with theirs:
            command = [sys.executable, "-m", __name__, str(theirs.fileno())]
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)

    def ask(self, request: Mapping[str, object], files: Sequence[int] = ()) -> int:
        """Send a request, and return the answer to it."""
        message = json.dumps(request).encode()
        assert len(message) <= MAX_REQUEST
        with self._lock:
            socket.send_fds(self._channel, [message], files)
            answer = self._channel.recv(64)
        assert answer, "the process that forks has ended"
        return int(answer)

    def close(self) -> None:
        """End it, and with it the processes that it forked and that have not been waited for."""
        self._channel.close()
        self._process.wait()


_one: list[_Parent] = []
_one_lock = threading.Lock()


def _parent() -> _Parent:
    with _one_lock:  # several threads may be the first to ask
        if not _one:
            _one.append(_Parent())
        return _one[0]


def close() -> None:
    """End the process that forks, if there is one."""
    with _one_lock:
        while _one:
            _one.pop().close()


def start(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    output: IO[bytes],
    errors: IO[bytes],
    module: str = "relay",
) -> Forked:
    """Start `python -m module`, with both outputs to files."""
    request = {"module": module, "arguments": arguments, "environment": dict(environment), "folder": os.getcwd()}  # noqa: PTH109
    parent = _parent()
    return Forked(parent.ask(request, [output.fileno(), errors.fileno()]), parent)


def run(arguments: Sequence[str], environment: Mapping[str, str]) -> str:
    """Run a command of Relay, and return what it printed.

    Raises:
        subprocess.CalledProcessError: it ended with another exit code than 0.
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        code = start(arguments, environment, output, errors).wait()
        for file in (output, errors):
            file.seek(0)
        printed = output.read().decode()
        if code:
            raise subprocess.CalledProcessError(code, ["relay", *arguments], printed, errors.read().decode())
        return printed


def _fork_on_request(channel: socket.socket) -> dict[str, object] | None:
    """Answer requests; return None at their end, and in a process that was forked the request.

    At their end the processes that are left are killed: the test process is gone, so nobody needs them.
    """
    left: set[int] = set()
    while True:
        message, files, _, _ = socket.recv_fds(channel, MAX_REQUEST, 2)
        if not message:
            for pid in left:
                os.kill(pid, signal.SIGKILL)  # it is there until it is waited for
            return None
        request = json.loads(message)
        if (ended := request.get("ended")) is not None:
            answer = os.waitstatus_to_exitcode(os.waitpid(ended, 0)[1])
            left.discard(ended)
        elif (answer := os.fork()) == 0:
            for number, file in enumerate(files, 1):
                os.dup2(file, number)
        else:
            left.add(answer)
        for file in files:
            os.close(file)
        if not answer and ended is None:
            return dict(request)
        channel.send(str(answer).encode())


def main() -> None:
    """Fork, and in a process that was forked run its module."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(fileno=int(sys.argv[1])) as channel:
        for name in IMPORTED:
            importlib.import_module(name)
        gc.freeze()  # or the garbage collector examines all of it at the end of each process, for 0.17 s
        request = _fork_on_request(channel)
    if request is not None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ.clear()
        os.environ.update(request["environment"])  # type: ignore[call-overload]
        os.chdir(str(request["folder"]))
        sys.argv = ["", *request["arguments"]]  # type: ignore[misc]
        try:
            runpy.run_module(str(request["module"]), run_name="__main__", alter_sys=True)
        except SystemExit as end:
            if not isinstance(end.code, int):
                raise
            # The rest of an end would visit each object that was imported, for 0.06 s.
            threading._shutdown()  # type: ignore[attr-defined]
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(end.code)


if __name__ == "__main__":
    main()
