"""TensorBoard's event files, written at once: a full disk costs numbers on the board, and never the run."""

import contextlib
import os
import pathlib
import time
from typing import Any

from imagebind_jax.files import FULL

EVERY = 10.0  # seconds after which what was written is there to be seen


class Board:
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
            if time.monotonic() - self._flushed > EVERY:
                self._flushed = time.monotonic()
                self._writer.flush()
        except OSError as error:
            if error.errno not in FULL:
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
