"""A process of its own that feeds files to transforms, and says what they answer or do to it."""

import contextlib
import dataclasses
import multiprocessing
import os
import pathlib
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

# Of processor time, and resident; 2 s are the goal, the rest is for slow machines.
SECONDS, MEMORY = 4.0, 1 << 30
PATIENCE = 60  # seconds of the clock without an answer


@dataclasses.dataclass(frozen=True)
class Answer:
    """What came out: an array of this shape, or an exception of this class with these words."""

    kind: str
    text: str
    problems: tuple[str, ...]  # all that happened and that no file may bring about
    said: str = ""  # what libraries printed
    seconds: float = 0.0  # of processor time
    memory: int = 0  # bytes, the most that were resident


class Judge:
    """Whoever asks outlives whatever the file does: a crash, a hang and greed are answers, too."""

    def __init__(self, folder: pathlib.Path):
        self._context = multiprocessing.get_context("spawn")
        self._folder = folder
        self._process: Any = None

    def ask(self, function: Callable, *args) -> Any:
        """function(*args, reached) in the process; if that ends or hangs, (how, reached.value)."""
        if self._process is None:
            self._start()
        self._pipe.send((function, args))
        before, patience = -1, PATIENCE
        while not self._pipe.poll(1):
            patience = patience - 1 if self._reached.value == before else PATIENCE
            before = self._reached.value
            if not patience:
                self.close()
                return "hangs", before
        try:
            return self._pipe.recv()
        except EOFError:
            self._process.join()
            how = f"ends the process: exit code {self._process.exitcode}"
            self.close()
            return how, self._reached.value

    def answer(self, transform: Callable, record: Mapping[str, Any], seed: int | None) -> Answer:
        """What the transform makes of the record."""
        given = self.ask(judged, transform, record, seed)
        return given if isinstance(given, Answer) else Answer("nothing", "", (given[0],))

    def _start(self) -> None:
        self._pipe, theirs = self._context.Pipe()
        self._reached = self._context.RawValue("q", 0)
        arguments = theirs, self._reached, str(self._folder)
        self._process = self._context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
        self._process = None


def _serve(pipe: Any, reached: Any, folder: str) -> None:
    said = os.open(os.path.join(folder, "said"), os.O_RDWR | os.O_CREAT | os.O_APPEND)
    for descriptor in (1, 2):
        os.dup2(said, descriptor)
    tempfile.tempdir = os.environ["TMPDIR"] = tempfile.mkdtemp(dir=folder)
    with contextlib.suppress(EOFError):
        while True:
            function, args = pipe.recv()
            pipe.send(function(*args, reached))


def judged(
    transform: Callable, record: Mapping[str, Any], seed: int | None, reached: Any = None
) -> Answer:
    """What the transform makes of the record, in this process."""
    rng = None if seed is None else np.random.default_rng(seed)
    problems = []
    _peak(forget=True)
    _said()
    before, began = _left_over(), time.process_time()
    with warnings.catch_warnings(record=True) as warned:
        try:
            array = transform(record, rng)
            kind, text = "array", str(array.shape)
            if not np.isfinite(array).all():
                problems.append("values that are not finite")
        except Exception as error:
            kind, text = type(error).__name__, str(error)
            if len(text.splitlines()) != 1 or not text.isprintable():
                problems.append("an error that is not one printable line")
    seconds, memory = time.process_time() - began, _peak()
    problems += [f"warns: {each.message}" for each in warned]
    if seconds > SECONDS:
        problems.append(f"takes {seconds:.1f} s")
    if memory > MEMORY:
        problems.append(f"takes {memory >> 20} MiB")
    if _left_over() != before:
        problems.append(f"leaves {_left_over()} files open, threads, temporary files, not {before}")
    return Answer(kind, text, tuple(problems), _said(), seconds, memory)


def _left_over() -> tuple[int, int, int]:
    files = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    return files, threading.active_count(), len(os.listdir(tempfile.gettempdir()))


def _said() -> str:
    """What was printed since this was last called, by C as well."""
    text = os.pread(2, 1000, 0).decode(errors="replace") if os.fstat(2).st_size else ""
    os.ftruncate(2, 0)
    return text


def _peak(forget: bool = False) -> int:
    """Bytes that were resident since this was last told to forget; 0 where the system is silent."""
    with contextlib.suppress(OSError):
        if forget:
            pathlib.Path("/proc/self/clear_refs").write_text("5")
        status = pathlib.Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) << 10
    return 0
