"""One process a core, each with one thread: small programs gain nothing from two, and sums stay the same."""

import contextlib
import ctypes
import multiprocessing
import os
from collections.abc import Iterator
from typing import Any

from imagebind_jax.runtime.worker_process import die_with_parent

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
KEPT = 1 << 30  # bytes that a process keeps rather than asks the system for, again and again

_messages: Any = None
_kept = contextlib.ExitStack()  # until the process ends


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def init_worker(parent: int, turn: Any, messages: Any) -> None:
    """In a new process, before JAX has looked for cores: one of its own, and memory that stays.

    turn: a shared number, of the next process. A step's arrays of tens of megabytes are otherwise
    given back and cleared anew in every step, which takes half of its time.
    """
    global _messages
    _messages = messages
    die_with_parent(parent)
    with turn.get_lock():
        own = turn.value
        turn.value += 1
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[own % len(cores)]})
    with contextlib.suppress(AttributeError, OSError):  # another C library
        malloc = ctypes.CDLL(None)
        if malloc.mallopt(M_MMAP_THRESHOLD, KEPT):  # older ones take no more than 32 MB: as it was
            malloc.mallopt(M_TRIM_THRESHOLD, KEPT)
    import jax

    from imagebind_jax.runtime import compilation_cache

    jax.config.update("jax_platforms", "cpu")
    _kept.enter_context(compilation_cache.persistent_compilation_cache(lambda message: None))


@contextlib.contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Processes that start in the block have one thread for NumPy's products, whose sums' order
    depends on how many there are."""
    with contextlib.ExitStack() as stack:
        for name in THREADS:
            before = os.environ.get(name)
            os.environ[name] = "1"
            if before is None:
                stack.callback(os.environ.pop, name, None)
            else:
                stack.callback(os.environ.__setitem__, name, before)
        yield


def report_progress(job: int, share: float) -> None:
    """The first process hears what share of a job is done."""
    _messages.put((job, share))


def spawn_context() -> Any:
    """Spawned, not forked: JAX's threads may already run."""
    return multiprocessing.get_context("spawn")
