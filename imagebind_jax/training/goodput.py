"""Where a run's time goes, from its first start on and over all restarts: goodput.json, and one line."""

import contextlib
import pathlib
import time
from collections.abc import Iterator
from typing import Annotated

import msgspec

from imagebind_jax.storage import checksummed

# What a second of a run can be. `steps` that were lost with a process become `redone`; `down` is from
# a process's last sign of life to the start of the next.
TIME_CATEGORIES = (
    "steps",
    "compiling",
    "saving",
    "comparing",
    "data",
    "evaluation",
    "starting",
    "redone",
    "down",
)
FLUSH_SECONDS = 5.0  # seconds between signs of life
_Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e10)]  # centuries: what lies beyond is damage


class _GoodputFile(msgspec.Struct, forbid_unknown_fields=True):
    seconds: dict[str, _Seconds]
    seen: _Seconds  # by the clock on the wall
    at_step: dict[int, _Seconds] = {}  # seconds of `steps` when a checkpoint was begun


class GoodputRecorder:
    """A clock that always runs for one kind; its file survives the process."""

    def __init__(self, folder: pathlib.Path, *, writes: bool = True):
        """writes: False on hosts for which another one keeps the clock."""
        self._path, self._writes = folder / "goodput.json", writes
        self._kept = _GoodputFile(dict.fromkeys(TIME_CATEGORIES, 0.0), time.time())
        if writes and self._path.exists():
            # A clock is no reason not to train.
            with contextlib.suppress(OSError, ValueError):
                found = msgspec.convert(
                    checksummed.read_checksummed_json(self._path), _GoodputFile, str_keys=True
                )
                found.seconds = {kind: found.seconds.get(kind, 0.0) for kind in TIME_CATEGORIES}
                found.seconds["down"] += max(time.time() - found.seen, 0.0)
                self._kept = found
        self._kind, self._since, self._told = "starting", time.monotonic(), 0.0

    def begin(self, step: int) -> None:
        """The run goes on from `step`: what was done after its checkpoint will be done again."""
        kept = self._kept
        lost = kept.seconds["steps"] - (kept.at_step.get(step, 0.0) if step else 0.0)
        kept.seconds["steps"] -= lost
        kept.seconds["redone"] += lost
        kept.at_step = {at: seconds for at, seconds in kept.at_step.items() if at <= step}
        self._switch("steps")

    @contextlib.contextmanager
    def spent(self, kind: str) -> Iterator[None]:
        """The block's time is of this kind."""
        before = self._kind
        self._switch(kind)
        try:
            yield
        finally:
            self._switch(before)

    def mark(self, step: int) -> None:
        """A checkpoint of `step` is begun."""
        self._switch(self._kind)
        at_step = self._kept.at_step | {step: self._kept.seconds["steps"]}
        self._kept.at_step = dict(sorted(at_step.items())[-16:])  # more than are kept
        self._tell()

    def alive(self) -> None:
        """Called often; now and then it leaves a sign."""
        if time.monotonic() - self._told > FLUSH_SECONDS:
            self._tell()

    def close(self) -> str:
        """Leaves the last sign. "412 s: 81 % steps, 12 % compiling, ..."."""
        self._tell()
        seconds = self._kept.seconds
        wall = max(sum(seconds.values()), 1e-9)
        shares = [
            f"{seconds[kind] / wall:.0%} {kind}" for kind in TIME_CATEGORIES if seconds[kind] > 0
        ]
        return f"{wall:.0f} s: {', '.join(shares)}"

    def _switch(self, kind: str) -> None:
        now = time.monotonic()
        self._kept.seconds[self._kind] += now - self._since
        self._kind, self._since = kind, now

    def _tell(self) -> None:
        self._switch(self._kind)
        self._told = time.monotonic()
        self._kept.seen = time.time()
        if self._writes:
            with contextlib.suppress(OSError):  # a full disk
                checksummed.write_checksummed_json(
                    self._path, msgspec.to_builtins(self._kept, str_keys=True)
                )
