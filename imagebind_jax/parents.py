"""Processes that end with the one that started them, however that one ends."""

import contextlib
import ctypes
import os
import signal

PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> None:
    """Asks the system to kill this process when `parent`, which has started it, is gone. On Linux
    alone there is such a thing."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # before it could ask
        os._exit(1)
