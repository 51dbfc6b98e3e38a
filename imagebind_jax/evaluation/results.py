"""results.json: what was measured of which weights on which records, and each number's samples."""

import hashlib
import math
import os
import pathlib
import zipfile
import zlib
from collections.abc import Mapping
from lzma import LZMAError
from typing import Any

import msgspec
import numpy as np

from imagebind_jax.errors import UserError, first_line
from imagebind_jax.evaluation.benchmark import NAME_PATTERN, Benchmark, EvalResult
from imagebind_jax.evaluation.metrics.bootstrap import Estimate
from imagebind_jax.inputs.decoders import npy
from imagebind_jax.inputs.decoders.media import open_media
from imagebind_jax.storage import atomic, row_file

FORMAT = 1
FILE, SAMPLES = "results.json", "samples"
_MAX_BYTES = 64 << 20  # of either file, unpacked: a benchmark of the paper has below 2 MiB
_PARTS = ("samples", "groups", "strata")


class Metric(msgspec.Struct):
    """An `Estimate` without its samples; what is not a number is None."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    share: bool = True
    spread: float | None = None


class Provenance(msgspec.Struct):
    """Everything that the numbers of a benchmark depend on."""

    version: str  # of this program
    settings: dict[str, Any]  # the evaluation's fields, flat
    records: dict[str, str]  # source -> digest of what it holds
    towers: dict[str, str]  # modality -> digest of its parameters

    @property
    def key(self) -> str:
        """One digest of it all."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()


class BenchmarkResult(msgspec.Struct):
    """One benchmark's outcome, and what it was made of."""

    numbers: dict[str, Metric]  # the headline first
    chance: dict[str, float | None]
    samples: int
    unusable: int
    notes: list[str]
    reported: dict[str, dict[str, float]]  # who -> in percent, or a rank
    seconds: float
    key: str
    version: str  # the fields of Provenance
    settings: dict[str, Any]
    records: dict[str, str]
    towers: dict[str, str]
    seal: str = (
        ""  # a digest of the rest, but for `reported_numbers`: a changed number is measured again
    )

    @property
    def sealed(self) -> "BenchmarkResult":
        """With the seal that belongs to it."""
        bare = row_file.add_checksum(msgspec.structs.replace(self, reported={}))
        return msgspec.structs.replace(self, seal=bare.seal)


class CheckpointInfo(msgspec.Struct):
    """The weights that were evaluated."""

    path: str  # its name, without where it lies
    digests: dict[str, str] = {}  # of the towers


class ResultsFile(msgspec.Struct):
    """A whole results.json."""

    format: int
    benchmarks: dict[str, BenchmarkResult]
    checkpoint: CheckpointInfo | None = None
    embeddings: str | None = None  # the folder, in place of a checkpoint
    missing: dict[str, str] = {}  # benchmark -> why it was not measured
    config: dict[str, Any] = {}  # but for the benchmarks
    versions: dict[str, str] = {}
    device: str = ""

    @property
    def of(self) -> str:
        """Whose numbers these are."""
        return self.checkpoint.path if self.checkpoint else self.embeddings or "no weights"


def make_result(
    benchmark: Benchmark, measured: EvalResult, made_of: Provenance, seconds: float
) -> BenchmarkResult:
    numbers = {
        name: Metric(
            value=_finite(e.value),
            low=_finite(e.low),
            high=_finite(e.high),
            n=e.n,
            share=e.share,
            spread=_finite(e.spread),
        )
        for name, e in measured.numbers.items()
    }
    return BenchmarkResult(
        numbers=numbers,
        chance={name: _finite(value) for name, value in measured.chance.items()},
        samples=measured.samples,
        unusable=measured.unusable,
        notes=list(measured.notes),
        reported=reported_numbers(benchmark),
        seconds=round(seconds, 1),
        key=made_of.key,
        **msgspec.structs.asdict(made_of),
    ).sealed


def reported_numbers(benchmark: Benchmark) -> dict[str, dict[str, float]]:
    return {who: dict(said) for who, said in benchmark.reported.items()}


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def write_results(folder: pathlib.Path, results: ResultsFile) -> None:
    """Replaces the folder's results.json at once."""
    text = msgspec.json.format(msgspec.json.encode(results), indent=1)
    atomic.write_text_atomic(folder / FILE, text.decode())


def read_results(path: str | os.PathLike) -> ResultsFile:
    """A results.json, or that of a folder. Raises UserError; nothing in it is trusted."""
    path = pathlib.Path(path)
    path = path / FILE if path.is_dir() else path
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise ValueError(f"more than {_MAX_BYTES >> 20} MiB")
        found = msgspec.json.decode(data, type=ResultsFile)
        if found.format != FORMAT:
            raise ValueError(f"format {found.format}, where this version reads {FORMAT}")
        for name, each in found.benchmarks.items():
            if not NAME_PATTERN.fullmatch(name):
                raise ValueError(f"a benchmark named {name[:100]!r}")
            if not each.numbers:
                raise ValueError(f"benchmark {name} without numbers")
    except FileNotFoundError:
        raise UserError(f"{path} is not there: no results of `imagebind-jax evaluate`") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:  # msgspec's errors and Unicode's are ValueErrors
        raise UserError(f"{path} is no results.json ({first_line(error)})") from error
    return found


def write_samples(folder: pathlib.Path, name: str, key: str, measured: EvalResult) -> None:
    """samples/<benchmark>.npz: what each number that is a mean is the mean of."""
    kept = {
        f"{number}.{part}": getattr(estimate, part)
        for number, estimate in measured.numbers.items()
        if estimate.samples is not None
        for part in _PARTS
        if getattr(estimate, part) is not None
    }
    path = folder / SAMPLES / f"{name}.npz"
    path.parent.mkdir(exist_ok=True)
    with atomic.atomic_write(path) as file:
        np.savez_compressed(file, key=_key(key), **kept)


def _key(key: str) -> np.ndarray:
    return np.frombuffer(key.encode(), np.uint8)


def load_estimates(
    path: str | os.PathLike, name: str, entry: BenchmarkResult
) -> dict[str, Estimate]:
    """A benchmark's numbers, with their samples where samples/ beside results.json still has them."""
    path = pathlib.Path(path)
    folder = path if path.is_dir() else path.parent
    kept = _samples(folder / SAMPLES / f"{name}.npz", entry.key)
    return {
        number: Estimate(
            _float(e.value),
            _float(e.low),
            _float(e.high),
            e.n,
            e.share,
            e.spread,
            **_parts(kept, number),
        )
        for number, e in entry.numbers.items()
    }


def _float(value: float | None) -> float:
    return math.nan if value is None else value


def _samples(path: pathlib.Path, key: str) -> dict[str, np.ndarray]:
    """Empty where the file is missing, damaged, or of another measurement."""
    try:
        with open_media(path) as file, zipfile.ZipFile(file) as packed:
            if sum(each.file_size for each in packed.infolist()) > _MAX_BYTES:
                return {}
            found = {
                each.filename.removesuffix(".npy"): npy.read_npy(packed.read(each))
                for each in packed.infolist()
            }
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, LZMAError):
        return {}
    return found if np.array_equal(found.pop("key", np.empty(0)), _key(key)) else {}


def _parts(kept: Mapping[str, np.ndarray], number: str) -> dict[str, np.ndarray]:
    found = {part: kept[f"{number}.{part}"] for part in _PARTS if f"{number}.{part}" in kept}
    good = {
        part: array.ndim == 1
        and array.dtype.kind in ("f" if part == "samples" else "iu")
        and len(array) == len(found.get("samples", ()))
        for part, array in found.items()
    }
    return found if all(good.values()) and "samples" in found else {}
