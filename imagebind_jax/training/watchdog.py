"""A watch over steps: where one takes far longer than steps do, some host hangs, and the process ends."""

import collections
import contextlib
import faulthandler
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator

from imagebind_jax.errors import StepTimeoutError
from imagebind_jax.runtime import console

TIMEOUT_FACTOR = 20  # times the median step
MAX_PAUSE_SECONDS = 2 * 3600.0  # seconds that compiling, saving or restoring may take
MEDIAN_WINDOW = 64  # steps that the median is of


class Watchdog:
    """Ends the process, exit code 76, where no step is done for long: nothing else gets a thread out
    of an exchange with a host that hangs, and heartbeats do not see one that is alive.

    What may take its time, as compiling, saving, evaluating, or waiting for data, which has a
    patience of its own, is a pause, with a limit of hours.
    """

    def __init__(
        self,
        least: float,
        last_words: Callable[[], str] = lambda: "",
        leave: Callable[[str, int], None] = lambda line, code: None,
    ):
        """least: seconds that any step may take. last_words: what to say of the run beside it.
        leave: ends this process where it is one of several hosts."""
        self._least, self._last_words, self._leave = least, last_words, leave
        self._durations: collections.deque = collections.deque(maxlen=MEDIAN_WINDOW)
        self._step, self._begun, self._pauses = 0, time.monotonic(), 1  # until `begin`
        self._until = self._begun + MAX_PAUSE_SECONDS  # the end of the pause
        self._lock, self._over = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()

    @property
    def limit(self) -> float:
        """Seconds that a step may take."""
        usual = statistics.median(self._durations) if self._durations else 0.0
        return max(self._least, TIMEOUT_FACTOR * usual)

    def begin(self, step: int) -> None:
        """Steps are made from here on."""
        with self._lock:
            self._step, self._begun, self._pauses = step, time.monotonic(), 0

    def beat(self, step: int) -> None:
        """Step `step` is done: what it gave is here."""
        now = time.monotonic()
        with self._lock:
            self._durations.append(now - self._begun)
            self._step, self._begun = step + 1, now

    @contextlib.contextmanager
    def paused(self, longest: float = MAX_PAUSE_SECONDS) -> Iterator[None]:
        """No time of a step passes in the block, which itself may take so many seconds."""
        then = time.monotonic()
        with self._lock:
            self._until = max(then + longest, self._until if self._pauses else 0.0)
            self._pauses += 1
        try:
            yield
        finally:
            with self._lock:
                self._pauses -= 1
                if not self._pauses:
                    self._begun += time.monotonic() - then

    def _watch(self) -> None:
        last = time.monotonic()
        while not self._over.wait(min(1.0, self._least / 10)):
            now = time.monotonic()
            with self._lock:
                # While the whole process is stopped (Ctrl-Z), no time passes for it either.
                stopped = now - last - 2 * min(1.0, self._least / 10)
                if stopped > 0:
                    self._until += stopped
                    self._begun += 0 if self._pauses else stopped
                step = self._step
                if self._pauses:
                    stuck = now > self._until
                    what = f"what comes before step {step} takes for hours"
                else:
                    stuck = now - self._begun > self.limit
                    what = f"step {step} has taken {now - self._begun:.0f} s so far"
            last = now
            if stuck:
                self._end(f"{what}: a device or another host hangs")

    def _end(self, message: str) -> None:
        if sys.stderr is not None:
            faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
        line = "; ".join(filter(None, [message, self._last_words()]))
        self._leave(line, StepTimeoutError.code)
        console.print_error(line)
        console.flush_streams()
        os._exit(StepTimeoutError.code)
