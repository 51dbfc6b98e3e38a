"""From records to batches with grain: the stream is a pure function of (seed, step)."""

import contextlib
import dataclasses
import functools
import json
import math
import tempfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from imagebind_jax.errors import UserError
from imagebind_jax.inputs.bad_records import BadRecords
from imagebind_jax.inputs.rows import Batch, InMemory, Rows, Standardised, ToInputs, Transform
from imagebind_jax.inputs.sources import Record, Source

__all__ = ["Batch", "Batches", "Pair", "Standardised", "Transform", "evaluation_inputs"]


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two modalities that are learned together, and the records that hold both."""

    modalities: tuple[str, str]
    source: Source
    weight: float = 1.0  # share of the steps, relative to the other pairs'
    replication: float = 1.0  # how often an epoch holds a record; 1.25: always every fourth twice
    aligned: bool = True  # the same crop, flip and moment for both; else each its own
    # In place of the config's: vision beside depth is augmented otherwise than beside sound.
    inputs: Mapping[str, Transform] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if len(set(self.modalities)) != 2:
            raise UserError(f"a pair is of two different modalities, not {self.modalities}")
        if unknown := self.inputs.keys() - set(self.modalities):
            raise UserError(f"inputs of {sorted(unknown)}, which the pair {self.name} has not")
        if not 0 < self.weight < math.inf:
            raise UserError(f"the weight of {self.modalities} must be > 0, got {self.weight}")
        if not 1 <= self.replication < 1e6:
            raise UserError(
                f"the replication of {self.modalities} must be at least 1, got {self.replication}"
            )

    @property
    def name(self) -> str:
        return "+".join(self.modalities)


class Batches:
    """batches[step]: this host's share of the global batch of that step, of one pair.

    No iterator state: any number of hosts and threads, and any restart, sees the same batches.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        inputs: Mapping[str, Transform],
        *,
        seed: int,
        batch_size: int,
        steps: int,
        host: int = 0,
        hosts: int = 1,
        in_memory: bool = False,
        bad: BadRecords | None = None,
    ):
        """batch_size: global rows a step. in_memory: decode each record once, without random
        augmentation, and keep it. bad: where unusable records are counted (default: in memory,
        1 % of a pair's rows). Raises UserError if the batch does not divide over the hosts."""
        if not pairs:
            raise UserError("no pair of modalities to make batches of")
        if not 0 <= seed < 2**32:
            raise UserError(f"seed must be in [0, 2**32), got {seed}")
        if batch_size % hosts:
            raise UserError(f"batch_size {batch_size} is not divisible by {hosts} hosts")
        self.pairs, self.host, self.hosts, self.in_memory = tuple(pairs), host, hosts, in_memory
        self.bad = bad or BadRecords(None)
        weights = np.array([pair.weight for pair in pairs])
        draws = np.random.default_rng([seed, 0]).random(steps)
        self.schedule = np.searchsorted(np.cumsum(weights / weights.sum())[:-1], draws, "right")
        # How often a step's pair was drawn before: the index of its batch.
        self.occurrence = np.zeros(steps, int)
        for index in range(len(self.pairs)):
            drawn = self.schedule == index
            self.occurrence[drawn] = np.arange(drawn.sum())
        self._rows_per_host = batch_size // hosts
        # Not seed + i: pair 1 of seed 0 would then be shuffled like pair 0 of seed 1.
        seeds = [np.random.SeedSequence([seed, 1 + i]) for i in range(len(self.pairs))]
        self._seeds = [int(sequence.generate_state(1)[0]) for sequence in seeds]
        self.rows = []
        for pair in self.pairs:
            transforms = {m: pair.inputs.get(m) or inputs[m] for m in pair.modalities}
            to_inputs = ToInputs(transforms, pair.aligned)
            records = pair.source.open()
            if not len(records):
                raise UserError(f"the source of {pair.name} has no records")
            self.rows.append((InMemory if in_memory else Rows)(records, to_inputs, pair.name))

    @functools.cached_property
    def datasets(self) -> list[Any]:
        """For each pair an endless grain.MapDataset of this process's batches."""
        made = []
        for pair, rows, seed in zip(self.pairs, self.rows, self._seeds):
            made.append(_dataset(rows, seed, pair.replication).batch(self._rows_per_host))
        return made

    def __getstate__(self) -> dict[str, Any]:
        """To worker processes, which build their own: a dataset in use cannot be sent."""
        return {name: value for name, value in vars(self).items() if name != "datasets"}

    def __len__(self) -> int:
        return len(self.schedule)

    def __getitem__(self, step: int) -> Batch:
        return self._told(step, self.raw(step))

    def raw(self, step: int) -> Batch:
        """The batch with "bad", what was wrong with each of its rows."""
        return self.datasets[self.schedule[step]][self.occurrence[step] * self.hosts + self.host]

    def _told(self, step: int, batch: Batch) -> Batch:
        self.bad.see(step, self.name(step), batch["bad"])
        return {name: rows for name, rows in batch.items() if name != "bad"}

    def name(self, step: int) -> str:
        """The pair of a step."""
        return self.pairs[self.schedule[step]].name

    def stream(
        self,
        start: int = 0,
        threads: int = 2,
        ahead: int = 4,
        *,
        workers: int = 0,
        patience: float = 60.0,
    ) -> Iterator[Batch]:
        """The batches from step `start` on, made in advance by threads or worker processes.

        threads: that make up to `ahead` batches of this process in advance. workers: processes in
        their place (each holds two batches), for decoding that Python's lock holds up; a script
        then needs `if __name__ == "__main__":`. Raises `Stopped`, naming the file, where a worker
        dies or one record takes more than `patience` seconds.
        """
        if workers and self.in_memory:
            raise UserError("in_memory keeps inputs in this process: it goes with workers 0 only")
        made = _ahead(_Raw(self), start, threads, max(ahead, threads), workers, patience)
        for step, batch in enumerate(made, start):
            yield self._told(step, batch)


class _Raw:
    """Batches as grain sees them, without what only the run's own process needs."""

    def __init__(self, batches: Batches):
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, step: int) -> Batch:
        return self._batches.raw(step)


def _dataset(rows: Rows, seed: int, replication: float) -> Any:
    """An endless grain.MapDataset of rows, shuffled anew in each epoch."""
    import grain

    class RandomMap(grain.transforms.RandomMap):
        def random_map(self, index, rng):
            return rows.row(index, rng)

    total = round(replication * len(rows))
    indices = range(len(rows)) if total == len(rows) else _Spread(len(rows), total)
    # Endless in all but name: grain's batch of one row overflows on what has no end.
    epochs = 2**40 // total
    dataset = grain.MapDataset.source(indices).seed(seed).shuffle().repeat(epochs)
    return dataset.random_map(RandomMap())


@dataclasses.dataclass(frozen=True)
class _Spread:
    """The indices of `count` records, `total` times in all: those seen once more lie evenly apart."""

    count: int
    total: int

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, index: int) -> int:
        return index * self.count // self.total


def evaluation_inputs(
    records: Sequence[Record],
    transform: Transform,
    modality: str,
    name: str,
    *,
    start: int = 0,
    threads: int = 2,
    workers: int = 0,
    patience: float = 60.0,
) -> Iterator[tuple[np.ndarray | None, str]]:
    """Of each record once, in order from `start` on: (its input, "") or (None, what was wrong).

    Inputs may differ in shape. They are made in advance by threads or worker processes, as those of
    `Batches.stream` are, and with its errors; `name` is what these call the records.
    """
    if start >= len(records):
        return
    each = _Each(Rows(records, ToInputs({modality: transform}), name))
    # A few for each thread: a row may be all the views of a video, or all of a long recording.
    with contextlib.closing(_ahead(each, start, threads, 4 * threads, workers, patience)) as made:
        for row in made:
            bad = json.loads(str(row["bad"])) if "bad" in row else None
            yield (None, f"{bad['file']}: {bad['reason']}") if bad else (row[modality], "")


class _Each:
    """Rows as grain sees them: an input, or "bad" in its place."""

    def __init__(self, rows: Rows):
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Batch:
        inputs, bad = self._rows.made(index, None)
        return {"bad": np.array(bad)} if inputs is None else inputs


def _ahead(
    made: _Raw | _Each, start: int, threads: int, ahead: int, workers: int, patience: float
) -> Generator[Batch, None, None]:
    """made[start:], each made in advance by threads or worker processes, which are watched."""
    import grain

    from imagebind_jax.inputs.workers import Begin, watched

    threads, ahead = (1, 1) if workers else (threads, ahead)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
    elements = grain.MapDataset.source(made)[start:].to_iter_dataset(options)
    if not workers:
        yield from watched(elements, patience, None)
        return
    _no_flags()
    processes = grain.MultiprocessingOptions(num_workers=workers)
    with tempfile.TemporaryDirectory(prefix="imagebind_jax_") as folder:
        elements = elements.mp_prefetch(processes, Begin(folder))
        for element in watched(elements, patience, folder):
            # Out of shared memory, which is scarce and must be given back.
            yield {name: np.array(rows) for name, rows in element.items()}


def _no_flags() -> None:
    """grain's processes read absl's flags, which only programs built on absl have parsed."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def single_batches(
    rows: Rows,
    *,
    seed: int,
    batch_size: int,
    steps: int,
    start: int = 0,
    host: int = 0,
    hosts: int = 1,
    threads: int = 2,
    patience: float = 60.0,
    bad: BadRecords,
) -> Iterator[Batch]:
    """This host's batches of one source, alone, from step `start` on: shuffled anew each epoch.

    As with `Batches`, a step's batch is the same whatever the start, hosts and threads.
    """
    import grain

    from imagebind_jax.inputs.workers import watched

    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(4, threads))
    batches = _dataset(rows, seed, 1.0).batch(batch_size // hosts)
    elements = batches[start * hosts + host : steps * hosts : hosts].to_iter_dataset(options)
    for step, batch in enumerate(watched(elements, patience, None), start):
        bad.see(step, rows.name, batch["bad"])
        yield {name: values for name, values in batch.items() if name != "bad"}
