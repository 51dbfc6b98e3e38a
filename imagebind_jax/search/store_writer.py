"""Adding to a store of embeddings: one process at a time, which may be killed at any moment."""

import contextlib
import os
import pathlib
import time
import zlib
from collections.abc import Iterator, Mapping
from typing import IO, Any

import msgspec
import numpy as np
from jaxtyping import Float

from imagebind_jax.errors import UserError, one_line
from imagebind_jax.search import store
from imagebind_jax.search.store import METADATA_FILE, ROW_DTYPE, EmbeddingStore, StoreMetadata
from imagebind_jax.storage import atomic, lock
from imagebind_jax.storage.row_file import disk_errors_as_user_errors, npy_header, write_checksummed

EVERY_ROWS, EVERY_SECONDS = 2000, 5.0  # of work that a kill costs, at most
REMEDY = "choose another --out"
Row = tuple[np.ndarray, Mapping[str, Any], bytes, bytes]  # vector, item, its line, picture


@contextlib.contextmanager
def open_writer(
    folder: str | os.PathLike, width: int, checkpoint: str, family: str
) -> Iterator["StoreWriter"]:
    """A store to add to, begun where there is none. What was added is kept, however the block ends.

    checkpoint: where it is; family: what tells it from others. Raises UserError where the store is of
    another checkpoint, somebody else writes it, it is damaged, or the disk is full.
    """
    folder = pathlib.Path(folder)
    others = (
        [path for path in folder.glob("*") if path.name[0] != "." and path.suffix != ".partial"]
        if folder.is_dir()
        else []
    )
    if others and not store.store_exists(folder):
        raise UserError(f"{folder} is not empty, and holds no store: {REMEDY}")
    atomic.check_writable(folder, REMEDY)
    with lock.file_lock(folder / ".lock", f"{folder} is being written by another process"):
        if not store.store_exists(folder):
            write_checksummed(folder / METADATA_FILE, StoreMetadata(width, checkpoint, family))
        writer = StoreWriter(folder)
        if (writer.note.width, writer.note.family) != (width, family):
            raise UserError(
                f"{folder} holds embeddings of another checkpoint ({writer.note.checkpoint}): {REMEDY}"
            )
        try:
            yield writer
        finally:
            writer.close()


class StoreWriter:
    """Rows are added, and count from the next `commit` on, which happens every few seconds."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        # What counts, and the rows and lines that do not yet.
        self._state: tuple[StoreMetadata, list[Row], list[bytes]] = (
            store.read_metadata(folder),
            [],
            [],
        )
        for name, dtype, shape in _arrays(0, self.note.width):
            if not self.note.rows:
                with disk_errors_as_user_errors(folder / name):
                    (folder / name).write_bytes(npy_header(shape, dtype))
        found = EmbeddingStore(folder)
        self._items: dict[str, Mapping[str, Any]] = {}
        self._row_of: dict[str, int] = {}
        for row, item in enumerate(found.items):
            self._items[item["key"]] = item
            self._row_of[item["key"]] = row
        self._unusable: dict[str, Mapping[str, Any]] = {
            each["key"]: each for each in found.unusable()
        }
        numbers = np.unique(found.rows["modality"]).tolist()
        self._alive = {self.note.modalities[number] for number in numbers}
        self.why: dict[str, str] = {}  # of what was found unusable now
        self._files: dict[str, IO[bytes]] = {}
        for name, end in _ends(self.note).items():
            with disk_errors_as_user_errors(folder / name):
                mode = "r+b" if (folder / name).exists() else "w+b"
                self._files[name] = file = (folder / name).open(mode, buffering=0)
                file.truncate(end)  # what was written after the last commit
        self._clock = time.monotonic()

    @property
    def note(self) -> StoreMetadata:
        """What counts."""
        return self._state[0]

    def has(self, key: str, stamp: Any, said: Mapping[str, Any] | None = None) -> bool:
        """Whether this was embedded before, has not changed since, and its row says all of `said`."""
        known = self._items.get(key)
        return (
            known is not None and known.get("stamp") == stamp and {**known, **(said or {})} == known
        )

    def had(self, key: str, stamp: Any, said: str = "") -> bool:
        """Whether this was found to be unusable before, and neither it nor what is said of it has changed."""
        known = self._unusable.get(key)
        return known is not None and (known.get("stamp"), known.get("said", "")) == (stamp, said)

    def describe(self, modality: str, of: Mapping[str, Any]) -> None:
        """What this modality's vectors depend on. Raises UserError where others are in the store."""
        wanted: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(of))
        known: dict[str, Any] = self.note.of.get(modality) or wanted
        if known != wanted and modality in self._alive:
            differs = [key for key in {**known, **wanted} if known.get(key) != wanted.get(key)]
            raise UserError(
                f"{self.folder} holds {modality} of other {' and '.join(differs)}: {REMEDY}, or remove it"
            )
        self.note.of[modality] = wanted
        if modality not in self.note.modalities:
            self.note.modalities.append(modality)

    def add(self, vector: Float[np.ndarray, "e"], item: Mapping[str, Any], picture: bytes) -> None:
        """One row. item: at least "key", "stamp" and "modality", which was described."""
        line = msgspec.json.encode(item) + b"\n"
        # One step, so that Ctrl-C leaves a row whole or not at all.
        self._state[1].append((np.array(vector, "<f4"), item, line, picture))
        self._items[item["key"]] = item
        self._alive.add(item["modality"])
        self._now_and_then()

    def unusable(self, item: Mapping[str, Any]) -> None:
        """One more line of unusable.jsonl: "key", "stamp", "file", "why"."""
        self._unusable[item["key"]] = item
        self.why[item["key"]] = one_line(f"{item['file']}: {item['why']}", 400)
        self._state[2].append(msgspec.json.encode(item) + b"\n")
        self._now_and_then()

    def _now_and_then(self) -> None:
        late = time.monotonic() - self._clock > EVERY_SECONDS
        if late or len(self._state[1]) >= EVERY_ROWS:
            self.commit()

    def commit(self) -> None:
        """What was added counts. Raises UserError on a full disk; then what counted before still does.

        Where it is cut short it can be called again: all places follow from what counts already.
        """
        self._clock = time.monotonic()
        note, rows, unusable = self._state
        if not rows and not unusable:
            return
        ends = _ends(note)
        places = np.zeros(len(rows), ROW_DTYPE)
        replaced = list(note.replaced)
        row_of: dict[str, int] = {}
        item_at, picture_at = ends["items.jsonl"], ends["thumbnails.bin"]
        for i, (vector, item, line, picture) in enumerate(rows):
            places[i] = (
                item_at, len(line), zlib.crc32(line), picture_at, len(picture), zlib.crc32(picture),
                store.row_checksums(vector[None])[0], note.modalities.index(item["modality"]),
            )  # fmt: skip
            item_at, picture_at = item_at + len(line), picture_at + len(picture)
            before = row_of.get(item["key"], self._row_of.get(item["key"]))
            if before is not None:
                replaced.append(before)
            row_of[item["key"]] = note.rows + i
        data = {
            "embeddings.npy": b"".join(vector.tobytes() for vector, *_ in rows),
            "rows.npy": places.tobytes(),
            "items.jsonl": b"".join(line for _, _, line, _ in rows),
            "thumbnails.bin": b"".join(picture for *_, picture in rows),
            "unusable.jsonl": b"".join(unusable),
        }
        for name, part in data.items():
            if part:
                self._write(name, ends[name], part)
        counted = msgspec.structs.replace(
            note,
            rows=note.rows + len(rows),
            rows_crc=zlib.crc32(data["rows.npy"], note.rows_crc),
            items_bytes=item_at,
            pictures_bytes=picture_at,
            unusable_bytes=ends["unusable.jsonl"] + len(data["unusable.jsonl"]),
            replaced=replaced,
        )
        # How many rows NumPy sees: the truth is the note's, which comes after.
        for name, dtype, shape in _arrays(counted.rows, counted.width):
            os.pwrite(self._files[name].fileno(), npy_header(shape, dtype), 0)
        write_checksummed(self.folder / METADATA_FILE, counted)
        self._state = (counted, [], [])
        self._row_of |= row_of

    def _write(self, name: str, place: int, data: bytes) -> None:
        file = self._files[name]
        with disk_errors_as_user_errors(self.folder / name):
            file.seek(place)
            left = memoryview(data)
            while left:
                left = left[file.write(left) :]
            os.fsync(file.fileno())

    def close(self) -> None:
        try:
            self.commit()
        finally:
            for file in self._files.values():
                file.close()


def _ends(note: StoreMetadata) -> dict[str, int]:
    """File -> how many of its bytes count."""
    return {
        "embeddings.npy": len(npy_header((0, note.width))) + 4 * note.width * note.rows,
        "rows.npy": len(npy_header((0,), ROW_DTYPE)) + ROW_DTYPE.itemsize * note.rows,
        "items.jsonl": note.items_bytes,
        "thumbnails.bin": note.pictures_bytes,
        "unusable.jsonl": note.unusable_bytes,
    }


def file_stamp(path: str) -> list[int] | None:
    """Size and time of the last change, by which a file that has changed is known."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns]


def _arrays(rows: int, width: int) -> tuple[tuple[str, Any, tuple[int, ...]], ...]:
    """(file, dtype, shape) of the store's arrays."""
    return ("embeddings.npy", "<f4", (rows, width)), ("rows.npy", ROW_DTYPE, (rows,))
