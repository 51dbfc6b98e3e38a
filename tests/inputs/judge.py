"""A process of its own that feeds files to transforms, and says what they answer or do to it."""

import contextlib
import dataclasses
import multiprocessing
import os
import pathlib
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

SECONDS, MEMORY = 2.0, 1 << 20  # of processor time; KiB resident, most of which are libraries
PATIENCE = 60  # seconds of the clock, however busy the machine is
OURS = ("AssertionError", "AttributeError", "NameError", "UnboundLocalError")  # never a decoder's


@dataclasses.dataclass(frozen=True)
class Answer:
    """What came out: an array of this shape, or an exception of this class and with these words."""

    kind: str
    text: str
    problems: tuple[str, ...]  # all that no file may do, empty if all is well
    seconds: float = 0.0  # of processor time
    memory: int = 0  # the most that was resident, in KiB


class Judge:
    """Whoever asks outlives whatever the file does: a crash, a hang and greed are answers, too."""

    def __init__(self, folder: pathlib.Path):
        self._context = multiprocessing.get_context("spawn")
        self._said = folder / "said"
        self._process: Any = None

    def _start(self) -> None:
        self._pipe, theirs = self._context.Pipe()
        self._reached = self._context.RawValue("q", 0)
        arguments = theirs, self._reached, str(self._said)
        self._process = self._context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, function: Callable, *args) -> Any:
        """function(*args, reached) in the process; if that ends or hangs, (how, reached.value)."""
        if self._process is None:
            self._start()
        self._pipe.send((function, args))
        before, waited = -1, 0
        while not self._pipe.poll(1):
            waited = waited + 1 if self._reached.value == before else 0
            before = self._reached.value
            if waited > PATIENCE:
                return self._ended("hangs")
        try:
            return self._pipe.recv()
        except EOFError:
            self._process.join()
            return self._ended(f"ends the process: exit code {self._process.exitcode}")

    def answer(self, transform: Callable, record: Mapping[str, Any], seed: int | None) -> Answer:
        """What the transform makes of the record."""
        given = self.ask(_answered, transform, record, seed)
        return given if isinstance(given, Answer) else Answer("nothing", "", (given[0],))

    def _ended(self, how: str) -> tuple[str, int]:
        self.close()
        return how, self._reached.value

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
        self._process = None


def _serve(pipe: Any, reached: Any, said: str) -> None:
    file = os.open(said, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    for descriptor in (1, 2):
        os.dup2(file, descriptor)
    with contextlib.suppress(EOFError):
        while True:
            function, args = pipe.recv()
            pipe.send(function(*args, reached))


def _answered(transform: Callable, record: Mapping[str, Any], seed: int | None, _: Any) -> Answer:
    return judged(transform, record, seed)


def judged(transform: Callable, record: Mapping[str, Any], seed: int | None) -> Answer:
    """What the transform makes of the record, in this process."""
    rng = None if seed is None else np.random.default_rng(seed)
    problems = []
    _forget_peak()
    _said()
    open_before, threads, began = _open_files(), threading.active_count(), time.process_time()
    with warnings.catch_warnings(record=True) as warned:
        try:
            array = transform(record, rng)
            kind, text = "array", str(array.shape)
            if not np.isfinite(array).all():
                problems.append("values that are not finite")
            del array
        except Exception as error:
            kind, text = type(error).__name__, str(error)
            if len(text.splitlines()) != 1 or not text.isprintable():
                problems.append("an error that is not one printable line")
            del error
    seconds, memory = time.process_time() - began, _peak()
    problems += [f"warns: {each.message}" for each in warned]
    if seconds > SECONDS:
        problems.append(f"takes {seconds:.1f} s")
    if memory > MEMORY:
        problems.append(f"takes {memory >> 10} MiB")
    if said := _said():
        problems.append(f"prints {said!r}")
    if _open_files() != open_before:
        problems.append(f"leaves {_open_files() - open_before} files open")
    if threading.active_count() != threads:
        problems.append("leaves a thread")
    return Answer(kind, text, tuple(problems), seconds, memory)


def _said() -> str:
    """What was printed since this was last called, by C as well, if 2 is a file."""
    with contextlib.suppress(OSError):
        size = os.fstat(2).st_size
        text = os.pread(2, 1000, 0) if size else b""
        os.ftruncate(2, 0)
        return text.decode(errors="replace")
    return ""


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


def _forget_peak() -> None:
    with contextlib.suppress(OSError):
        pathlib.Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    """KiB that were resident since `_forget_peak`; 0 where the system does not say."""
    with contextlib.suppress(OSError):
        status = pathlib.Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0])
    return 0
