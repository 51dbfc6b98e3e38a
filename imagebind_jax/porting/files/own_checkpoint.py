"""Our own folder of weights: an orbax checkpoint of the parameters, and a model.json beside it."""

import asyncio
import collections
import contextlib
import itertools
import json
import logging
import math
import os
import pathlib
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore
from flax import traverse_util
from orbax.checkpoint import type_handlers

from imagebind_jax.errors import UserError, first_line
from imagebind_jax.porting.files import provenance
from imagebind_jax.porting.files.parameter_source import (
    ParameterSource,
    is_stacked,
    select_encoders,
)
from imagebind_jax.porting.torch_pickle.torch_file import TensorSpec
from imagebind_jax.storage import atomic

ARRAYS, NOTE = "params", "model.json"
_MAX_FILES, _MAX_ZARRAY = 100_000, 64 << 10  # of a folder; bytes
_PENDING = 2  # writes on their way at once
_CHUNK = 32 << 20  # bytes
# What an untrusted folder may claim to hold: arrays that are all zero take no room on disk.
_MAX_EXPANSION, _ALWAYS_ALLOWED = 16, 1 << 30


class _LazyLeaf:
    """A leaf that is read, hashed and written layer by layer: never whole in memory."""

    def __init__(self, path: str, spec: TensorSpec, weights: ParameterSource):
        self.path, self.shape, self.dtype = path, spec.shape, spec.dtype
        self.size = math.prod(spec.shape)  # orbax asks
        self.weights = weights
        self.digest = provenance.start_array_sha256(spec.dtype, spec.shape)


class _LazyLeafHandler(type_handlers.NumpyHandler):
    """Lets orbax save `_LazyLeaf` leaves; they come back as any other array."""

    async def serialize(self, values, infos, args=None):
        for value, info, arg in zip(values, infos, args or [None] * len(values)):
            await info.await_path_creation()
            await self._write(value, info, arg)
        return []

    async def _write(self, value: _LazyLeaf, info, arg) -> None:
        spec = type_handlers.get_json_tspec_write(
            info,
            use_ocdbt=info.is_ocdbt_checkpoint,
            global_shape=value.shape,
            local_shape=(_rows(value), *value.shape[1:]) if value.shape else (),
            dtype=value.dtype,
            process_index=0,
            arg=arg,
        )
        # Everything is flushed at the end and at once: `write_checkpoint` does, before the folder appears.
        context = tensorstore.Context({"file_io_sync": False}, parent=info.ts_context)
        store = await tensorstore.open(spec, create=True, open=True, context=context)
        loop = asyncio.get_running_loop()
        pending: collections.deque[tensorstore.WriteFutures] = collections.deque()
        for start, chunk in _chunks(value):
            hashed = loop.run_in_executor(None, value.digest.update, provenance.array_bytes(chunk))
            place = store[start : start + len(chunk)] if value.shape else store
            pending.append(place.write(chunk, can_reference_source_data_indefinitely=True))
            await hashed
            if len(pending) == _PENDING:
                await pending.popleft()
        for written in pending:
            await written


def _chunks(value: _LazyLeaf) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, rows) of a leaf, a chunk each; a scalar whole."""
    rows, pieces = _rows(value), value.weights.pieces(value.path)
    if not is_stacked(value.path):
        for whole in pieces:
            for start in range(0, len(whole), rows) if value.shape else ():
                yield start, whole[start : start + rows]
            if not value.shape:
                yield 0, whole
        return
    for start in range(0, value.shape[0], rows):
        several = list(itertools.islice(pieces, rows))
        yield start, np.stack(several) if len(several) > 1 else several[0][None]


def _rows(value: _LazyLeaf) -> int:
    """Rows of a leaf in one chunk."""
    row = max(1, math.prod(value.shape[1:]) * value.dtype.itemsize)
    return max(1, min(value.shape[0], _CHUNK // row)) if value.shape else 1


def write_checkpoint(
    folder: pathlib.Path,
    weights: ParameterSource,
    describe: Callable[[Mapping[str, str]], provenance.WeightsMetadata],
) -> None:
    """Writes parameters, and the note that `describe` makes of {path: digest}.

    The folder appears at once, when it is whole.
    """
    partial, aside = (folder.with_name(f".{folder.name}.{end}") for end in ("partial", "replaced"))
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        leaves = {path: _LazyLeaf(path, spec, weights) for path, spec in weights.specs.items()}
        registry = type_handlers.create_type_handler_registry(
            (jax.Array, type_handlers.ArrayHandler()), (_LazyLeaf, _LazyLeafHandler())
        )
        # Plain files, no compression: trained weights hardly compress, and OCDBT is a fifth slower.
        handler = ocp.PyTreeCheckpointHandler(
            type_handler_registry=registry, use_compression=False, use_ocdbt=False
        )
        with ocp.Checkpointer(handler) as checkpointer, _silence_ocdbt_warning():
            tree = traverse_util.unflatten_dict(leaves, sep="/")
            checkpointer.save((partial / ARRAYS).absolute(), args=ocp.args.PyTreeSave(tree))
        digests = {path: leaf.digest.hexdigest() for path, leaf in leaves.items()}
        atomic.write_text_atomic(partial / NOTE, provenance.encode_metadata(describe(digests)))
        for path in [*partial.rglob("*"), partial]:
            _flush(path)
        if folder.exists():  # set aside until the new one is in its place
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)
        partial.rename(folder)
        shutil.rmtree(aside, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _flush(path: pathlib.Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


@contextlib.contextmanager
def _silence_ocdbt_warning() -> Iterator[None]:
    """Orbax warns that it found no OCDBT files to merge: there are none where none were asked for."""

    def other(record: logging.LogRecord) -> bool:
        return "Skipping merge of OCDBT" not in record.getMessage()

    logger = logging.getLogger("absl")
    logger.addFilter(other)
    try:
        yield
    finally:
        logger.removeFilter(other)


class OwnCheckpoint(ParameterSource):
    """The parameters in a folder that `write_checkpoint` made; each leaf is verified when it is read."""

    def __init__(self, folder: pathlib.Path, modalities: Sequence[str], dtype: str):
        """Raises UserError on a folder that is not one of ours, or damaged."""
        self.folder = folder
        self.note = read_model_json(folder)
        super().__init__(
            select_encoders(self.note.config, modalities, folder), dtype, self.note.origin
        )
        check_regular_files(folder)
        for path, spec in self.specs.items():
            _check_chunks(folder / ARRAYS / path.replace("/", "."), spec.shape)
        self._reader = OrbaxReader(folder / ARRAYS)
        self._reader.check({path: spec.shape for path, spec in self.specs.items()})

    def pieces(self, path: str) -> Iterator[np.ndarray]:
        """As of `ParameterSource`. Raises UserError on a leaf that is not what was written."""
        leaf = self._reader.read(path)
        if provenance.array_sha256(leaf) != self.note.digests.get(path):
            raise UserError(f"{self.folder}: {path} is damaged: it is not what was converted")
        yield from self._layers(path, leaf)


def check_regular_files(folder: pathlib.Path) -> None:
    """Raises UserError on what is no file of its own: a FIFO would hang, a link lead elsewhere."""
    for count, path in enumerate(folder.rglob("*")):
        mode = path.lstat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) or count > _MAX_FILES:
            raise UserError(f"{folder}: {path.name!a} is no plain file or folder: refused")


def _check_chunks(folder: pathlib.Path, shape: tuple[int, ...]) -> None:
    """Raises UserError where a small file of ours could become a large array: we compress nothing."""
    path = folder / ".zarray"
    try:
        with path.open("rb") as file:
            said = json.loads(file.read(_MAX_ZARRAY))
        whole = len(said["chunks"]) == len(shape) and all(
            0 < chunk <= max(1, size) for chunk, size in zip(said["chunks"], shape)
        )
        plain = said["compressor"] is None and said["filters"] is None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: convert the weights again") from error
    if not (whole and plain):
        raise UserError(f"{path}: compressed, or in chunks larger than the array: not ours")


def read_model_json(folder: pathlib.Path) -> provenance.WeightsMetadata:
    """model.json. Raises UserError where it is missing or damaged."""
    path = folder / NOTE
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise UserError(f"{path} is no plain file: refused")
        with path.open("rb") as file:
            text = file.read(provenance.LARGEST + 1)
    except OSError as error:
        raise UserError(f"{folder} is no folder of weights: no {NOTE} in it can be read") from error
    if len(text) > provenance.LARGEST:
        raise UserError(f"{path} is larger than {provenance.LARGEST >> 20} MiB")
    return provenance.decode_metadata(text, path)


class OrbaxReader:
    """Single leaves of an orbax checkpoint of a nested dict."""

    def __init__(self, folder: pathlib.Path, below: tuple[str, ...] = ()):
        """`below`: where in the saved tree the parameters stand."""
        self.folder, self._below = folder.absolute(), below
        self._handler = ocp.PyTreeCheckpointHandler()  # a Checkpointer wants a folder of its own

    def check(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """Raises UserError unless the leaves are there in these shapes, and no bomb."""
        tree = self._try(lambda: self._handler.metadata(self.folder).tree)
        saved = self._try(lambda: traverse_util.flatten_dict(tree))
        for path, shape in shapes.items():
            leaf = saved.get((*self._below, *path.split("/")))
            found = tuple(leaf.shape) if hasattr(leaf, "shape") else "missing"
            if found != shape:
                raise UserError(
                    f"{self.folder}: {path} is {found}, and not {shape} as it should be"
                )
        claimed = sum(math.prod(shape) * 4 for shape in shapes.values())
        size = sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file())
        if claimed > max(_ALWAYS_ALLOWED, _MAX_EXPANSION * size):
            raise UserError(
                f"{self.folder}: {claimed:,} bytes of weights in a folder of {size:,}: refused"
            )

    def read(self, path: str) -> np.ndarray:
        """One leaf."""
        keys = (*self._below, *path.split("/"))
        item = traverse_util.unflatten_dict({keys: 0})
        how = traverse_util.unflatten_dict({keys: ocp.RestoreArgs(restore_type=np.ndarray)})
        args = ocp.args.PyTreeRestore(item=item, restore_args=how, partial_restore=True)
        leaf = self._try(lambda: self._handler.restore(self.folder, args=args))
        for key in keys:
            leaf = leaf[key]
        return leaf

    def _try(self, action):
        try:
            return action()
        except Exception as error:  # orbax raises a different type for each kind of damage
            gone = "" if self.folder.exists() else "; it was removed meanwhile: try again"
            said = f"{self.folder} cannot be read ({first_line(error)}){gone}"
            raise UserError(said) from error
