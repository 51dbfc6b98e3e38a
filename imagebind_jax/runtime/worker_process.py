"""Worker processes: what each is told at its birth, how none is left behind, and what its death means."""

import contextlib
import ctypes
import errno
import faulthandler
import multiprocessing
import os
import signal
import sys
from collections.abc import Collection, Iterator, Sequence
from multiprocessing import resource_tracker, shared_memory, util
from typing import Any

from imagebind_jax.runtime import breadcrumbs

NAME = "grain-process-prefetch"  # how grain calls its processes
NO_SHARED_MEMORY = (
    "shared memory (/dev/shm), in which worker processes hand over batches, is full: give it more "
    "(docker run --shm-size=8g), or ask for fewer --workers or smaller batches"
)


def die_with_parent(parent: int) -> None:
    """For a worker process: a killed parent must not leave it behind.

    SIGTERM still ends it: the pools of concurrent.futures that have lost one worker wait for ever
    for others that do not heed it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent tells us
    kill_when_parent_dies(parent)


def register_shared_memory_early() -> None:
    """For a worker process: Python's tracker hears of shared memory before it is made.

    Python tells it after that: a kill in between would leave the memory for ever (33 of 60 kills of
    a process that makes blocks in a loop; 0 of 60 so).
    """
    make = getattr(shared_memory, "_make_filename", None)
    if make is None:
        return

    def named() -> str:
        name = make()
        resource_tracker.register(name, "shared_memory")
        return name

    setattr(shared_memory, "_make_filename", named)  # noqa: B010


class WorkerInit:
    """What grain calls in each worker process before its first record."""

    def __init__(self, folder: str):
        self.folder, self.parent = folder, os.getpid()

    def __call__(self, index: int, count: int) -> None:
        die_with_parent(self.parent)
        register_shared_memory_early()
        faulthandler.enable()
        breadcrumbs.share_reads_via(self.folder)


class SigtermShieldedIterable:
    """Elements whose worker processes no SIGTERM reaches, from their birth on.

    A whole group of processes is often told to end (`timeout`, systemd, SLURM), and the run, which
    saves then, needs its data until it is done. Workers end with it, or before: grain asks them by
    an event, and kills. They inherit what the thread that starts them lets through, which is so
    where they are sure to die with their parent, on Linux.
    """

    def __init__(self, elements: Any):
        self._elements = elements

    def __iter__(self) -> Iterator[Any]:
        """To be called in a thread of its own, which iterates, too."""
        if sys.platform == "linux":
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        return iter(self._elements)


def kill_workers(spared: Collection[int | None] = ()) -> None:
    """All worker processes but these."""
    for process in multiprocessing.active_children():
        if process.name.startswith(NAME) and process.pid not in spared:
            process.kill()


def kill_workers_at_exit() -> None:
    """At Python's end multiprocessing sends SIGTERM to those that are left, and waits: they are
    killed before that, and after grain has closed what it can (at priority 1)."""
    util.Finalize(None, kill_workers, exitpriority=0)


def mark_absl_flags_parsed() -> None:
    """grain's processes read absl's flags, which only programs built on absl have parsed."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def silence_resource_tracker() -> None:
    """Python's tracker removes what shared memory a dead run leaves, and warns of it after the run's
    own last line: it is started here, without the warning."""
    sys.warnoptions.append("ignore:resource_tracker:UserWarning")
    try:
        resource_tracker.ensure_running()
    finally:
        sys.warnoptions.pop()


def is_shared_memory_full(error: BaseException) -> bool:
    """Whether it is an error of a block of shared memory, or a semaphore: these have no path."""
    if not isinstance(error, OSError) or error.errno != errno.ENOSPC:
        return False
    return not error.filename or os.fspath(error.filename).startswith("/psm_")


def describe_worker_death(code: str, reading: Sequence[str], began: bool) -> str:
    """What is said of a worker that died with this exit code; reading: what it had begun to read;
    began: whether it had come to its first record."""
    if code == str(-signal.SIGBUS):  # a page of the file in memory that there is no room for
        return f"a worker process died (exit code {code}): {NO_SHARED_MEMORY}"
    said = f"a worker process died (exit code {code or 'unknown'})"
    if reading:
        said += f" while reading {' or '.join(reading)}"
    elif not began:
        said += (
            " before its first record; a script must ask for workers below "
            "`if __name__ == '__main__':`, since they import it again"
        )
    if code == str(-signal.SIGKILL):
        said += ": the system killed it, most likely as memory ran out; ask for fewer --workers"
    return said


PR_SET_PDEATHSIG = 1


def kill_when_parent_dies(parent: int) -> None:
    """Asks the system to kill this process when `parent`, which has started it, is gone. On Linux
    alone there is such a thing."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # before it could ask
        os._exit(1)
