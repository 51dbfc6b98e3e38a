"""ArrayRecord shards: records written to files, read at random, and every byte accounted for."""

import bisect
import collections
import errno
import itertools
import os
import pathlib
import threading
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from imagebind_jax.inputs.decoders import media
from imagebind_jax.inputs.sources.record import Record, normalize_index, validate_record
from imagebind_jax.storage import atomic

DATASET_JSON = "dataset.json"  # beside the shards of a folder, written last
OPEN = 64  # shards that a process keeps open
# Groups of more than one record are slow at random access; more compression is slow, and media
# have had theirs.
WRITER = "group_size:1,zstd:1"
READER = "readahead_buffer_size:0"  # records are read at random


class Shard(msgspec.Struct):
    """A file of records, as it was written."""

    file: str  # in the folder
    count: int  # records
    sha256: str
    size: int = 0  # bytes
    rows: str = ""  # a digest of what it was made of, where that can change


class ArrayRecords(Sequence[Record]):
    """The records of a folder's shards, in order."""

    def __init__(self, folder: str | os.PathLike, shards: Iterable[Shard] | None = None):
        """shards: those to read. Without them, all of a folder that CachedSource made: raises ValueError,
        saying what is wrong, unless every byte is as it was written."""
        self.folder = pathlib.Path(folder)
        shards = verify_folder(self.folder) if shards is None else list(shards)
        self._files = [shard.file for shard in shards]
        self._starts = list(itertools.accumulate((shard.count for shard in shards), initial=0))
        self._readers: collections.OrderedDict[int, Any] = collections.OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index):
        place = normalize_index(index, len(self))
        number = bisect.bisect_right(self._starts, place) - 1
        within = place - self._starts[number]
        name = f"{self.folder / self._files[number]}, record {within}"
        with media.wrap_decode_errors(name):
            data = self._reader(number).read([within])[0]
            return validate_record(msgspec.msgpack.decode(data), name)

    def _reader(self, number: int) -> Any:
        with self._lock:
            if number in self._readers:
                self._readers.move_to_end(number)
                return self._readers[number]
        from array_record.python.array_record_module import ArrayRecordReader

        path = str(self.folder / self._files[number])
        reader = ArrayRecordReader(path, options=READER, file_reader_buffer_size=1 << 15)
        with self._lock:
            self._readers[number] = reader
            if len(self._readers) > OPEN:
                self._readers.popitem(last=False)  # closes when the last thread is done with it
        return reader

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "_files": self._files, "_starts": self._starts}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _readers=collections.OrderedDict(), _lock=threading.Lock())

    def __repr__(self):
        return f"ArrayRecords({str(self.folder)!r}, {len(self)} records)"


def write_shard(path: pathlib.Path, records: Iterable[Record]) -> Shard:
    """Writes one file. Raises OSError where the disk is full or fails."""
    from array_record.python.array_record_module import ArrayRecordWriter

    count = 0
    try:
        writer = ArrayRecordWriter(str(path), WRITER)
        try:
            for record in records:
                writer.write(msgspec.msgpack.encode(record))
                count += 1
        finally:
            writer.close()
    except RuntimeError as error:  # of the writer, which knows no other
        for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
            if os.strerror(code) in str(error):
                raise OSError(code, os.strerror(code), str(path)) from error
        raise
    return Shard(path.name, count, atomic.sha256(path), path.stat().st_size)


class _Made(msgspec.Struct):
    count: int
    shards: list[Shard]


def verify_folder(folder: pathlib.Path) -> list[Shard]:
    """The shards of a folder that CachedSource made, each checked. Raises ValueError."""
    try:
        made = msgspec.json.decode((folder / DATASET_JSON).read_bytes(), type=_Made)
        missing = made.count - sum(shard.count for shard in made.shards)
        broken = [shard.file for shard in made.shards if not verify_shard(folder, shard)]
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} is incomplete: {error}") from error
    if missing:
        raise ValueError(f"{folder} is incomplete: {missing} records are missing")
    if broken:
        raise ValueError(f"{folder / broken[0]} is not what was written")
    return made.shards


def verify_shard(folder: pathlib.Path, shard: Shard) -> bool:
    """Whether every byte of a shard is as it was written. Raises OSError if it is not there."""
    return atomic.sha256(folder / shard.file) == shard.sha256
