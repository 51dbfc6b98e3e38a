"""Named tensors in a file, whatever its format: opened by its first bytes, read one at a time."""

import contextlib
import math
import os
import pathlib
import stat
import warnings
from collections.abc import Iterator, Mapping
from typing import Protocol, runtime_checkable

import ml_dtypes
import numpy as np
import safetensors

from imagebind_jax.errors import UserError
from imagebind_jax.porting.files.provenance import (
    KEY,
    LARGEST,
    WeightsMetadata,
    array_sha256,
    decode_metadata,
)
from imagebind_jax.porting.torch_pickle.torch_file import TensorSpec, TorchFile

_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
_MAX_HEADER = 16 << 20  # bytes; that of the released model, with our note, takes 0.4 MB
_MAX_RANK, _MAX_SIZE = 32, 1 << 40
_REOPEN = 256 << 20  # bytes read through one mapping: its pages stay in memory until it is closed


@runtime_checkable  # for the tests, which check types as they run
class TensorFile(Protocol):
    """A file of named tensors, open for reading."""

    path: pathlib.Path
    specs: dict[str, TensorSpec]

    @property
    def note(self) -> WeightsMetadata | None: ...  # where we wrote the file

    def __getitem__(self, name: str) -> np.ndarray: ...

    def release(self, name: str) -> None: ...

    def close(self) -> None: ...


class SafeTensorsFile:
    """The tensors of a .safetensors file by name; each is a copy of its own.

    The format has no checksums: only of files that we wrote are the tensors verified when read.
    """

    def __init__(self, path: str | os.PathLike):
        """Raises UserError on a file that is not what it should be."""
        self.path = pathlib.Path(path)
        self._read = 0
        self._file = self._open()
        names = self._file.keys()  # of a file, no dict
        self.specs = {name: self._spec(name) for name in names}
        said = (self._file.metadata() or {}).get(KEY)
        self.note = decode_metadata(said, self.path) if said else None

    def _open(self):
        with self.path.open("rb") as file:
            if int.from_bytes(file.read(8), "little") > _MAX_HEADER:
                raise UserError(f"{self.path}: its header is larger than {_MAX_HEADER >> 20} MiB")
        try:
            return safetensors.safe_open(self.path, framework="np")
        except (safetensors.SafetensorError, MemoryError) as error:
            line = str(error).splitlines()[0]
            raise UserError(f"{self.path}: no whole safetensors file ({line})") from error

    def _spec(self, name: str) -> TensorSpec:
        tensor = self._file.get_slice(name)
        if tensor.get_dtype() not in _DTYPES:
            raise UserError(f"{self.path}: {name} has dtype {tensor.get_dtype()}, not read here")
        shape = tuple(tensor.get_shape())
        if len(shape) > _MAX_RANK or math.prod(max(size, 1) for size in shape) > _MAX_SIZE:
            raise UserError(
                f"{self.path}: {name[:60]!a} has more axes or elements than is read here"
            )
        return TensorSpec(shape, _DTYPES[tensor.get_dtype()])

    def __getitem__(self, name: str) -> np.ndarray:
        self._read += self.specs[name].nbytes
        if self._read > _REOPEN:
            self._file, self._read = self._open(), self.specs[name].nbytes
        try:
            tensor = self._file.get_tensor(name)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # the library panics where memory ends
            raise UserError(f"{self.path}: {name[:60]!a} cannot be read: {error}") from error
        if self.note and array_sha256(tensor) != self.note.digests.get(name):
            raise UserError(f"{self.path}: {name} is damaged: it is not what was written")
        return tensor

    def release(self, name: str) -> None:
        """Nothing: `__getitem__` copies."""

    def close(self) -> None:
        """Nothing: the library closes the file with the object."""


class AnnotatedTorchFile(TorchFile):
    """A PyTorch file, and what it says of itself where we wrote it."""

    def __init__(self, path: str | os.PathLike):
        super().__init__(path)
        said = self.member(f"{KEY}.json", LARGEST)
        self.note = decode_metadata(said, self.path) if said is not None else None


class RenamedTensors:
    """Another file's tensors under other names, {new: old}; those without one are left out."""

    def __init__(self, tensors: TensorFile, names: Mapping[str, str]):
        self.path, self.note = tensors.path, tensors.note
        self.specs = {new: tensors.specs[old] for new, old in names.items()}
        self._tensors, self._names = tensors, dict(names)

    def __getitem__(self, name: str) -> np.ndarray:
        return self._tensors[self._names[name]]

    def release(self, name: str) -> None:
        self._tensors.release(self._names[name])

    def close(self) -> None:
        self._tensors.close()


@contextlib.contextmanager
def open_tensors(path: str | os.PathLike) -> Iterator[TensorFile]:
    """A PyTorch zip or safetensors file. Raises UserError, one line, on anything else."""
    path = pathlib.Path(path)
    tensors: TensorFile = (
        SafeTensorsFile(path) if _is_safetensors(path) else AnnotatedTorchFile(path)
    )
    for line in getattr(tensors, "warnings", []):
        warnings.warn(line, stacklevel=3)
    try:
        yield tensors
    finally:
        tensors.close()


def _is_safetensors(path: pathlib.Path) -> bool:
    """By content: 8 bytes of the header's length, then JSON. The name may say anything."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False
        with path.open("rb") as file:
            return file.read(10)[8:9] == b"{"
    except (OSError, ValueError):
        return False  # `TorchFile` says what is wrong
