"""The tensors of a PyTorch checkpoint by name, read without torch and straight from the file."""

import contextlib
import dataclasses
import math
import mmap
import os
import pathlib
import stat
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from imagebind_jax.errors import UserError
from imagebind_jax.porting.torch_pickle import torch_types, unpickler
from imagebind_jax.porting.torch_pickle.torch_types import Tensor, TorchTypes
from imagebind_jax.porting.torch_pickle.unpickler import REMEDY
from imagebind_jax.porting.torch_pickle.zip_archive import AGAIN, SLICE, TorchZip

MAX_PICKLE = 32 << 20  # bytes; 1,000 tensors take about 150 kB
WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "params")
PREFIXES = ("module.", "_orig_mod.")  # of DistributedDataParallel and of torch.compile
# Views may repeat elements (expand, tied weights), but no small file becomes a full memory.
MAX_REPEAT, ALWAYS_ALLOWED = 4, 16 << 20  # times the file's size; bytes


@dataclasses.dataclass(frozen=True, slots=True)
class TensorSpec:
    """What is known of a tensor before it is read."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def nbytes(self) -> int:
        """Of the tensor, dense."""
        return math.prod(self.shape) * self.dtype.itemsize


class TorchFile(Mapping[str, np.ndarray]):
    """The tensors of a PyTorch zip checkpoint by name, read only, straight from the file's pages.

    `specs` has the shape and dtype of each, in the file's order; `extra` what the file says beside
    them in plain scalars ("epoch", "name"); `warnings` has lines that a user should see. The state
    dict is the object itself or what stands under one of `WRAPPERS`; of a TorchScript archive, the
    tensors in its module's attributes (`torch_types.state_dict`). `PREFIXES` that all names have
    are dropped. Nothing in the file is run: what it may name is a short list, and the code in a
    TorchScript archive is not even decompressed.

    The file must not be cut or overwritten while it is open, as for every mapped file.
    """

    def __init__(self, path: str | os.PathLike):
        """Reads the zip directory and the description; touches no tensor's data.

        Raises UserError, one line that begins with the path, on anything but a whole file of
        tensors in plain containers.
        """
        self.path = pathlib.Path(path)
        self.warnings: list[str] = []
        self._verified: set[str] = set()
        self._closed = False
        with self._refusals():
            self._pages = _mapped(self.path)
            try:
                self._read_description()
            except BaseException:
                self._pages.close()
                raise

    def _read_description(self) -> None:
        check_torch_zip(self._pages)
        _advise(self._pages, "MADV_RANDOM")  # 1,500 local headers, far apart: no read-ahead
        self._archive = TorchZip(self._pages)
        check_zip_members(self._archive)
        objects, scripted = TorchTypes(self._archive.records), self._archive.has_code
        names = objects.names | (torch_types.TorchScriptLists().names if scripted else {})
        data = self._archive.read("data.pkl", MAX_PICKLE)
        top = unpickler.unpickle(data, names, objects.storage, scripted)
        _advise(self._pages, "MADV_NORMAL")
        choose = torch_types.state_dict if scripted else _state_dict
        tensors, self.extra, left_out = choose(top)
        self._tensors = _without_prefixes(tensors)
        self.specs = {k: TensorSpec(t.shape, t.dtype) for k, t in self._tensors.items()}
        total = sum(spec.nbytes for spec in self.specs.values())
        if total > max(MAX_REPEAT * len(self._pages), ALWAYS_ALLOWED):
            raise UserError(
                f"its tensors would take {total:,} bytes, the file has {len(self._pages):,}"
            )
        if not self._archive.has_checksums:
            self.warnings.append(
                f"{self.path}: was written without checksums: damage cannot be noticed"
            )
        if left_out:
            self.warnings.append(f"{self.path}: left out, as no tensors: {_listed(left_out)}")

    @contextlib.contextmanager
    def _refusals(self) -> Iterator[None]:
        """Puts the path before every refusal."""
        name = str(self.path) if str(self.path).isprintable() else ascii(str(self.path))
        try:
            yield
        except UserError as error:
            raise UserError(f"{name}: {error}") from error.__cause__
        except OSError as error:
            raise UserError(f"{name}: cannot be read: {error.strerror or error}") from error
        except MemoryError as error:
            raise UserError(f"{name}: there is not enough memory to open it") from error

    def __getitem__(self, name: str) -> np.ndarray:
        """A read-only view of the file's pages, with the strides that the tensor had; no copy.

        The record's CRC-32 is verified when it is first used. Raises KeyError, or UserError where
        the record is damaged.
        """
        tensor = self._tensors[name]
        if self._closed:
            raise ValueError(f"{self.path} is closed")
        if 0 in tensor.shape:
            empty = np.empty(tensor.shape, tensor.dtype)
            empty.flags.writeable = False
            return empty
        if tensor.record.name not in self._verified:
            with self._refusals():
                self._verify(tensor, name)
            self._verified.add(tensor.record.name)
        size = tensor.dtype.itemsize
        strides = [stride * size for stride in tensor.strides]
        data = self._bytes(tensor.record.start, tensor.record.size)
        return np.ndarray(tensor.shape, tensor.dtype, data, tensor.offset * size, strides)

    def _bytes(self, start: int, size: int) -> np.ndarray:
        # An array made of the map itself would not keep it from being closed: a crash at its use.
        return np.frombuffer(self._pages, np.uint8, size, start)

    def member(self, name: str, limit: int) -> bytes | None:
        """Another record of the file, by its name below the top folder; None if it has none."""
        if name not in self._archive.records:
            return None
        with self._refusals():
            return self._archive.read(name, limit)

    def _verify(self, tensor: Tensor, name: str) -> None:
        record = tensor.record
        self._archive.verify(record)
        if tensor.dtype != np.bool_:
            return
        for start in range(0, record.size, SLICE):  # a bool of 2 is neither True nor False
            if self._bytes(record.start + start, min(SLICE, record.size - start)).max() > 1:
                raise UserError(f"its tensor {name[:100]!a} is bool, but not of zeros and ones")

    def release(self, name: str) -> None:
        """Drops the pages of the tensor's record from memory; views stay valid, and read again."""
        record = self._tensors[name].record
        start = record.start - record.start % mmap.PAGESIZE
        if record.size and not self._closed:
            _advise(self._pages, "MADV_DONTNEED", start, record.start + record.size - start)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __repr__(self) -> str:
        return f"TorchFile({str(self.path)!r}, {len(self)} tensors)"

    def close(self) -> None:
        """No tensor can be read any more; arrays that are still in use keep the file mapped."""
        self._closed = True
        with contextlib.suppress(BufferError):  # there are such arrays
            self._pages.close()

    def __enter__(self) -> "TorchFile":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _advise(pages: mmap.mmap, advice: str, start: int = 0, size: int | None = None) -> None:
    if hasattr(mmap, advice):  # not on every system
        pages.madvise(getattr(mmap, advice), start, len(pages) - start if size is None else size)


def _mapped(path: pathlib.Path) -> mmap.mmap:
    try:
        mode = path.stat().st_mode  # before it is opened, which may hang or act on a device
    except ValueError as error:
        raise UserError("is no path: it contains a zero byte") from error
    if not stat.S_ISREG(mode):
        raise UserError("is a directory" if stat.S_ISDIR(mode) else "is not a regular file")
    # Should it become a FIFO right now, O_NONBLOCK keeps even that from hanging.
    file = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        if os.fstat(file).st_size == 0:
            raise UserError(f"is empty; {AGAIN}")
        return mmap.mmap(file, 0, access=mmap.ACCESS_READ)
    finally:
        os.close(file)


def _state_dict(top: Any) -> torch_types.StateDictParts:
    """The named tensors, the plain scalars beside them, and the names of what is neither."""
    if not isinstance(top, dict):
        kind = "a single tensor" if isinstance(top, Tensor) else f"a {type(top).__name__}"
        raise UserError(f"holds {kind}, not a dict of tensors by name; {REMEDY}")
    inner = [top[key] for key in WRAPPERS if _has_tensors(top.get(key))]
    chosen = inner[0] if inner else top
    if not _has_tensors(chosen):
        raise UserError(f"holds no tensors by name, only {_listed(top)}; {REMEDY}")
    odd = [key for key in chosen if not isinstance(key, str)]
    if odd:
        raise UserError(f"names a tensor {odd[0]!r}, which is no text; {REMEDY}")
    tensors = {key: value for key, value in chosen.items() if isinstance(value, Tensor)}
    extra = {
        key: value
        for key, value in (chosen | top).items()
        if isinstance(key, str) and (value is None or isinstance(value, (str, int, float)))
    }
    left_out = [key for key in chosen if key not in tensors and key not in extra]
    return tensors, extra, left_out


def _has_tensors(value: Any) -> bool:
    return isinstance(value, dict) and any(isinstance(v, Tensor) for v in value.values())


def _without_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in PREFIXES * 4:  # wrapped once or twice; a name may have a million of them
        if all(name.startswith(prefix) and name != prefix for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def _listed(names) -> str:
    """The first few names, on one line."""
    shown = [f"{name!a:.60}" for _, name in zip(range(5), names)]
    return ", ".join(shown) + (" ..." if len(names) > 5 else "") if shown else "nothing"


RESAVE_HINT = "save the state dict with torch.save"
KNOWN_NON_TORCH: tuple[tuple[int, bytes, str], ...] = (  # where, what stands there, and what that means
    (2, b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19", "is in torch's format from before 1.6: load it "
     "where it is trusted, and save it again with torch 1.6 or newer"),
    (0, b"version https://git-lfs", "is a Git LFS pointer, not the file: run `git lfs pull`"),
    (0, b"<", "is a web page, not a checkpoint: download the file itself, with its direct link"),
    (0, b"{", "is a text, not a checkpoint: it may say why the download failed"),
    (8, b"{", "is a safetensors file: rename it to .safetensors"),
    (0, b"\x1f\x8b", "is compressed with gzip: run `gunzip` first"),
    (0, b"BZh", "is compressed with bzip2: run `bunzip2` first"),
    (0, b"\xfd7zXZ", "is compressed with xz: run `unxz` first"),
    (0, b"\x28\xb5\x2f\xfd", "is compressed with zstd: run `unzstd` first"),
    (257, b"ustar", f"is a tar archive: unpack it, or {RESAVE_HINT} of torch 1.6 or newer"),
    (0, b"\x93NUMPY", f"is a NumPy array, not a checkpoint: {RESAVE_HINT}"),
    (0, b"\x89HDF", f"is an HDF5 file, not a PyTorch checkpoint: {RESAVE_HINT}"),
    (0, b"\x80", f"is a bare pickle, which torch.save does not write: {RESAVE_HINT}"),
)  # fmt: skip


def check_torch_zip(pages: mmap.mmap | bytes) -> None:
    """Raises UserError naming what the file is instead of a zip archive."""
    if pages[:4] == b"PK\3\4":
        return
    head = pages[:512]
    for start, mark, meaning in KNOWN_NON_TORCH:
        text = head.removeprefix(b"\xef\xbb\xbf").lstrip() if start == 0 else head[start:]
        if text.startswith(mark):
            raise UserError(meaning)
    raise UserError(f"is not a PyTorch checkpoint: it begins with {head[:8]!r}")


def check_zip_members(archive: TorchZip) -> None:
    """Raises UserError unless the archive holds what torch.save or torch.jit.save puts there."""
    names = archive.names
    if "constants.pkl" in names and not archive.has_code:
        raise UserError(f"is a TorchScript archive that lost its code; {AGAIN}")
    pickles = [name for name in names if name.rpartition("/")[2] == "data.pkl"]
    if pickles != ["data.pkl"] or "version" not in names:
        raise UserError(f"is a zip archive, but not one of torch.save: {RESAVE_HINT}")
    version = archive.read("version", 16).strip()
    if not (version.isdigit() and 1 <= int(version) <= 10):  # torch 2.13 reads 1 to 10, writes 3
        raise UserError(f"is of format version {version!r}; 1 to 10 are read")
    if "byteorder" in names and archive.read("byteorder", 16) != b"little":
        raise UserError("was written on a big-endian machine: save it again on another")
