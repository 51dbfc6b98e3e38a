"""Worker processes and threads that make batches, watched: none outlives the run or holds it up."""

import atexit
import concurrent.futures.thread
import multiprocessing
import os
import queue
import threading
import time
import weakref
from collections.abc import Generator
from typing import Any, NoReturn

import numpy as np

from imagebind_jax.errors import FatalRunError
from imagebind_jax.runtime import breadcrumbs, worker_process

IDLE_TIMEOUT = 30.0  # seconds beyond the patience until workers that read nothing are given up
STARTUP_TIMEOUT = (
    300.0  # before their first record: a busy machine, or a slow disk, takes its time to import
)
JOIN_TIMEOUT = 5.0  # seconds that the end of a stream waits for its threads

_trails: weakref.WeakSet[breadcrumbs.ReadTracker] = (
    weakref.WeakSet()
)  # of streams with worker processes


def iterate_in_processes(
    elements: Any, workers: int, patience: float
) -> Generator[Any, None, None]:
    """What iterating over a grain.IterDataset of dicts gives, made by so many processes, watched."""
    import grain

    worker_process.mark_absl_flags_parsed()
    worker_process.silence_resource_tracker()
    worker_process.kill_workers_at_exit()
    with breadcrumbs.breadcrumb_dir() as folder:
        options = grain.MultiprocessingOptions(num_workers=workers)
        _trails.add(trail := breadcrumbs.ReadTracker(folder))
        begin = worker_process.WorkerInit(folder)
        made = worker_process.SigtermShieldedIterable(elements.mp_prefetch(options, begin))
        for element in iterate_with_timeout(made, patience, trail):
            # Out of shared memory, which is scarce and must be given back.
            yield {name: np.array(rows) for name, rows in element.items()}


def close_at_exit(generator: Generator) -> Generator:
    """The generator, closed while Python can still do so, should it be open at the program's end."""
    alive = weakref.ref(generator)

    def close() -> None:
        if (open_ := alive()) is not None:
            open_.close()

    atexit.register(close)
    return generator


def iterate_with_timeout(
    elements: Any, patience: float, trail: breadcrumbs.ReadTracker
) -> Generator[Any, None, None]:
    """What iterating over `elements` gives, made one ahead in a thread.

    trail: where its readers, and no others, leave their crumbs. Raises `FatalRunError`, naming what was
    being read, where a worker died or reads one record for more than `patience` seconds; and where
    no batch comes though nothing is being read, for half a minute more.
    """
    ready: queue.Queue = queue.Queue(maxsize=1)
    stop, watch = threading.Event(), _StallDetector(patience, trail)
    thread = threading.Thread(target=_fill_queue, args=(elements, ready, stop), daemon=True)
    thread.start()
    try:
        while True:
            try:
                element, error = ready.get(timeout=watch.interval)
            except queue.Empty:
                watch.look()
                continue
            watch.arrived()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise _explained(error, trail)
            yield element
    finally:
        stop.set()
        trail.over = True
        thread.join(timeout=JOIN_TIMEOUT)  # it closes grain's iterator, which ends its processes
        if thread.is_alive():
            _abandon_threads(trail)


def _abandon_threads(trail: breadcrumbs.ReadTracker) -> None:
    """Python's end would wait, for ever, for a thread that is stuck, though the run goes on without it."""
    waited_for = getattr(concurrent.futures.thread, "_threads_queues", {})
    for thread in list(waited_for):
        if thread.ident in trail.threads:
            del waited_for[thread]


def _fill_queue(elements, ready: queue.Queue, stop: threading.Event) -> None:
    iterator = iter(elements)
    try:
        while not stop.is_set():
            made: tuple[Any, BaseException | None]
            try:
                made = next(iterator), None
            except BaseException as error:
                made = None, error
            while not stop.is_set():
                try:
                    ready.put(made, timeout=0.1)
                    break
                except queue.Full:
                    continue
            if made[1] is not None:
                return
    finally:
        if hasattr(iterator, "close"):
            iterator.close()


class _StallDetector:
    """For how long nothing has changed, counted in looks: while all are paused, no time passes."""

    def __init__(self, patience: float, trail: breadcrumbs.ReadTracker):
        self.patience, self.trail, self.interval = patience, trail, min(patience / 4, 1.0)
        self._last, self._idle = time.monotonic(), 0.0
        self._marks: dict = {}
        self._ages: dict = {}

    def arrived(self) -> None:
        """There is an element: no silence. A record that is stuck beside it stays so."""
        self._idle = 0.0

    def look(self) -> None:
        """Called while a batch is waited for. Raises `FatalRunError`."""
        now = time.monotonic()
        passed, self._last = min(now - self._last, 2 * self.interval), now
        marks = self.trail.found()
        same = {key for key, mark in marks.items() if self._marks.get(key) == mark}
        self._ages = {
            key: self._ages.get(key, 0.0) + passed if key in same else 0.0 for key in marks
        }
        self._idle = self._idle + passed if marks == self._marks else 0.0
        self._marks = marks
        for key, age in self._ages.items():
            if age > self.patience:
                self._stop(
                    f"stuck for {age:.0f} s reading {marks[key][1]} (process {key[0]}): remove that "
                    "file, or give it longer with --patience"
                )
        if self._idle > self.patience + (IDLE_TIMEOUT if self.trail.begun else STARTUP_TIMEOUT):
            self._stop(
                f"no batch for {self._idle:.0f} s, though nothing is being read: a worker hangs"
            )

    def _stop(self, message: str) -> NoReturn:
        _kill_workers(self.trail)
        raise FatalRunError(message)


def _kill_workers(trail: breadcrumbs.ReadTracker) -> None:
    """Those of one stream; of one that hangs before it could say whose it is, nobody waits either."""
    others = {pid for each in list(_trails) if each is not trail for pid in each.processes()}
    worker_process.kill_workers(others)


def _explained(error: BaseException, trail: breadcrumbs.ReadTracker) -> BaseException:
    """What grain says of a dead worker, with the name of what that was reading."""
    if trail.folder is None:
        return error
    if worker_process.is_shared_memory_full(error):
        return FatalRunError(worker_process.NO_SHARED_MEMORY)
    if "terminated unexpectedly" not in str(error):
        return error
    alive = {process.pid for process in multiprocessing.active_children()} | {os.getpid()}
    dead = [what for (process, _), (_, what) in trail.found().items() if process not in alive]
    began = trail.begun
    _kill_workers(trail)
    code = str(error).partition("exit code ")[2].split(".")[0]
    return FatalRunError(worker_process.describe_worker_death(code, dead, began))
