"""Toy records for the tests of worker processes, which import them again; as a script, a run to be killed."""

import dataclasses
import pathlib
import signal
import sys
import time

import numpy as np

from imagebind_jax.inputs import augment, crumbs, media
from imagebind_jax.inputs.pipeline import Batches, Pair


@dataclasses.dataclass(frozen=True)
class Numbers:
    """Records {"id": ..., "number": first ... first + count - 1}."""

    first: int
    count: int

    def open(self):
        return [{"id": f"n{i}", "number": i} for i in range(self.first, self.first + self.count)]


@dataclasses.dataclass(frozen=True)
class Noisy:
    """The number, a draw of its own and one that the pair shares; some records are bad, or worse."""

    size: int = 2
    bad: tuple[int, ...] = ()
    deadly: int = -1
    endless: int = -1

    def __call__(self, record, rng):
        number = record["number"]
        if number in self.bad:
            raise media.MediaError(f"{number}.wav", "broken")
        if number == self.deadly:
            crumbs.detail("/media/deadly.mp4")
            signal.raise_signal(signal.SIGSEGV)
        while number == self.endless:
            crumbs.detail("/media/endless.mp4")
            time.sleep(60)
        own = shared = -1.0
        if rng is not None:
            own, shared = rng.random(), augment.view_of(record, rng).start(11.0, 1.0)
        return (
            np.full(self.size, 0, np.float64)
            + np.float64([number, own + shared])[np.arange(self.size) % 2]
        )


def batches(first=Noisy(), second=Noisy(), *, steps=16, batch_size=8, replication=1.0, **options):
    pairs = (
        Pair(("vision", "audio"), Numbers(0, 20), weight=2.0, replication=replication),
        Pair(("vision", "imu"), Numbers(100, 12)),
    )
    inputs = {"vision": first, "audio": second, "imu": second}
    return Batches(pairs, inputs, seed=3, batch_size=batch_size, steps=steps, **options)


if __name__ == "__main__":  # feeding.py FLAG: feeds for ever from a process; FLAG says when
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a background job ignores
    stream = batches(Noisy(100_000), Noisy(100_000), steps=10_000).stream(workers=1)
    for step, _ in enumerate(stream):
        if step == 3:
            pathlib.Path(sys.argv[1]).touch()
            if sys.argv[2:] == ["raise"]:
                raise SystemExit(7)
        time.sleep(0.02)
