"""What a run tells: metrics.jsonl and TensorBoard files on disk, progress on the terminal."""

import collections
import json
import os
import pathlib
import sys
import threading
import time
from collections.abc import Mapping

from rich import progress
from rich.console import Console

from imagebind_jax import files


class Metrics:
    """Appends to `metrics.jsonl` (one JSON object a line) and to TensorBoard's event files."""

    def __init__(self, folder: str | os.PathLike, start: int = 0):
        """`start`: the step a run goes on from; what a lost run wrote from there on is dropped."""
        from tensorboardX import SummaryWriter  # 0.3 s that only a training run needs

        self.path = pathlib.Path(folder) / "metrics.jsonl"
        kept = [line for line in read(self.path) if line["step"] < start]
        files.replace_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = self.path.open("a", buffering=1)
        self._board = SummaryWriter(
            str(pathlib.Path(folder) / "tensorboard"), purge_step=start, flush_secs=10
        )

    def write(self, step: int, values: Mapping[str, float | str]) -> None:
        """One line: {"step": step, **values}; numbers also go to TensorBoard."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            if isinstance(value, float):
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        self._file.close()
        self._board.close()


def read(path: str | os.PathLike) -> list[dict]:
    """The lines of a metrics.jsonl; a last line cut short by a crash is left out."""
    path = pathlib.Path(path)
    lines = []
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


class Progress:
    """A bar on a terminal; a plain line every two seconds anywhere else (logs, CI, pipes).

    Lines come from a thread of their own, so that they go on while a step is being compiled.
    """

    def __init__(self, what: str, total: int, note: str = "", *, every: float = 2.0):
        """`note`: what is worth seeing beside the numbers. `every`: seconds between plain lines."""
        self._what, self._total, self._note = what, total, note
        self._done = 0
        self._recent = collections.deque([(time.monotonic(), 0)], maxlen=30)
        self._stopped = threading.Event()
        self._bar: progress.Progress | None = None
        if sys.stderr.isatty():
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
        else:
            self._thread = threading.Thread(target=self._print_lines, args=(every,), daemon=True)
            self._thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._bar:
            self._bar.stop()
            return
        self._stopped.set()
        self._thread.join()
        self._print()

    def begin(self, done: int) -> None:
        """Counts from here: so much was done before, and the clock starts now."""
        self._done = done
        self._recent.clear()
        self._recent.append((time.monotonic(), done))

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
        now = time.monotonic()
        self._recent.append((now, self._done))  # the last minute or so: compiling is soon forgotten
        then, before = self._recent[0]
        rate = (self._done - before) / max(now - then, 1e-9)
        line = f"{self._what} {self._done}/{self._total}"
        if self._note:
            line += f"  {self._note}"
        if rate:
            left = int((self._total - self._done) / rate)
            hours, minutes = divmod(left // 60, 60)
            line += f"  {rate:.1f}/s  {hours}:{minutes:02}:{left % 60:02} left"
        print(line, file=sys.stderr, flush=True)
