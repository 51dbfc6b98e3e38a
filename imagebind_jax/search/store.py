"""A store of embeddings: memory-mapped vectors, what each is of, and its picture; only ever added to.

    embeddings.npy    [n, e] float32 unit vectors      rows.npy          where the rest of a row is
    items.jsonl       what each row is of               thumbnails.bin    its picture
    store.json        how far all of these count        unusable.jsonl    what could not be embedded

Data reach the disk before store.json counts them: whoever is killed leaves a store that is whole, and
what was written after it last said so is written again. Every row has checksums.
"""

import functools
import os
import pathlib
import zlib
from typing import Any

import msgspec
import numpy as np
from jaxtyping import Float, Int

from imagebind_jax.errors import UserError, first_line
from imagebind_jax.storage.row_file import npy_header, read_checksummed

METADATA_FILE = "store.json"
ROWS_PER_BLOCK = (
    1 << 17
)  # rows whose bytes are checked, and searched, at once: 512 MB of 1,024 numbers
ROW_DTYPE = np.dtype(
    [("item", "<u8"), ("item_bytes", "<u4"), ("item_crc", "<u4"), ("picture", "<u8"),
     ("picture_bytes", "<u4"), ("picture_crc", "<u4"), ("sum", "<u8"), ("modality", "<u4")]
)  # fmt: skip
LARGEST_WIDTH = 1 << 16


class StoreMetadata(msgspec.Struct):
    """store.json: how much of each file counts, and what its vectors are of."""

    width: int
    checkpoint: str  # where it was
    family: str  # a digest of all of the checkpoint's encoders, for those that are not in `of` yet
    modalities: list[str] = []  # in the order of their numbers in rows.npy
    of: dict[str, dict[str, Any]] = {}  # modality -> encoder, parameters, transform
    rows: int = 0
    items_bytes: int = 0
    pictures_bytes: int = 0
    unusable_bytes: int = 0
    rows_crc: int = 0
    replaced: list[int] = []  # rows of files that have changed and were embedded anew
    format: int = 1
    seal: str = ""


class EmbeddingStore:
    """A store as it is now, for reading: another process may go on writing it."""

    def __init__(self, folder: str | os.PathLike):
        """Raises UserError where there is none, or it is damaged."""
        self.folder = pathlib.Path(folder)
        self.note = read_metadata(self.folder)
        shape = (self.note.rows, self.note.width)
        self.rows: Any = self._mapped("rows.npy", ROW_DTYPE, shape[:1])
        self.vectors: Float[np.ndarray, "n e"] = self._mapped("embeddings.npy", "<f4", shape)
        if zlib.crc32(np.ascontiguousarray(self.rows).tobytes()) != self.note.rows_crc:
            raise self._damaged("rows.npy")
        if len(self) and not int(self.rows["modality"].max()) < len(self.note.modalities):
            raise self._damaged("rows.npy")
        self.replaced = np.zeros(len(self), bool)
        self.replaced[[row for row in self.note.replaced if 0 <= row < len(self)]] = True
        self._checked: set[int] = set()

    def __len__(self) -> int:
        return self.note.rows

    def _mapped(self, name: str, dtype: Any, shape: tuple[int, ...]) -> Any:
        path, start = self.folder / name, len(npy_header(shape, dtype))
        try:
            size = os.stat(path).st_size
        except OSError as error:
            raise self._damaged(name) from error
        wanted = start + int(np.prod(shape)) * np.dtype(dtype).itemsize
        if size < wanted:  # a map beyond a file's end would kill the process
            raise self._damaged(name)
        if not shape[0]:
            return np.zeros(shape, dtype)
        return np.memmap(path, dtype, "r", start, shape)

    def _damaged(self, name: str, what: str = "it is not as it was written") -> UserError:
        return UserError(
            f"{self.folder / name} is damaged ({what}): remove {self.folder} and embed again"
        )

    def block(self, index: int) -> Float[np.ndarray, "b e"]:
        """Rows [index * ROWS_PER_BLOCK, ...), whose bytes are checked the first time. Raises UserError."""
        part = slice(index * ROWS_PER_BLOCK, min((index + 1) * ROWS_PER_BLOCK, len(self)))
        vectors = self.vectors[part]
        if index not in self._checked:
            if (row_checksums(vectors) != self.rows["sum"][part]).any():
                raise self._damaged("embeddings.npy")
            self._checked.add(index)
        return vectors

    def check(self, rows: Int[np.ndarray, "k"]) -> None:
        """Whether the bytes of these rows are those that were written. Raises UserError."""
        if (row_checksums(self.vectors[rows]) != self.rows["sum"][rows]).any():
            raise self._damaged("embeddings.npy")

    @property
    def count(self) -> int:
        """Rows that may be answers."""
        return len(self) - int(self.replaced.sum())

    @property
    def blocks(self) -> int:
        return -(-len(self) // ROWS_PER_BLOCK)

    def item(self, row: int) -> dict[str, Any]:
        """What a row is of: "key", "modality", "file" or "text", "bytes", ... Raises UserError."""
        at = self.rows[row]
        data = self._read(
            "items.jsonl", int(at["item"]), int(at["item_bytes"]), self.note.items_bytes
        )
        if zlib.crc32(data) != int(at["item_crc"]):
            raise self._damaged("items.jsonl")
        return msgspec.json.decode(data, type=dict[str, Any])

    def picture(self, row: int) -> bytes:
        """A small JPEG or PNG, or nothing. Raises UserError."""
        at = self.rows[row]
        size, end = int(at["picture_bytes"]), self.note.pictures_bytes
        data = self._read("thumbnails.bin", int(at["picture"]), size, end)
        if zlib.crc32(data) != int(at["picture_crc"]):
            raise self._damaged("thumbnails.bin")
        return data

    def _read(self, name: str, offset: int, size: int, end: int) -> bytes:
        if not 0 <= offset <= offset + size <= end:
            raise self._damaged("rows.npy")
        if not size:
            return b""
        try:
            with (self.folder / name).open("rb") as file:
                file.seek(offset)
                return file.read(size)
        except OSError as error:
            raise self._damaged(name, first_line(error)) from error

    @functools.cached_property
    def items(self) -> list[dict[str, Any]]:
        """Of all rows, for filters. Raises UserError."""
        data = self._read("items.jsonl", 0, self.note.items_bytes, self.note.items_bytes)
        found, line = [], msgspec.json.Decoder(dict[str, Any])
        for at in self.rows[["item", "item_bytes", "item_crc"]].tolist():
            part = data[at[0] : at[0] + at[1]]
            if zlib.crc32(part) != at[2]:
                raise self._damaged("items.jsonl")
            found.append(line.decode(part))
        return found

    def unusable(self) -> list[dict[str, Any]]:
        """The files that could not be embedded, and why. Raises UserError."""
        end = self.note.unusable_bytes
        lines = self._read("unusable.jsonl", 0, end, end).splitlines() if end else []
        try:
            found = [msgspec.json.decode(line, type=dict[str, Any]) for line in lines]
            return list({each["key"]: each for each in found}.values())  # the last word on each
        except (msgspec.DecodeError, KeyError) as error:
            raise self._damaged("unusable.jsonl", first_line(error)) from error

    def modality(self, row: int) -> str:
        return self.note.modalities[int(self.rows["modality"][row])]


def store_exists(folder: str | os.PathLike) -> bool:
    """Whether a store was begun there."""
    return (pathlib.Path(folder) / METADATA_FILE).is_file()


def read_metadata(folder: pathlib.Path) -> StoreMetadata:
    """Raises UserError."""
    if not store_exists(folder):
        raise UserError(
            f"{folder} holds no store: imagebind-jax embed FILES --out {folder} makes one"
        )
    try:
        note = read_checksummed(folder / METADATA_FILE, StoreMetadata)
        if note.format != 1 or not 0 < note.width < LARGEST_WIDTH or note.rows < 0:
            raise ValueError("of another version")
        return note
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder / METADATA_FILE} is damaged ({first_line(error)}): remove {folder} and embed again"
        ) from error


def row_checksums(vectors: Float[np.ndarray, "n e"]) -> np.ndarray:
    """A checksum of each row at the speed of memory: no change of a single word goes unseen."""
    words = np.ascontiguousarray(vectors).view("<u4")
    return words.sum(axis=-1, dtype=np.uint64)
