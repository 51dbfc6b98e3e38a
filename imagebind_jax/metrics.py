"""What a run tells: metrics.jsonl and TensorBoard files on disk, progress on the terminal."""

import json
import os
import pathlib
import sys
import time
from collections.abc import Mapping


class Metrics:
    """Appends to `metrics.jsonl` (one JSON object a line) and to TensorBoard's event files."""

    def __init__(self, folder: str | os.PathLike, start: int = 0):
        """`start`: the step a run goes on from; what a lost run wrote from there on is dropped."""
        from tensorboardX import SummaryWriter  # 0.3 s that only a training run needs

        self.path = pathlib.Path(folder) / "metrics.jsonl"
        kept = [line for line in read(self.path) if line["step"] < start]
        partial = self.path.with_suffix(".partial")
        partial.write_text("".join(json.dumps(line) + "\n" for line in kept))
        partial.replace(self.path)
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
    """A bar on a terminal; a plain line every few seconds anywhere else (logs, CI, pipes)."""

    def __init__(self, what: str, total: int, start: int = 0, *, every: float = 2.0, quiet=False):
        self.what, self.total, self.start, self.every = what, total, start, every
        self.done = start
        self._begun = self._printed = time.monotonic()
        self._bar = None
        self._quiet = quiet
        if sys.stderr.isatty() and not quiet:
            from rich import progress
            from rich.console import Console

            self._bar = progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TextColumn("{task.fields[note]}"),
                progress.TextColumn("{task.fields[rate]}"),
                progress.TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task(what, total=total, completed=start, note="", rate="")
            self._bar.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._bar:
            self._bar.stop()

    def update(self, done: int, note: str = "") -> None:
        """`done` of the total so far; `note` says what is worth seeing now."""
        now = time.monotonic()
        self.done = done
        rate = (done - self.start) / max(now - self._begun, 1e-9)
        if self._bar:
            self._bar.update(self._task, completed=done, note=note, rate=f"{rate:.1f}/s")
        elif not self._quiet and (now - self._printed >= self.every or done == self.total):
            self._printed = now
            left = time.strftime("%M:%S", time.gmtime((self.total - done) / max(rate, 1e-9)))
            note = f"  {note}" if note else ""
            print(
                f"{self.what} {done}/{self.total}{note}  {rate:.1f}/s  {left} left",
                file=sys.stderr,
                flush=True,
            )
