"""Two machines of one test: network namespaces for a database and for a node, and a cable between them that can be cut.

It needs root (CAP_SYS_ADMIN, CAP_NET_ADMIN) and `ip` of iproute2. The namespaces end with the test's process at the
latest, because files that it has open hold them.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache

CLONE_NEWNET = 0x40000000
"""The kind of namespace that setns(2) and unshare(2) are asked for."""
DATABASE = "10.0.0.1"
"""The address of the database's machine. Nothing outside the two namespaces sees it."""
NODE = "10.0.0.2"
"""The address of the node's machine."""
OWN = "/proc/thread-self/ns/net"


class Network:
    """The two machines. Processes that are started in a block of `database_side` or `node_side` run on them."""

    def __init__(self, database: int, node: int) -> None:
        """The arguments are open files of namespaces."""
        self._database = database
        self._node = node
        peer = f"peer name eth0 netns /proc/{os.getpid()}/fd/{node}"
        self._ip(database, f"link add name eth0 type veth {peer}")
        for side, address in ((database, DATABASE), (node, NODE)):
            self._ip(side, f"address add {address}/24 dev eth0")
            self._ip(side, "link set eth0 up")

    def database_side(self) -> ExitStack:
        """Return a block without checkpoints in which this thread is on the database's machine."""
        return _on(self._database)

    def node_side(self) -> ExitStack:
        """Return a block without checkpoints in which this thread is on the node's machine."""
        return _on(self._node)

    def cut(self, how: str = "cable") -> None:
        """Cut the node off from the database until `mend`.

        `cable`: packets vanish either way, and the node's interface has no carrier. `interface`: that of the node is
        down, so it has no route. `answers`: the packets of the database vanish, and those of the node arrive.
        """
        match how:
            case "cable":
                self._ip(self._database, "link set eth0 down")
            case "interface":
                self._ip(self._node, "link set eth0 down")
            case "answers":
                self._ip(self._database, f"route add blackhole {NODE}/32")
            case _:
                raise ValueError(how)

    def mend(self) -> None:
        """Connect the two again."""
        self._ip(self._database, f"route flush exact {NODE}/32")
        for side in (self._database, self._node):
            self._ip(side, "link set eth0 up")

    def _ip(self, side: int, arguments: str) -> None:
        with _on(side):
            done = subprocess.run(["ip", *arguments.split()], capture_output=True, text=True)
        if done.returncode != 0:
            raise OSError(f"ip {arguments}: {done.stderr.strip()}")


def _on(namespace: int) -> ExitStack:
    stack = ExitStack()
    own = os.open(OWN, os.O_RDONLY | os.O_CLOEXEC)
    stack.callback(os.close, own)
    _call("setns", namespace, CLONE_NEWNET)
    stack.callback(_call, "setns", own, CLONE_NEWNET)
    return stack


def _call(name: str, *arguments: int) -> None:
    """Call a function of libc for this thread. `os` has these from Python 3.12 on."""
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _new_namespace() -> int:
    own = os.open(OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _call("unshare", CLONE_NEWNET)
        try:
            return os.open(OWN, os.O_RDONLY | os.O_CLOEXEC)
        finally:
            _call("setns", own, CLONE_NEWNET)
    finally:
        os.close(own)


@contextmanager
def open_network() -> Iterator[Network]:
    """Make the two machines for the block.

    Raises:
        OSError: this process may not, or `ip` failed.
    """
    with ExitStack() as stack:
        sides: list[int] = []
        for _ in range(2):
            sides.append(_new_namespace())
            stack.callback(os.close, sides[-1])
        yield Network(*sides)


@cache
def refusal() -> str:
    """Return why this process cannot have a network of its own; empty if it can."""
    if shutil.which("ip") is None:
        return "there is no command ip"
    try:
        with open_network():
            return ""
    except (OSError, AttributeError) as error:  # libc of another system has no setns
        return str(error)
