"""Toy records for the tests of worker processes, which import them again; as a script, a run to be killed.

python feeding.py FLAG [raise]              feeds for ever; FLAG appears when it does
python feeding.py HISTORY HOSTS WORKERS     feeds to the end, and commits what it has seen
"""

import dataclasses
import json
import os
import pathlib
import signal
import sys
import time
from multiprocessing import shared_memory

import numpy as np

from imagebind_jax.inputs.decoders import media
from imagebind_jax.inputs.pipeline.batches import ModalityPair, PairBatches
from imagebind_jax.inputs.transforms import augment
from imagebind_jax.runtime import breadcrumbs, fault_injection
from imagebind_jax.storage import atomic

if "FEEDING_BLOCKS" in os.environ:  # by their names, a test knows whose shared memory is left
    shared_memory._SHM_NAME_PREFIX = f"/{os.environ['FEEDING_BLOCKS']}"


@dataclasses.dataclass(frozen=True)
class Numbers:
    """Records {"id": ..., "number": first ... first + count - 1}."""

    first: int
    count: int

    def open(self):
        return [{"id": f"n{i}", "number": i} for i in range(self.first, self.first + self.count)]


@dataclasses.dataclass(frozen=True)
class Noisy:
    """The number, a draw of its own and one that the pair shares; some records are bad, or worse.

    mark: a file that appears when the worst begins.
    """

    size: int = 2
    bad: tuple[int, ...] = ()
    deadly: int = -1
    endless: int = -1
    mark: str = ""

    def __call__(self, record, rng):
        number = record["number"]
        if number in self.bad:
            raise media.MediaError(f"{number}.wav", "broken")
        if self.mark and number in (self.deadly, self.endless):
            pathlib.Path(self.mark).touch()
        if number == self.deadly:
            breadcrumbs.set_current_file("/media/deadly.mp4")
            signal.raise_signal(signal.SIGSEGV)
        while number == self.endless:
            breadcrumbs.set_current_file("/media/endless.mp4")
            time.sleep(60)
        own = shared = -1.0
        if rng is not None:
            own, shared = rng.random(), augment.shared_augmentation(record, rng).start(11.0, 1.0)
        return (
            np.full(self.size, 0, np.float64)
            + np.float64([number, own + shared])[np.arange(self.size) % 2]
        )


def batches(first=Noisy(), second=Noisy(), *, steps=16, batch_size=8, replication=1.0, **options):
    pairs = (
        ModalityPair(("vision", "audio"), Numbers(0, 20), weight=2.0, replication=replication),
        ModalityPair(("vision", "imu"), Numbers(100, 12)),
    )
    inputs = {"vision": first, "audio": second, "imu": second}
    return PairBatches(pairs, inputs, seed=3, batch_size=batch_size, steps=steps, **options)


def feed_for_ever(flag, end=""):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a background job ignores
    global stream  # as a script's own: it is still open when Python ends
    stream = batches(Noisy(100_000), Noisy(100_000), steps=10_000).stream(workers=1)
    for step, _ in enumerate(stream):
        if step == 3:
            pathlib.Path(flag).touch()
            if end == "raise":
                raise SystemExit(7)
        time.sleep(0.02)


RECORDS, BATCH, EVERY = 960, 8, 10  # EVERY: steps from commit to commit


def commit_what_is_seen(history, hosts, workers):
    """All hosts' streams from the last commit on; IBJ_FAULT ends it on the way."""
    path = pathlib.Path(history)
    seen = json.loads(path.read_text()) if path.exists() else []
    pairs = (ModalityPair(("vision", "imu"), Numbers(0, RECORDS)),)
    options = {"seed": 1, "batch_size": BATCH, "steps": RECORDS // BATCH, "hosts": int(hosts)}
    inputs = {"vision": Noisy(), "imu": Noisy()}
    shares = [PairBatches(pairs, inputs, host=host, **options) for host in range(int(hosts))]
    streams = [share.stream(len(seen), workers=int(workers)) for share in shares]
    for step, parts in enumerate(zip(*streams), len(seen)):
        fault_injection.inject_process_faults(step)
        seen.append([int(number) for part in parts for number in part["vision"][:, 0]])
        if len(seen) % EVERY == 0:
            atomic.write_text_atomic(path, json.dumps(seen))


if __name__ == "__main__":
    (feed_for_ever if len(sys.argv) < 4 else commit_what_is_seen)(*sys.argv[1:])
