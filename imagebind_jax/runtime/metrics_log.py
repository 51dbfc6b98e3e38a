"""The metrics of a run on disk: metrics.jsonl and TensorBoard files."""

import contextlib
import json
import math
import os
import pathlib
import time
from collections.abc import Mapping
from typing import Any

from imagebind_jax.storage import atomic
from imagebind_jax.storage.atomic import DISK_FULL_ERRNOS


class MetricsLog:
    """Appends to `metrics.jsonl` (one JSON object a line) and to TensorBoard's event files."""

    def __init__(self, folder: str | os.PathLike, start: int = 0, *, writes: bool = True):
        """`start`: the step a run goes on from; what a lost run wrote from there on is dropped.
        writes: False on hosts whose numbers another one writes."""
        self._writes = writes
        if not writes:
            return
        self.path = pathlib.Path(folder) / "metrics.jsonl"
        kept = [line for line in read_metrics(self.path) if line["step"] < start]
        atomic.write_text_atomic(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = self.path.open("ab", buffering=0)
        self._late = b""  # what a full disk had no room for
        self._board = TensorBoardWriter(pathlib.Path(folder) / "tensorboard", start)

    def write(self, step: int, values: Mapping[str, float | str]) -> None:
        """One line: {"step": step, **values}; numbers also go to TensorBoard.

        While the disk is full, lines wait for the next one that can be written.
        """
        if not self._writes:
            return
        self._late += json.dumps({"step": step, **values}).encode() + b"\n"
        self._append()
        for name, value in values.items():
            if isinstance(value, float) and math.isfinite(value):
                self._board.scalar(name, value, step)

    def _append(self) -> None:
        self._late = atomic.append_or_buffer(self._file, self._late)

    def close(self) -> None:
        if self._writes:
            self._append()
            self._file.close()
            self._board.close()


def read_metrics(path: str | os.PathLike) -> list[dict]:
    """The lines of a metrics.jsonl; damaged ones are left out."""
    return [
        line
        for line in atomic.read_jsonl_lenient(pathlib.Path(path))
        if type(line.get("step")) is int
    ]


FLUSH_SECONDS = 10.0  # seconds after which what was written is there to be seen


class TensorBoardWriter:
    """Scalars by step. (tensorboardX's own writer dies in a thread where the disk is full, and then
    holds up whoever calls it, for ever.)"""

    def __init__(self, folder: str | os.PathLike, start: int):
        """start: the step a run goes on from; TensorBoard hides what was written from there on."""
        from tensorboardX.proto import event_pb2  # 0.3 s that only a training run needs

        self._folder, self._event = pathlib.Path(folder), event_pb2.Event
        self._writer: Any = None
        self._flushed = time.monotonic()
        self._folder.mkdir(parents=True, exist_ok=True)
        begun = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._write(self._event(step=start, session_log=begun))

    def scalar(self, name: str, value: float, step: int) -> None:
        from tensorboardX import summary

        self._write(
            self._event(wall_time=time.time(), step=step, summary=summary.scalar(name, value))
        )

    def _write(self, event) -> None:
        from tensorboardX.event_file_writer import EventsWriter

        try:
            if self._writer is None:
                suffix = f".{os.getpid()}.{time.time_ns()}"
                self._writer = EventsWriter(str(self._folder / "events"), suffix)
            self._writer.write_event(event)
            if time.monotonic() - self._flushed > FLUSH_SECONDS:
                self._flushed = time.monotonic()
                self._writer.flush()
        except OSError as error:
            if error.errno not in DISK_FULL_ERRNOS:
                raise
            self._give_up()

    def _give_up(self) -> None:
        """What follows half a record would not be read: the next one goes into a new file."""
        writer, self._writer = self._writer, None
        with contextlib.suppress(OSError):
            if writer is not None:
                writer.close()

    def close(self) -> None:
        self._give_up()
