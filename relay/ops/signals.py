"""Signals that come before their receiver exists: they are held back until the process can take them.

SIGHUP would end a server that starts, and Ctrl-C would print the traceback of an import. A held signal stays pending in
the kernel, once for each number. This module imports nothing of Relay, so that it can come first.
"""

from __future__ import annotations

import signal

HELD = (signal.SIGHUP, signal.SIGINT)
"""The signals that are held. SIGTERM is not: before anything is open it may end the process at once."""


def hold() -> None:
    """Hold the signals of HELD in this thread, and in the threads and processes that it starts, until `release`."""
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD)


def release() -> None:
    """Take the signals of HELD from now on, in this thread. Pending ones are taken at once."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)
