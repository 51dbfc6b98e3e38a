"""Worker processes and threads that make batches, watched: none outlives the run or holds it up."""

import ctypes
import faulthandler
import multiprocessing
import os
import queue
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

from imagebind_jax.errors import Stopped
from imagebind_jax.inputs import crumbs

NAME = "grain-process-prefetch"  # how grain calls its processes


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
    what was being read, where a worker died or reads one record for more than `patience` seconds.
    """
    ready: queue.Queue = queue.Queue(maxsize=1)
    stop = threading.Event()
    thread = threading.Thread(target=_feed, args=(elements, ready, stop), daemon=True)
    thread.start()
    try:
        while True:
            try:
                element, error = ready.get(timeout=min(patience / 4, 1.0))
            except queue.Empty:
                _check(patience, folder)
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


def _check(patience: float, folder: str | None) -> None:
    for seconds, what, process in crumbs.oldest(folder):
        if seconds > patience:
            _kill_workers()
            raise Stopped(
                f"stuck for {seconds:.0f} s reading {what} (process {process}): remove that file, "
                "or give it longer with --patience"
            )


def _kill_workers() -> None:
    for process in multiprocessing.active_children():
        if process.name.startswith(NAME):
            process.kill()


def _explained(error: BaseException, folder: str | None) -> BaseException:
    """What grain says of a dead worker, with the name of what that was reading."""
    if folder is None or "terminated unexpectedly" not in str(error):
        return error
    alive = {process.pid for process in multiprocessing.active_children()} | {os.getpid()}
    dead = [what for _, what, process in crumbs.oldest(folder) if process not in alive]
    _kill_workers()
    code = str(error).partition("exit code ")[2].split(".")[0]
    return Stopped(
        f"a worker process died (exit code {code or 'unknown'})"
        + (f" while reading {' or '.join(dead)}" if dead else "")
    )
