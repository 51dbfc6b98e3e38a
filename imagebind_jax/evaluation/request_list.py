"""What another system must embed to be measured: lists of records, sentences and prompts, in order."""

import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from jaxtyping import Float

from imagebind_jax.errors import UserError
from imagebind_jax.evaluation import record_reader
from imagebind_jax.evaluation.benchmark import EvalConfig, EvalInputs
from imagebind_jax.evaluation.metrics.similarity import l2_normalize
from imagebind_jax.inputs.sources import Record, Source
from imagebind_jax.inputs.sources.prepared import DatasetInfo
from imagebind_jax.storage import atomic
from imagebind_jax.storage.row_file import write_durably

WIDTH = 16  # of the random vectors that stand in for embeddings


class _NeedsRawInputs(Exception):
    """A baseline that asks for inputs, and for no embeddings."""


def write_embedding_requests(
    config: EvalConfig, folder: pathlib.Path, say: record_reader.ProgressFn
) -> list[str]:
    """Writes `<name>.wanted.jsonl` for everything that the benchmarks embed; returns the names.

    Items: {"id"} a line, or {"record"} where records have no ids. Sentences: {"text"}. Classes:
    {"name", "texts"}, the prompts filled in. Beside them the notes and facts that `StoredEmbedder`
    needs where the records are not at hand. Benchmarks whose records are missing are left out, and
    named. Raises UserError where none is left.
    """
    atomic.check_writable(folder, "choose another folder for --wanted")
    bench = _RecordingEmbedder(config, folder, say)
    for benchmark in config.benchmarks:
        try:
            benchmark.evaluation.measure(bench)
        except _NeedsRawInputs:
            say(f"{benchmark.name}: trains an encoder of its own, and wants no embeddings")
        except UserError as error:
            say(f"{benchmark.name}: left out: {error}")
    if not bench.written:
        raise UserError("none of the benchmarks' records are there: prepare them first")
    for name, n in bench.written.items():
        say(f"{folder / name}.wanted.jsonl: {n} lines, for {name}.npy of shape [{n}, width]")
    return list(bench.written)


class _RecordingEmbedder:
    """An `Embedder` of random vectors that writes down what it is asked for."""

    def __init__(self, config: EvalConfig, folder: pathlib.Path, tell: record_reader.ProgressFn):
        self.resamples, self.seed, self.tell = 0, config.seed, tell
        self.folder: pathlib.Path | None = None
        self.written: dict[str, int] = {}
        self._lines: dict[str, Any] = {}
        self._in, self._sources = folder, record_reader.RecordCache(config, folder, tell)

    def records(self, source: Source) -> Sequence[Record]:
        return self._sources.records(source)

    def facts(self, source: Source) -> DatasetInfo | None:
        return self._sources.facts(source)

    def notes(self, source: Source) -> Sequence[Mapping[str, Any]]:
        return self._sources.notes(source)

    def inputs(self, items: EvalInputs) -> tuple[np.ndarray, np.ndarray]:
        raise _NeedsRawInputs

    def embed(self, items: EvalInputs) -> Float[np.ndarray, "n e"]:
        notes = enumerate(self.notes(items.source))
        lines = ({"id": n["id"]} if "id" in n else {"record": row} for row, n in notes)
        return self._vectors(items.name, lines)

    def texts(self, name: str, texts: Sequence[str]) -> Float[np.ndarray, "n e"]:
        return self._vectors(f"{name}.texts", ({"text": text} for text in texts))

    def classes(
        self, name: str, names: Sequence[str], prompts: Sequence[str]
    ) -> Float[np.ndarray, "names e"]:
        filled = ({"name": n, "texts": record_reader.fill_prompts(prompts, n)} for n in names)
        return self._vectors(f"{name}.classes", filled)

    def _vectors(self, name: str, lines: Iterable[dict[str, Any]]) -> Float[np.ndarray, "n e"]:
        text = [msgspec.json.encode(line) + b"\n" for line in lines]
        record_reader.check_unique_name(self._lines, name, text)
        write_durably(self._in / f"{name}.wanted.jsonl", b"".join(text))
        self.written[name] = len(text)
        rng = np.random.default_rng(len(self.written))
        return l2_normalize(rng.standard_normal((len(text), WIDTH), np.float32))
