"""What a benchmark is: an evaluation, the records it is made on, and what others report of it."""

import dataclasses
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from imagebind_jax.errors import UserError
from imagebind_jax.evaluation.metrics.bootstrap import Estimate
from imagebind_jax.inputs.pipeline.batches import Transform
from imagebind_jax.inputs.sources import Prepared, Record, Source
from imagebind_jax.inputs.sources.prepared import DatasetInfo
from imagebind_jax.models.imagebind import ImageBindConfig

UNUSABLE_KEY = "unusable"  # in the notes of a record that cannot be read: why not
NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,99}")  # of files, too


@dataclasses.dataclass(frozen=True)
class EvalInputs:
    """The records of a source, and the input that one modality of each becomes."""

    source: Source  # a Prepared with a relative folder is looked for in EvalConfig.records
    modality: str
    transform: Transform  # one input, or several views of it, whose embeddings are averaged
    name: str = ""  # of its embeddings: by default the prepared folder's, with split and modality
    optional: bool = False  # whether records may lack it, as some videos have no sound

    def __post_init__(self):
        if not self.name:
            object.__setattr__(self, "name", f"{source_name(self.source)}.{self.modality}")
        if not NAME_PATTERN.fullmatch(self.name):
            raise UserError(f"items named {self.name!r}: letters, digits, _ . @ and - only")


def source_name(source: Source) -> str:
    """What its files are called: esc50-fold1; of a list of samples, mine for mine.csv.

    Raises UserError for a source without a name.
    """
    path = getattr(source, "path", "") or next(iter(getattr(source, "paths", ())), "")
    name = getattr(source, "name", "") or pathlib.PurePath(os.fspath(path)).stem
    if isinstance(source, Prepared):
        name = pathlib.PurePath(source.folder).name
    parts = (str(name), str(getattr(source, "split", "")))
    called = re.sub(r"[^A-Za-z0-9_.@-]+", "-", "-".join(filter(None, parts))).strip("-")
    if not NAME_PATTERN.fullmatch(called):
        raise UserError(f"{type(source).__name__} as a source of items needs a field `name`")
    return called


@dataclasses.dataclass(frozen=True)
class EvalResult:
    """What came out of an evaluation."""

    numbers: Mapping[str, Estimate]  # the headline first
    samples: int  # that there were
    unusable: int = 0  # of which no input could be made
    chance: Mapping[str, float] = dataclasses.field(default_factory=dict)  # of the same names
    notes: tuple[str, ...] = ()  # what a reader should know


@runtime_checkable
class Embedder(Protocol):
    """What an evaluation works with: embeddings, whether a model makes them or a file holds them.

    Everything comes in the order of the records.
    """

    resamples: int  # of the bootstrap
    seed: int
    folder: pathlib.Path | None  # for what an evaluation keeps, if anything is kept

    def facts(self, source: Source) -> DatasetInfo | None:
        """What a prepared folder says of itself: classes, prompts, names. None of other sources."""

    def notes(self, source: Source) -> Sequence[Mapping[str, Any]]:
        """Every record without its media: "id", "label", "text", ...

        Of one that cannot be read, {UNUSABLE_KEY: why}; its embedding is NaN.
        """

    def records(self, source: Source) -> Sequence[Record]:
        """Every record with its media."""

    def embed(self, items: EvalInputs) -> Float[np.ndarray, "n e"]:
        """Unit vectors; a row of NaN where no input can be made of the record."""

    def inputs(self, items: EvalInputs) -> tuple[np.ndarray, np.ndarray]:
        """(all inputs [n, ...], which of them are usable [n]), for what trains an encoder itself."""

    def texts(self, name: str, texts: Sequence[str]) -> Float[np.ndarray, "n e"]:
        """Unit vectors of sentences. name: of the file that may hold them, such as clotho-evaluation."""

    def classes(
        self, name: str, names: Sequence[str], prompts: Sequence[str]
    ) -> Float[np.ndarray, "names e"]:
        """A unit vector for each name: the normalised mean over the prompts. name: such as esc50."""

    def tell(self, what: str) -> None:
        """Shows what is being done."""


@runtime_checkable
class Evaluator(Protocol):
    """A frozen dataclass in `evaluators/`: how something is measured, and on what."""

    @property
    def sources(self) -> tuple[Source, ...]:
        """All records that it reads."""

    @property
    def modalities(self) -> frozenset[str]:
        """All encoders that it needs."""

    def measure(self, bench: Embedder) -> EvalResult: ...


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """One row of a table of results."""

    name: str  # as the paper calls it
    evaluation: Evaluator
    # Who -> {the number's name: what they report, in percent}; "paper" is the ImageBind paper.
    reported: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if not NAME_PATTERN.fullmatch(self.name):
            raise UserError(f"a benchmark named {self.name!r}: letters, digits, _ . @ and - only")
        for who, said in self.reported.items():
            numbers = said.values() if isinstance(said, Mapping) else [said]
            if not isinstance(said, Mapping) or not all(type(n) in (int, float) for n in numbers):
                raise UserError(
                    f'{self.name}: reported[{who!r}] is {said!r}: expected {{"top1": 66.9}}, in percent'
                )


def check_eval_inputs(**fields: Any) -> None:
    """Raises UserError where what should be a tuple of items is not: a comma is soon forgotten."""
    for name, found in fields.items():
        if not isinstance(found, tuple) or not all(isinstance(each, EvalInputs) for each in found):
            raise UserError(f"{name} must be a tuple of EvalInputs, such as (sounds,)")


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """Benchmarks, and how they are run; a config file returns one from `get_config()`."""

    benchmarks: tuple[Benchmark, ...]
    records: str = "records"  # where prepared folders are: records/esc50
    resamples: int = 1000  # of the bootstrap
    seed: int = 0
    unusable: float = 0.01  # share of the records of which no input can be made, at most
    # How it is run; the numbers stay the same but for rounding.
    batch_size: int = 64  # inputs (views, sentences) at once, over all devices
    dtype: str = "float32"  # of the computation, or bfloat16
    fsdp: int = 1  # devices that share one copy of the parameters
    threads: int = 2  # reading and decoding
    workers: int = 0  # processes for it in place of threads
    patience: float = 60.0  # seconds that one record may take before the run ends, naming it

    def __post_init__(self):
        for name in ("batch_size", "threads", "fsdp"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.workers < 0 or not self.patience > 0 or not 0 <= self.unusable <= 1:
            raise UserError(
                f"workers {self.workers}, patience {self.patience}, unusable {self.unusable}: "
                "they must be at least 0, above 0, within [0, 1]"
            )
        if self.dtype not in ("float32", "bfloat16"):
            raise UserError(f"dtype {self.dtype!r}: not one of float32, bfloat16")
        if self.resamples < 0 or not 0 <= self.seed < 2**32:
            raise UserError(f"resamples {self.resamples}, seed {self.seed}: not negative")
        names = [benchmark.name for benchmark in self.benchmarks]
        if twice := {name for name in names if names.count(name) > 1}:
            raise UserError(f"two benchmarks are named {sorted(twice)[0]}")


@runtime_checkable
class HasWeights(Protocol):
    """A bench that can give its encoders away, to go on learning."""

    def weights(
        self, modalities: Sequence[str]
    ) -> tuple[ImageBindConfig, Mapping[str, Mapping[str, Any]]]:
        """(the model's configuration, {modality: parameters})."""
