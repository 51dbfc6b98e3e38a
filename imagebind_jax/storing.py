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

from imagebind_jax import files, store
from imagebind_jax.errors import UserError, one_line
from imagebind_jax.inputs.kept import durable, header, on_disk, sealed
from imagebind_jax.store import NOTE, ROW, Note, Store

EVERY_ROWS, EVERY_SECONDS = 2000, 5.0  # of work that a kill costs, at most
REMEDY = "choose another --out"


@contextlib.contextmanager
def writing(
    folder: str | os.PathLike, width: int, checkpoint: str, family: str
) -> Iterator["Writer"]:
    """A store to add to, begun where there is none. What was added is kept, however the block ends.

    checkpoint: where it is; family: what tells it from others. Raises UserError where the store is of
    another checkpoint, somebody else writes it, it is damaged, or the disk is full.
    """
    folder = pathlib.Path(folder)
    others = [path for path in folder.glob("*") if path.name[0] != "."] if folder.is_dir() else []
    if others and not store.exists(folder):
        raise UserError(f"{folder} is not empty, and holds no store: {REMEDY}")
    files.check_writable(folder, REMEDY)
    with files.locked(folder / ".lock", f"{folder} is being written by another process"):
        if not store.exists(folder):
            durable(folder / NOTE, _encoded(Note(width, checkpoint, family)))
        writer = Writer(folder)
        if (writer.note.width, writer.note.family) != (width, family):
            raise UserError(
                f"{folder} holds embeddings of another checkpoint ({writer.note.checkpoint}): {REMEDY}"
            )
        try:
            yield writer
        finally:
            writer.close()


class Writer:
    """Rows are added, and count from the next `commit` on, which happens every few seconds."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.note = store.read_note(folder)
        for name, dtype, shape in _arrays(0, self.note.width):
            if not self.note.rows:
                with on_disk(folder / name):
                    (folder / name).write_bytes(header(shape, dtype))
        found = Store(folder)
        self._row_of: dict[str, int] = {}
        self._items: dict[str, Mapping[str, Any]] = {}
        for row, item in enumerate(found.items):
            self._items[item["key"]] = item
            self._row_of[item["key"]] = row
        self._unusable = {each["key"]: each.get("stamp") for each in found.unusable()}
        starts = len(header((0, self.note.width))), len(header((0,), ROW))
        self._files: dict[str, IO[bytes]] = {}
        self._ends = {
            "embeddings.npy": starts[0] + 4 * self.note.width * self.note.rows,
            "rows.npy": starts[1] + ROW.itemsize * self.note.rows,
            "items.jsonl": self.note.items_bytes,
            "thumbnails.bin": self.note.pictures_bytes,
            "unusable.jsonl": self.note.unusable_bytes,
        }
        for name, end in self._ends.items():
            with on_disk(folder / name):
                self._files[name] = file = (folder / name).open(
                    "r+b" if end else "w+b", buffering=0
                )
                file.truncate(end)  # what was written after the last commit
        self.why: dict[str, str] = {}  # of what was found unusable now
        self._pending: dict[str, list[bytes]] = {name: [] for name in self._ends}
        self._added = 0
        self._replaced: list[int] = []
        self._clock = time.monotonic()

    def has(self, key: str, stamp: Any, said: Mapping[str, Any] | None = None) -> bool:
        """Whether this was embedded before, has not changed since, and its row says all of `said`."""
        known = self._items.get(key)
        return (
            known is not None and known.get("stamp") == stamp and {**known, **(said or {})} == known
        )

    def had(self, key: str, stamp: Any) -> bool:
        """Whether this was found to be unusable before, and has not changed since."""
        return key in self._unusable and self._unusable[key] == stamp

    def describe(self, modality: str, of: Mapping[str, Any]) -> None:
        """What this modality's vectors depend on. Raises UserError where others are in the store."""
        wanted: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(of))
        known = self.note.of.setdefault(modality, wanted)
        if known != wanted:
            differs = [key for key in {**known, **wanted} if known.get(key) != wanted.get(key)]
            raise UserError(
                f"{self.folder} holds {modality} of other {' and '.join(differs)}: {REMEDY}, or remove it"
            )
        if modality not in self.note.modalities:
            self.note.modalities.append(modality)

    def add(self, vector: Float[np.ndarray, "e"], item: Mapping[str, Any], picture: bytes) -> None:
        """One row. item: at least "key", "stamp" and "modality", which was described."""
        line = msgspec.json.encode(item) + b"\n"
        vector = np.ascontiguousarray(vector, "<f4")
        at = np.zeros((), ROW)
        at["item"], at["picture"] = self._end("items.jsonl"), self._end("thumbnails.bin")
        at["item_bytes"], at["picture_bytes"] = len(line), len(picture)
        at["item_crc"], at["picture_crc"] = zlib.crc32(line), zlib.crc32(picture)
        at["sum"] = store.sums(vector[None])[0]
        at["modality"] = self.note.modalities.index(item["modality"])
        for name, data in (("embeddings.npy", vector.tobytes()), ("rows.npy", at.tobytes()),
                           ("items.jsonl", line), ("thumbnails.bin", picture)):  # fmt: skip
            self._put(name, data)
        key = item["key"]
        if key in self._row_of:
            self._replaced.append(self._row_of[key])
        self._row_of[key] = self.note.rows + self._added
        self._items[key] = item
        self._added += 1
        self._now_and_then()

    def unusable(self, item: Mapping[str, Any]) -> None:
        """One more line of unusable.jsonl: "key", "stamp", "file", "why"."""
        self._unusable[item["key"]] = item["stamp"]
        self.why[item["key"]] = one_line(f"{item['file']}: {item['why']}", 400)
        self._put("unusable.jsonl", msgspec.json.encode(item) + b"\n")
        self._now_and_then()

    def _end(self, name: str) -> int:
        return self._ends[name]

    def _put(self, name: str, data: bytes) -> None:
        self._pending[name].append(data)
        self._ends[name] += len(data)

    def _now_and_then(self) -> None:
        late = time.monotonic() - self._clock > EVERY_SECONDS
        if late or self._added >= EVERY_ROWS:
            self.commit()

    def commit(self) -> None:
        """What was added counts. Raises UserError on a full disk; then what counted before still does."""
        self._clock = time.monotonic()
        if not any(self._pending.values()):
            return
        for name, parts in self._pending.items():
            if parts:
                self._append(name, b"".join(parts))
        note = msgspec.structs.replace(
            self.note,
            rows=self.note.rows + self._added,
            rows_crc=zlib.crc32(b"".join(self._pending["rows.npy"]), self.note.rows_crc),
            items_bytes=self._ends["items.jsonl"],
            pictures_bytes=self._ends["thumbnails.bin"],
            unusable_bytes=self._ends["unusable.jsonl"],
            replaced=[*self.note.replaced, *self._replaced],
        )
        # How many rows NumPy sees: the truth is the note's, which comes after.
        for name, dtype, shape in _arrays(note.rows, note.width):
            os.pwrite(self._files[name].fileno(), header(shape, dtype), 0)
        durable(self.folder / NOTE, _encoded(note))
        self.note = note
        self._replaced = []
        self._pending = {name: [] for name in self._ends}
        self._added = 0

    def _append(self, name: str, data: bytes) -> None:
        file = self._files[name]
        with on_disk(self.folder / name):
            file.seek(self._ends[name] - len(data))
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


def stamp(path: str) -> list[int] | None:
    """Size and time of the last change, by which a file that has changed is known."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns]


def _arrays(rows: int, width: int) -> tuple[tuple[str, Any, tuple[int, ...]], ...]:
    """(file, dtype, shape) of the store's arrays."""
    return ("embeddings.npy", "<f4", (rows, width)), ("rows.npy", ROW, (rows,))


def _encoded(note: Note) -> bytes:
    return msgspec.json.format(msgspec.json.encode(sealed(note)), indent=1)
