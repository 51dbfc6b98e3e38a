"""Vectors on disk, row by row: whoever is killed goes on from the rows that are there."""

import contextlib
import hashlib
import io
import json
import os
import pathlib
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.lib import format as npy

from imagebind_jax.errors import UserError, first_line
from imagebind_jax.storage import atomic
from imagebind_jax.storage.regular_file import open_regular_file

MAX_METADATA_BYTES = 1 << 26  # bytes of a note
FLUSH_ROWS, FLUSH_SECONDS = 1000, 5.0  # of work that a kill costs, at most


class RowFileMetadata(msgspec.Struct):
    """The .json beside an .npy: what it is of, and how far it is."""

    of: dict[str, Any]
    rows: int
    width: int
    done: int  # rows from the first on, which are on disk
    crc32: int  # of their bytes
    unusable: dict[str, str] = {}  # row -> why it is NaN
    seal: str = ""  # of the rest: see `add_checksum`


def read_metadata(path: pathlib.Path) -> RowFileMetadata:
    """Raises OSError or ValueError. Whether it is as it was written, `verify_checksum` says."""
    return read_json(path, RowFileMetadata)


def add_checksum(said: Any) -> Any:
    """The struct with the `seal` that belongs to it: a SHA-256 of all its other fields."""
    bare = msgspec.structs.replace(said, seal="")
    seal = hashlib.sha256(msgspec.json.encode(bare, order="sorted")).hexdigest()
    return msgspec.structs.replace(said, seal=seal)


def verify_checksum(said: Any) -> None:
    """Raises ValueError where a struct is not as it was when it was sealed."""
    if said != add_checksum(said):
        raise ValueError("what it says was changed since it was written")


def read_json(path: pathlib.Path, kind: Any) -> Any:
    """Of a file that others may have made. Raises OSError or ValueError."""
    try:
        return msgspec.json.decode(read_regular_file(path), type=kind)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read_regular_file(path: pathlib.Path) -> bytes:
    """The bytes of a regular file that others may have made. Raises OSError or ValueError."""
    with open_regular_file(path, MAX_METADATA_BYTES) as file:
        return file.read(MAX_METADATA_BYTES)


class ResumableRowFile:
    """`rows` of float32 vectors, kept as `<path>.npy` and `<path>.json`; in memory alone without path.

    A row counts once it and all before it are done. Rows reach the disk before the note that counts
    them does, so a kill at any moment leaves a note that is true.
    """

    def __init__(
        self,
        path: pathlib.Path | None,
        shape: tuple[int, int],
        of: Callable[[], Mapping[str, Any]],
        *,
        writes: bool = True,
        tell: Callable[[str], None] = lambda what: None,
    ):
        """of: everything that the vectors depend on: a file of anything else is made anew, as is a
        damaged one, and `tell` says so. writes: False on all hosts but one, which only read.
        Raises UserError where the disk is full or cannot be written."""
        self.rows = np.full(shape, np.nan, np.float32)
        self.unusable: dict[int, str] = {}
        self.done = self._saved = self._crc = 0
        self._path, self._writes, self._tell = path, writes, tell
        self._of: dict[str, Any] = {} if path is None else json.loads(json.dumps(of()))
        self._clock = time.monotonic()
        if path is None:
            return
        self._npy, self._json = (path.with_name(f"{path.name}.{kind}") for kind in ("npy", "json"))
        self._header = npy_header(shape)
        self._load()
        if writes and not self._saved:
            self._begin()

    def _load(self) -> None:
        if not (self._json.exists() or self._npy.exists()):
            return
        try:
            note = read_metadata(self._json)
            verify_checksum(note)
            data = self._npy.read_bytes() if self._fits() else b""
            data = data[len(self._header) :][: note.done * self.rows.itemsize * note.width]
            if differs := self._differs(note):
                self._tell(f"{self._npy} is of another {differs}: made anew")
                return
            if not data and note.done or zlib.crc32(data) != note.crc32:
                raise ValueError("its bytes are not those that were written")
            unusable = {int(row): str(why) for row, why in note.unusable.items()}
            if not all(0 <= row < note.done for row in unusable):
                raise ValueError("unusable rows that are not there")
        except (OSError, ValueError) as error:
            self._tell(f"{self._npy} is damaged ({first_line(error)}): made anew")
            return
        self.rows[: note.done] = np.frombuffer(data, "<f4").reshape(note.done, note.width)
        self.done = self._saved = note.done
        self._crc, self.unusable = note.crc32, unusable

    def _fits(self) -> bool:
        """Whether the file is as long, and begins, as it must: no other is read."""
        with self._npy.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            same = file.read(len(self._header)) == self._header
        return same and size == len(self._header) + self.rows.nbytes

    def _differs(self, note: RowFileMetadata) -> str:
        """What it is of that is not wanted here, if anything."""
        wanted = self._of
        found = [key for key in wanted | note.of if note.of.get(key) != wanted.get(key)]
        shape = note.rows, note.width
        if not found and (shape != self.rows.shape or not 0 <= note.done <= note.rows):
            found = ["shape"]
        return " and ".join(found[:3])

    def _begin(self) -> None:
        with disk_errors_as_user_errors(self._npy):
            self._npy.parent.mkdir(parents=True, exist_ok=True)
            self._json.unlink(missing_ok=True)  # first: it must never be beside another's rows
            with self._npy.open("wb") as file:
                file.write(self._header)
                file.flush()
                size = len(self._header) + self.rows.nbytes
                if hasattr(os, "posix_fallocate"):  # a full disk is found before the work is done
                    os.posix_fallocate(file.fileno(), 0, size)
                else:
                    file.truncate(size)
            self._note(0)

    def advance(self, done: int) -> None:
        """`done` rows from the first on are finished; now and then they are written."""
        self.done = done
        late = time.monotonic() - self._clock > FLUSH_SECONDS
        if done - self._saved >= FLUSH_ROWS or late or done == len(self.rows):
            self.flush()

    def flush(self) -> None:
        """Puts what is done on the disk. Raises UserError where that is full."""
        self._clock = time.monotonic()
        if self._path is None or not self._writes or self.done == self._saved:
            return
        # Written and not mapped into memory: on a full disk that would kill the process.
        data = np.ascontiguousarray(self.rows[self._saved : self.done], "<f4").tobytes()
        with disk_errors_as_user_errors(self._npy):
            with self._npy.open("r+b") as file:
                file.seek(len(self._header) + self._saved * self.rows.strides[0])
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            self._crc = zlib.crc32(data, self._crc)
            self._note(self.done)
        self._saved = self.done

    def _note(self, done: int) -> None:
        unusable = {str(row): why for row, why in self.unusable.items() if row < done}
        n, width = self.rows.shape
        note = RowFileMetadata(self._of, n, width, done, self._crc, unusable)
        write_checksummed(self._json, note)


def write_checksummed(path: pathlib.Path, said: Any) -> None:
    """Replaces a file by a struct with its seal. Raises UserError."""
    write_durably(path, msgspec.json.format(msgspec.json.encode(add_checksum(said)), indent=1))


def read_checksummed(path: pathlib.Path, kind: Any) -> Any:
    """The struct in a file, if it is as it was sealed. Raises OSError or ValueError."""
    found = read_json(path, kind)
    verify_checksum(found)
    return found


def write_durably(path: pathlib.Path, data: bytes) -> None:
    """Replaces a file at once, and so that it survives a loss of power. Raises UserError."""
    with disk_errors_as_user_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic.atomic_write(path) as file:
            file.write(data)


@contextlib.contextmanager
def disk_errors_as_user_errors(path: pathlib.Path) -> Iterator[None]:
    """What cannot be written within the block is a UserError that says what to do."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; what was finished is kept: make "
            "room, or choose another folder, and run it again"
        ) from error


def npy_header(shape: tuple[int, ...], dtype: Any = "<f4") -> bytes:
    """How NumPy begins an .npy of such rows: as long for any number of them."""
    into = io.BytesIO()
    descr = npy.dtype_to_descr(np.dtype(dtype))
    npy.write_array_header_1_0(into, {"descr": descr, "fortran_order": False, "shape": shape})
    return into.getvalue()
