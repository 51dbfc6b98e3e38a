"""From records to batches with grain: the stream is a pure function of (seed, step)."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from imagebind_jax.errors import UserError
from imagebind_jax.inputs.sources import Record, Source

Batch = dict[str, np.ndarray]


@runtime_checkable
class Transform(Protocol):
    """One modality of a record -> one model input; without `rng`, as for evaluation."""

    def __call__(self, record: Record, rng: np.random.Generator | None) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two modalities that are learned together, and the records that hold both."""

    modalities: tuple[str, str]
    source: Source
    weight: float = 1.0  # share of the steps, relative to the other pairs'

    def __post_init__(self):
        if len(set(self.modalities)) != 2:
            raise UserError(f"a pair is of two different modalities, not {self.modalities}")
        if not self.weight > 0:
            raise UserError(f"the weight of {self.modalities} must be > 0, got {self.weight}")

    @property
    def name(self) -> str:
        return "+".join(self.modalities)


@dataclasses.dataclass(frozen=True)
class Standardised:
    """Another transform's output, minus `mean` and divided by `std`, of which there is one a channel.

    For data that is not what a released model was trained on: that has its constants built in.
    """

    transform: Transform
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, record: Record, rng: np.random.Generator | None) -> np.ndarray:
        x = self.transform(record, rng)
        return (x - np.asarray(self.mean, x.dtype)) / np.asarray(self.std, x.dtype)


@dataclasses.dataclass(frozen=True)
class ToInputs:
    """record -> {modality: input, "weight": 1}; every modality has its own random stream."""

    transforms: Mapping[str, Transform]

    def __call__(self, record: Record, rng: np.random.Generator | None) -> Batch:
        rngs: list = [None] * len(self.transforms)
        if rng:  # no rng.spawn: it counts its calls, and grain uses one generator for many records
            rngs = [np.random.default_rng(n) for n in rng.integers(2**63, size=len(rngs))]
        inputs = {name: t(record, r) for (name, t), r in zip(self.transforms.items(), rngs)}
        return inputs | {"weight": np.ones((), np.float32)}


class InMemory:
    """Inputs of records, each made once (in their evaluation form) and kept.

    For sets of a few thousand small records, where decoding would take longer than the step.
    """

    def __init__(self, records: Sequence[Record], to_inputs: ToInputs):
        self._records, self._to_inputs = records, to_inputs
        self._inputs: dict[int, Batch] = {}

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Batch:
        if index not in self._inputs:
            self._inputs[index] = self._to_inputs(self._records[index], None)
        return self._inputs[index]


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
    ):
        """batch_size: global rows a step. in_memory: decode each record once, without random
        augmentation, and keep it. Raises UserError if the batch does not divide over the hosts."""
        import grain

        if not pairs:
            raise UserError("no pair of modalities to make batches of")
        if not 0 <= seed < 2**32:
            raise UserError(f"seed must be in [0, 2**32), got {seed}")
        if batch_size % hosts:
            raise UserError(f"batch_size {batch_size} is not divisible by {hosts} hosts")
        self.pairs, self.host, self.hosts = tuple(pairs), host, hosts
        weights = np.array([pair.weight for pair in pairs])
        draws = np.random.default_rng([seed, 0]).random(steps)
        self.schedule = np.searchsorted(np.cumsum(weights / weights.sum())[:-1], draws, "right")
        # How often a step's pair was drawn before: the index of its batch.
        self.occurrence = np.zeros(steps, int)
        for index in range(len(self.pairs)):
            drawn = self.schedule == index
            self.occurrence[drawn] = np.arange(drawn.sum())
        self.datasets = []
        for i, pair in enumerate(self.pairs):
            to_inputs = ToInputs({modality: inputs[modality] for modality in pair.modalities})
            records = pair.source.open()
            if not len(records):
                raise UserError(f"the source of {pair.name} has no records")
            dataset = grain.MapDataset.source(
                InMemory(records, to_inputs) if in_memory else records
            )
            # Not seed + i: pair 1 of seed 0 would then be shuffled like pair 0 of seed 1.
            pair_seed = int(np.random.SeedSequence([seed, 1 + i]).generate_state(1)[0])
            dataset = dataset.seed(pair_seed).shuffle().repeat()
            if not in_memory:
                dataset = dataset.random_map(_RandomMap(to_inputs))
            self.datasets.append(dataset.batch(batch_size // hosts))

    def __len__(self) -> int:
        return len(self.schedule)

    def __getitem__(self, step: int) -> Batch:
        return self.datasets[self.schedule[step]][self.occurrence[step] * self.hosts + self.host]

    def name(self, step: int) -> str:
        """The pair of a step."""
        return self.pairs[self.schedule[step]].name

    def stream(self, start: int = 0, threads: int = 2, ahead: int = 4) -> Iterator[Batch]:
        """The batches from step `start` on; `threads` make up to `ahead` of them in advance."""
        import grain

        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(ahead, threads))
        return iter(grain.MapDataset.source(self)[start:].to_iter_dataset(options))


def _RandomMap(to_inputs: ToInputs) -> Any:
    import grain

    class RandomMap(grain.transforms.RandomMap):
        def random_map(self, element, rng):
            return to_inputs(element, rng)

    return RandomMap()


def evaluation_batches(
    records: Sequence[Record], transform: Transform, modality: str, batch_size: int
) -> Iterator[Batch]:
    """All records once, in order, as {modality: inputs}; the last batch may be smaller."""
    for start in range(0, len(records), batch_size):
        rows = range(start, min(start + batch_size, len(records)))
        yield {modality: np.stack([transform(records[row], None) for row in rows])}
