"""Worker processes and threads that make batches, watched: none outlives the run or holds it up."""

import ctypes
import faulthandler
import multiprocessing
import os
import pathlib
import queue
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, NoReturn

from imagebind_jax.errors import Stopped
from imagebind_jax.inputs import crumbs

NAME = "grain-process-prefetch"  # how grain calls its processes
START = 30.0  # seconds beyond the patience until workers that read nothing are given up


def die_with_parent(parent: int) -> None:
    """For a worker process: a killed parent must not leave it behind."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent tells us
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # it died before we asked
            os._exit(1)


class Begin:
    """What grain calls in each worker process before its first record."""

    def __init__(self, folder: str):
        self.folder, self.parent = folder, os.getpid()

    def __call__(self, index: int, count: int) -> None:
        die_with_parent(self.parent)
        faulthandler.enable()
        crumbs.share(self.folder)


def watched(elements: Any, patience: float, folder: str | None) -> Iterator[Any]:
    """What iterating over `elements` gives, made one ahead in a thread.

    folder: where worker processes leave their crumbs, if there are any. Raises `Stopped`, naming
    what was being read, where a worker died or reads one record for more than `patience` seconds;
    and where no batch comes though nothing is being read, for half a minute more.
    """
    ready: queue.Queue = queue.Queue(maxsize=1)
    stop, watch = threading.Event(), _Watch(patience, folder)
    thread = threading.Thread(target=_feed, args=(elements, ready, stop), daemon=True)
    thread.start()
    try:
        while True:
            try:
                element, error = ready.get(timeout=watch.interval)
            except queue.Empty:
                watch.look()
                continue
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise _explained(error, folder)
            yield element
    finally:
        stop.set()
        thread.join(timeout=5)  # it closes grain's iterator, which ends its processes


def _feed(elements, ready: queue.Queue, stop: threading.Event) -> None:
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


class _Watch:
    """For how long nothing has changed, counted in looks: while all are paused, no time passes."""

    def __init__(self, patience: float, folder: str | None):
        self.patience, self.folder, self.interval = patience, folder, min(patience / 4, 1.0)
        self._last, self._idle = time.monotonic(), 0.0
        self._marks: dict = {}
        self._ages: dict = {}

    def look(self) -> None:
        """Called while a batch is waited for. Raises `Stopped`."""
        now = time.monotonic()
        passed, self._last = min(now - self._last, 2 * self.interval), now
        marks = crumbs.found(self.folder)
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
        if self._idle > self.patience + START:
            self._stop(
                f"no batch for {self._idle:.0f} s, though nothing is being read: a worker hangs"
            )

    def _stop(self, message: str) -> NoReturn:
        _kill_workers()
        raise Stopped(message)


def _kill_workers() -> None:
    for process in multiprocessing.active_children():
        if process.name.startswith(NAME):
            process.kill()


def _explained(error: BaseException, folder: str | None) -> BaseException:
    """What grain says of a dead worker, with the name of what that was reading."""
    if folder is None or "terminated unexpectedly" not in str(error):
        return error
    alive = {process.pid for process in multiprocessing.active_children()} | {os.getpid()}
    marks = crumbs.found(folder)
    dead = [what for (process, _), (_, what) in marks.items() if process not in alive]
    began = any(pathlib.Path(folder).iterdir())
    _kill_workers()
    code = str(error).partition("exit code ")[2].split(".")[0]
    said = f"a worker process died (exit code {code or 'unknown'})"
    if dead:
        said += f" while reading {' or '.join(dead)}"
    elif not began:
        said += (
            " before its first record; a script must ask for workers below "
            "`if __name__ == '__main__':`, since they import it again"
        )
    return Stopped(said)
