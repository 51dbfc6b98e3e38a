"""From records to batches with grain: the stream is a pure function of (seed, step)."""

import contextlib
import dataclasses
import functools
import itertools
import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from imagebind_jax.errors import UserError
from imagebind_jax.inputs.pipeline.bad_records import BadRecordLog
from imagebind_jax.inputs.pipeline.examples import (
    Batch,
    CachedExamples,
    Examples,
    Standardize,
    ToModelInputs,
    Transform,
)
from imagebind_jax.inputs.pipeline.pairs import ModalityPair
from imagebind_jax.inputs.sources import Record
from imagebind_jax.runtime import breadcrumbs

__all__ = ["Batch", "PairBatches", "ModalityPair", "Standardize", "Transform", "iterate_inputs"]

ROWS_PER_PART = (
    128  # rows that a thread or process makes at a time: hundreds of them make one large batch
)


class PairBatches:
    """batches[step]: this host's share of the global batch of that step, of one pair.

    No iterator state: any number of hosts and threads, and any restart, sees the same batches.
    """

    def __init__(
        self,
        pairs: Sequence[ModalityPair],
        inputs: Mapping[str, Transform],
        *,
        seed: int,
        batch_size: int,
        steps: int,
        host: int = 0,
        hosts: int = 1,
        in_memory: bool = False,
        bad: BadRecordLog | None = None,
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
        self.bad = bad or BadRecordLog(None)
        weights = np.array([pair.weight for pair in pairs])
        draws = np.random.default_rng([seed, 0]).random(steps)
        self.schedule = np.searchsorted(np.cumsum(weights / weights.sum())[:-1], draws, "right")
        # How often a step's pair was drawn before: the index of its batch.
        self.occurrence = np.zeros(steps, int)
        for index in range(len(self.pairs)):
            drawn = self.schedule == index
            self.occurrence[drawn] = np.arange(drawn.sum())
        self._rows_per_host = batch_size // hosts
        self.part = next(n for n in range(ROWS_PER_PART, 0, -1) if self._rows_per_host % n == 0)
        # Not seed + i: pair 1 of seed 0 would then be shuffled like pair 0 of seed 1.
        seeds = [np.random.SeedSequence([seed, 1 + i]) for i in range(len(self.pairs))]
        self._seeds = [int(sequence.generate_state(1)[0]) for sequence in seeds]
        self.rows = []
        for pair in self.pairs:
            transforms = {m: pair.inputs.get(m) or inputs[m] for m in pair.modalities}
            records = pair.source.open()
            if not len(records):
                raise UserError(f"the source of {pair.name} has no records")
            to_inputs = ToModelInputs(
                transforms, pair.aligned, pair.views, pair.opened(inputs, len(records))
            )
            self.rows.append(
                (CachedExamples if in_memory else Examples)(records, to_inputs, pair.name)
            )

    @functools.cached_property
    def datasets(self) -> list[Any]:
        """For each pair an endless grain.MapDataset of parts of batches."""
        made = []
        for pair, rows, seed in zip(self.pairs, self.rows, self._seeds):
            made.append(_dataset(rows, seed, pair.replication).batch(self.part))
        return made

    @property
    def parts(self) -> int:
        """Of this process's share of a batch."""
        return self._rows_per_host // self.part

    def __getstate__(self) -> dict[str, Any]:
        """To worker processes, which build their own: a dataset in use cannot be sent."""
        return {name: value for name, value in vars(self).items() if name != "datasets"}

    def __len__(self) -> int:
        return len(self.schedule)

    def __getitem__(self, step: int) -> Batch:
        return self._told(step, [self.raw(step * self.parts + i) for i in range(self.parts)])

    def raw(self, index: int) -> Batch:
        """Part index % parts of step index // parts, with "bad", what was wrong with each row."""
        step, part = divmod(index, self.parts)
        before = self.occurrence[step] * self.hosts + self.host
        return self.datasets[self.schedule[step]][before * self.parts + part]

    def _told(self, step: int, parts: Sequence[Batch]) -> Batch:
        batch = dict(parts[0])
        if len(parts) > 1:
            batch = {name: np.concatenate([part[name] for part in parts]) for name in batch}
        self.bad.see(step, self.name(step), batch.pop("bad"))
        return batch

    def name(self, step: int) -> str:
        """The pair of a step."""
        return self.pairs[self.schedule[step]].name

    def records(self, step: int) -> list[str]:
        """The ids of the records of this host's share of a step's batch, in its order.

        Nothing is decoded. "record 17" where a record has no id, or cannot be read.
        """
        pair = self.schedule[step]
        rows = self.rows[pair]
        first = (self.occurrence[step] * self.hosts + self.host) * self._rows_per_host
        indices = shuffled_indices(len(rows), self._seeds[pair], self.pairs[pair].replication)
        return [rows.id(indices[int(first) + i]) for i in range(self._rows_per_host)]

    def stream(
        self,
        start: int = 0,
        threads: int = 2,
        ahead: int = 4,
        *,
        workers: int = 0,
        patience: float = 60.0,
    ) -> Generator[Batch]:
        """The batches from step `start` on, made in advance by threads or worker processes.

        threads: that make up to `ahead` batches of this process in advance. workers: processes in
        their place (each holds two parts of batches), for decoding that Python's lock holds up; a
        script then needs `if __name__ == "__main__":`. Raises `FatalRunError`, naming the file, where a worker
        dies or one record takes more than `patience` seconds.
        """
        if workers and self.in_memory:
            raise UserError("in_memory keeps inputs in this process: it goes with workers 0 only")
        ahead = max(ahead * self.parts, threads)
        made = _prefetch(_PartsSource(self), start * self.parts, threads, ahead, workers, patience)
        for step in range(start, len(self)):
            yield self._told(step, list(itertools.islice(made, self.parts)))


class _PartsSource:
    """Parts of batches as grain sees them, without what only the run's own process needs."""

    def __init__(self, batches: PairBatches):
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches) * self._batches.parts

    def __getitem__(self, index: int) -> Batch:
        return self._batches.raw(index)


def _dataset(rows: Examples, seed: int, replication: float) -> Any:
    """An endless grain.MapDataset of rows, shuffled anew in each epoch."""
    import grain

    class RandomMap(grain.transforms.RandomMap):
        def random_map(self, index, rng):
            return rows.row(index, rng)

    return shuffled_indices(len(rows), seed, replication).random_map(RandomMap())


def iterate_inputs(
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
    `PairBatches.stream` are, and with its errors; `name` is what these call the records.
    """
    rows = Examples(records, ToModelInputs({modality: transform}), name)
    of_any_shape = functools.partial(rows.made, rng=None)
    for row, why in prefetch_each(of_any_shape, len(rows), start, threads, workers, patience):
        yield (row[modality], "") if row is not None else (None, why)


def prefetch_each(
    make: Callable[[int], tuple[Batch | None, str]],
    count: int,
    start: int,
    threads: int,
    workers: int,
    patience: float,
) -> Generator[tuple[Batch | None, str]]:
    """make(start), ..., make(count - 1), as `Examples.made` makes them, in advance: (inputs, "") or
    (None, what was wrong in one line)."""
    if start >= count:
        return
    # A few for each thread: a row may be all the views of a video, or all of a long recording.
    ahead = _prefetch(_RowSource(make, count), start, threads, 4 * threads, workers, patience)
    with contextlib.closing(ahead) as made:
        for row in made:
            bad = json.loads(str(row["bad"])) if "bad" in row else None
            yield (None, f"{bad['file']}: {bad['reason']}") if bad else (row, "")


class _RowSource:
    """Rows as grain sees them: inputs, or "bad" in their place."""

    def __init__(self, make: Callable[[int], tuple[Batch | None, str]], count: int):
        self._make, self._count = make, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Batch:
        inputs, bad = self._make(index)
        return {"bad": np.array(bad)} if inputs is None else inputs


def _prefetch(
    made: Any, start: int, threads: int, ahead: int, workers: int, patience: float
) -> Generator[Batch, None, None]:
    """made[start], made[start + 1], ..., in advance by threads or worker processes, watched."""
    import grain

    from imagebind_jax.inputs.pipeline.prefetch import (
        close_at_exit,
        iterate_in_processes,
        iterate_with_timeout,
    )

    threads, ahead = (1, 1) if workers else (threads, ahead)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
    trail = breadcrumbs.ReadTracker()
    source = made if workers else breadcrumbs.TrackedSource(made, trail)
    elements = grain.MapDataset.source(source)[start:].to_iter_dataset(options)
    if workers:
        return close_at_exit(iterate_in_processes(elements, workers, patience))
    return iterate_with_timeout(elements, patience, trail)


def unpaired_batches(
    rows: Examples,
    *,
    seed: int,
    batch_size: int,
    steps: int,
    start: int = 0,
    host: int = 0,
    hosts: int = 1,
    threads: int = 2,
    patience: float = 60.0,
    bad: BadRecordLog,
) -> Iterator[Batch]:
    """This host's batches of one source, alone, from step `start` on: shuffled anew each epoch.

    As with `PairBatches`, a step's batch is the same whatever the start, hosts and threads.
    """
    batches = _dataset(rows, seed, 1.0).batch(batch_size // hosts)[host : steps * hosts : hosts]
    made = _prefetch(batches, start, threads, max(4, threads), 0, patience)
    for step, batch in enumerate(made, start):
        bad.see(step, rows.name, batch["bad"])
        yield {name: values for name, values in batch.items() if name != "bad"}


def shuffled_indices(count: int, seed: int, replication: float = 1.0) -> Any:
    """An endless grain.MapDataset of the indices of `count` records, which further steps may follow.

    replication: how often a record is seen in an epoch, on average.
    """
    import grain

    total = round(replication * count)
    indices = range(count) if total == count else _RepeatedIndices(count, total)
    # Endless in all but name: grain's batch of one row overflows on what has no end.
    epochs = 2**40 // total
    return grain.MapDataset.source(indices).seed(seed).shuffle().repeat(epochs)


@dataclasses.dataclass(frozen=True)
class _RepeatedIndices:
    """The indices of `count` records, `total` times in all: those seen once more lie evenly apart."""

    count: int
    total: int

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, index: int) -> int:
        return index * self.count // self.total
