"""imagebind-jax convert: weights from any file of this family to a folder, safetensors or PyTorch."""

import contextlib
import hashlib
import mmap
import os
import pathlib
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from imagebind_jax.errors import UserError, one_line
from imagebind_jax.porting import load, lora
from imagebind_jax.porting.files import own_checkpoint, provenance, tensor_writers
from imagebind_jax.porting.files.parameter_source import InMemoryParams, ParameterSource
from imagebind_jax.porting.imagebind_export import imagebind_state_dict
from imagebind_jax.runtime.progress import Progress
from imagebind_jax.storage import atomic
from imagebind_jax.storage.lock import file_lock

FORMATS = ("orbax", "safetensors", "pytorch")
SUFFIXES = {".safetensors": "safetensors"} | dict.fromkeys(
    (".pth", ".pt", ".bin", ".ckpt"), "pytorch"
)
_SLICE = 16 << 20


def convert(
    checkpoint: str | os.PathLike,
    target: str | os.PathLike,
    *,
    to: str = "",
    base: str | os.PathLike | None = None,
    merge: bool = False,
    layers: Sequence[int] | None = None,
    overwrite: bool = False,
    verify: bool = False,
    say: Callable[[str], None] = print,
    **how,
) -> None:
    """Writes the weights in `checkpoint` as `target`, holding one layer in memory at a time.

    to: "orbax" (a folder), "safetensors" or "pytorch" (files with the names and axes of the
    released PyTorch model); by default what the target's suffix says. base: the model that
    `checkpoint` holds adapters for; merge: into its kernels (the whole model is then in memory);
    layers: as of `lora.load_adapters`.
    verify: read both again and print what went where. how: as of `porting.load.load`.

    The target appears at once when it is whole. Raises UserError where the checkpoint cannot be read,
    the target exists or the disk has no room.
    """
    source, target = pathlib.Path(checkpoint), pathlib.Path(target)
    target = target.resolve() if target.is_symlink() else target
    by_name = SUFFIXES.get(target.suffix.lower(), "orbax")
    to = to or by_name
    if to not in FORMATS:
        raise UserError(f"format {to!r}: not one of {', '.join(FORMATS)}")
    if by_name not in (to, "orbax") or (to == "safetensors" and by_name == "orbax"):
        raise UserError(f"{target}: its name does not say {to}, as PyTorch and others expect it to")
    _check_target([source, *([pathlib.Path(base)] if base else [])], target, to, overwrite)
    with _locked(target), _open(source, base, merge, layers, how) as weights:
        total = sum(spec.nbytes for spec in weights.specs.values())
        _check_space(target, total)
        with Progress("convert", total >> 20) as progress:
            origin = _SourceHash(weights, pathlib.Path(base or source))
            if to == "orbax":
                own_checkpoint.write_checkpoint(
                    target, _WithProgress(weights, progress), origin.note
                )
            else:
                specs, tensors = imagebind_state_dict(weights)
                write = (
                    tensor_writers.write_safetensors
                    if to == "safetensors"
                    else tensor_writers.write_torch
                )
                with tensor_writers.prefetch_next(_counted(tensors, progress)) as made:
                    write(target, specs, made, origin.note)
        say(f"{target}: {total / 1e6:,.1f} MB, {', '.join(weights.config.encoders)}")
        say(one_line(f"licence: {weights.origin.get('licence', 'not said')}"))
        if others := _other_dtypes(weights):
            say(f"note: {', '.join(others)} in the source became {weights.dtype}")
        if verify:
            _verify(weights, source, target, say)


@contextlib.contextmanager
def _locked(target: pathlib.Path) -> Iterator[None]:
    lock = target.with_name(f".{target.name}.lock")
    with file_lock(lock, busy=f"another process is writing {target}: wait for it"):
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


@contextlib.contextmanager
def _open(
    source: pathlib.Path, base, merge: bool, layers: Sequence[int] | None, how: dict
) -> Iterator[ParameterSource]:
    if base is None:
        if how.get("source") == "lora":
            raise UserError("adapters need the checkpoint that they were trained on: --base CKPT")
        if merge:
            raise UserError("--merge is for adapters: --source lora --base CKPT")
        with load.open_weights(source, **how) as weights:
            yield weights
        return
    if how.pop("source", "lora") not in ("lora", "auto"):
        raise UserError("--base is for adapters: --source lora")
    dtype = how.pop("dtype", "float32")
    with load.open_weights(base, **how) as weights:
        origin = {**weights.origin, "adapters": source.name}
    model, params = lora.load_adapters(source, *load.load(base, **how), layers=layers)
    if merge:
        model, params = lora.merge_adapters(model, params)
    yield InMemoryParams(model.config, params, dtype, origin)


class _WithProgress(ParameterSource):
    """Other weights, with progress told as they are read."""

    def __init__(self, weights: ParameterSource, progress: Progress):
        super().__init__(weights.config, weights.dtype, weights.origin)
        self._weights, self._progress, self._done = weights, progress, 0

    def pieces(self, path: str) -> Iterator[np.ndarray]:
        for piece in self._weights.pieces(path):
            yield piece
            self._done += piece.nbytes
            self._progress.update(self._done >> 20, f"MiB  {path}")


def _counted(
    tensors: Iterator[tuple[str, np.ndarray]], progress: Progress
) -> Iterator[tuple[str, np.ndarray]]:
    done = 0
    for name, x in tensors:
        yield name, x
        done += x.nbytes
        progress.update(done >> 20, f"MiB  {name}")


class _SourceHash:
    """Where weights come from, with the file's size and SHA-256, made while it is converted."""

    def __init__(self, weights: ParameterSource, source: pathlib.Path):
        self._config, self._said = weights.config, dict(weights.origin)
        source = getattr(weights, "path", source)  # a file in a folder from a hub
        self._hashing = threading.Thread(target=self._hash, args=(source,), daemon=True)
        if source.is_file() and "sha256" not in self._said:  # of one of ours: what it came from
            self._hashing.start()

    def note(self, digests: Mapping[str, str]) -> provenance.WeightsMetadata:
        """The note of what is written, when its digests are known."""
        if self._hashing.ident is not None:
            self._hashing.join()
        return provenance.WeightsMetadata(self._config, self._said, dict(digests))

    def _hash(self, source: pathlib.Path) -> None:
        hashed = hashlib.sha256()
        with (
            source.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            for start in range(0, len(data), _SLICE):
                with memoryview(data)[start : start + _SLICE] as part:
                    hashed.update(part)
                if hasattr(mmap, "MADV_DONTNEED"):  # or the file would count as our memory
                    data.madvise(mmap.MADV_DONTNEED, start, min(_SLICE, len(data) - start))
            self._said |= {"bytes": len(data), "sha256": hashed.hexdigest()}


def _other_dtypes(weights: ParameterSource) -> list[str]:
    """The types in the source that are not the one that is written."""
    if not isinstance(weights, load.FileCheckpoint):
        return []
    found = {
        weights.tensors.specs[key].dtype.name
        for leaf in weights.leaves.values()
        if leaf.shape  # a logit scale stays float32
        for keys in leaf.keys
        for key in keys
    }
    return sorted(found - {weights.dtype})


def _check_target(
    sources: Sequence[pathlib.Path], target: pathlib.Path, to: str, overwrite: bool
) -> None:
    """Nothing but an earlier result of the same kind is ever replaced."""
    for source in sources:
        if not source.exists():
            raise UserError(f"{source}: no such file or folder")
        if target.absolute() in (source.absolute(), *source.resolve().parents) or (
            target.exists() and target.samefile(source)
        ):
            raise UserError(f"{target} is the source itself, or holds it: choose another target")
    atomic.check_writable(target.absolute().parent, "choose another target")
    if not target.exists():
        return
    if not overwrite:
        raise UserError(f"{target} exists: choose another target, or --overwrite it")
    if target.is_dir() != (to == "orbax"):
        kind = "a folder" if target.is_dir() else "a file"
        raise UserError(f"{target} is {kind}, and {to} is not: choose another target")
    if target.is_dir():
        own_checkpoint.read_model_json(target)  # raises where it is not one of ours
        if others := {path.name for path in target.iterdir()} - {
            own_checkpoint.NOTE,
            own_checkpoint.ARRAYS,
        }:
            raise UserError(f"{target} also holds {', '.join(sorted(others))}: not overwritten")


def _check_space(target: pathlib.Path, size: int) -> None:
    free = shutil.disk_usage(target.absolute().parent).free
    if free < 1.02 * size + (1 << 20):
        raise UserError(
            f"no space left on device: the weights take {size / 1e6:,.0f} MB and "
            f"{target.absolute().parent} has {free / 1e6:,.0f} MB free"
        )


def _verify(weights: ParameterSource, source: pathlib.Path, target: pathlib.Path, say) -> None:
    """Reads both again and prints a line for each array. Raises UserError where they differ."""
    wrong = []
    with load.open_weights(target, dtype=weights.dtype) as written:
        for path, spec in weights.specs.items():
            here, there = (_digest(w, path) for w in (weights, written))
            if here != there:
                wrong.append(path)
            sizes = "x".join(map(str, spec.shape)) or "scalar"
            say(
                f"{'ok ' if here == there else 'BAD'} {path}  {spec.dtype}  {sizes}  "
                f"sha256 {here[:16]}  from {weights.place(path)}"
            )
    if wrong:
        raise UserError(f"{target} differs from {source} in {', '.join(wrong)}")
    say(f"verified: {len(weights.specs)} arrays in {target} are those of {source}, bit for bit")


def _digest(weights: ParameterSource, path: str) -> str:
    spec = weights.specs[path]
    hashed = provenance.start_array_sha256(spec.dtype, spec.shape)
    for piece in weights.pieces(path):
        hashed.update(provenance.array_bytes(piece))
    return hashed.hexdigest()
