"""Progress of long work, in one line of a terminal or a line now and then."""

import collections
import contextlib
import sys
import threading
import time

from rich import progress
from rich.console import Console

from imagebind_jax.runtime import console


class RateEstimator:
    """How fast something goes, and how long it will take: by the last 30 looks."""

    def __init__(self, done: int = 0):
        self._recent = collections.deque([(time.monotonic(), done)], maxlen=30)

    def __call__(self, done: int, total: int) -> str:
        """ "  35.1/s  0:00:08 left"; empty while nothing is done."""
        now = time.monotonic()
        self._recent.append((now, done))  # the last minute or so: compiling is soon forgotten
        then, before = self._recent[0]
        rate = (done - before) / max(now - then, 1e-9)
        if not rate:
            return ""
        left = int((total - done) / rate)
        hours, minutes = divmod(left // 60, 60)
        return f"  {rate:.1f}/s  {hours}:{minutes:02}:{left % 60:02} left"


class Progress:
    """A bar on a terminal; a plain line every two seconds anywhere else (logs, CI, pipes).

    Lines come from a thread of their own, so that they go on while a step is being compiled.
    """

    def __init__(
        self, what: str, total: int, note: str = "", *, every: float = 2.0, shown: bool = True
    ):
        """`note`: what is worth seeing beside the numbers. `every`: seconds between plain lines.
        shown: False on hosts for which another one tells."""
        self._what, self._total, self._note = what, total, note
        self._done = 0
        self._pace = RateEstimator()
        self._stopped = threading.Event()
        self._bar: progress.Progress | None = None
        self._thread: threading.Thread | None = None
        if shown and sys.stderr is not None and sys.stderr.isatty():
            columns = (
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TextColumn("{task.fields[note]}"),
                progress.TimeElapsedColumn(),
                progress.TimeRemainingColumn(),
            )
            self._bar = progress.Progress(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task(what, total=total, note=note)
            self._bar.start()
        elif shown:
            self._thread = threading.Thread(target=self._print_lines, args=(every,), daemon=True)
            self._thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._bar:
            with contextlib.suppress(OSError):  # the terminal is gone
                self._bar.stop()
            return
        if self._thread:
            self._stopped.set()
            self._thread.join()
            self._print()

    def begin(self, done: int) -> None:
        """Counts from here: so much was done before, and the clock starts now."""
        self._done = done
        self._pace = RateEstimator(done)

    def update(self, done: int, note: str = "") -> None:
        """`done` of the total so far."""
        self._done, self._note = done, note
        if self._bar:
            self._bar.update(self._task, completed=done, note=note)

    def say(self, note: str) -> None:
        """What is being done now, while nothing is counted."""
        self.update(self._done, note)

    def _print_lines(self, every: float) -> None:
        while not self._stopped.wait(every):
            self._print()

    def _print(self) -> None:
        line = f"{self._what} {self._done}/{self._total}"
        if self._note:
            line += f"  {self._note}"
        line += self._pace(self._done, self._total)
        console.print_line(line, to_stderr=True)
