"""Where in tar files each sample's parts are: made by one pass, kept in the cache folder."""

import bisect
import dataclasses
import hashlib
import json
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence

import msgspec
import numpy as np

from imagebind_jax.errors import UserError
from imagebind_jax.inputs.decoders import media
from imagebind_jax.inputs.sources.record import Stamp, file_stamp
from imagebind_jax.inputs.sources.tar_reader import iter_members
from imagebind_jax.storage import atomic, lock
from imagebind_jax.storage.cache_dir import CACHE_REMEDY, cache_folder
from imagebind_jax.storage.row_file import add_checksum, verify_checksum

JSON = "json"  # the ending whose object has fields of its own
FORMAT = 1  # of an index: another one is another folder
NAME = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)")  # key, ending; hidden files have no key
ARRAYS = ("spans", "keys", "key_ends")

Fields = Mapping[str, Sequence[str]]  # field -> endings, the best one first
Part = tuple[int, int]  # offset, bytes


@dataclasses.dataclass(frozen=True)
class Sample:
    """Where one sample is."""

    path: str
    stamp: Stamp  # of the file when it was indexed
    key: str
    parts: Mapping[str, Part]  # of each field that it has


class _About(msgspec.Struct):
    shards: list[str]
    stamps: list[Stamp]
    ends: list[int]  # the number of samples up to the end of each shard
    fields: list[str]
    sums: dict[str, str]  # SHA-256 of the arrays' files
    seal: str = ""  # of the rest


class Index:
    """The samples of all shards, in order."""

    def __init__(self, about: _About, spans: np.ndarray, keys: np.ndarray, key_ends: np.ndarray):
        """spans: [samples, fields, (offset, bytes)], zeros for a field that a sample lacks; keys:
        the bytes of all keys; key_ends: [samples], where each one ends."""
        self._about, self._spans, self._keys, self._key_ends = about, spans, keys, key_ends

    def __len__(self) -> int:
        return len(self._spans)

    def sample(self, index: int) -> Sample:
        shard = bisect.bisect_right(self._about.ends, index)
        start = self._key_ends[index - 1] if index else 0
        parts = zip(self._about.fields, self._spans[index].tolist())
        return Sample(
            self._about.shards[shard],
            self._about.stamps[shard],
            self._keys[int(start) : int(self._key_ends[index])].tobytes().decode(),
            {field: (offset, size) for field, (offset, size) in parts if offset},
        )


def build_index(shards: list[str], fields: Fields) -> pathlib.Path:
    """The folder of the shards' index, which is written if it is not there as it should be.

    Another file, another size or time of change, or other fields, are another index. Raises
    UserError, naming the file, where one cannot be used.
    """
    try:
        stamps = [file_stamp(path) for path in shards]
    except media.MediaError as error:
        raise UserError(str(error)) from error
    key = json.dumps([FORMAT, shards, stamps, fields])
    folder = cache_folder() / f"tar-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    atomic.check_writable(folder.parent, CACHE_REMEDY)
    with lock.file_lock(folder.with_name(f"{folder.name}.lock")):
        try:
            load_index(folder)
        except ValueError:
            _write(folder, shards, stamps, fields)
    return folder


def load_index(folder: pathlib.Path) -> Index:
    """Raises ValueError unless every byte is as it was written."""
    try:
        about = msgspec.json.decode((folder / "about.json").read_bytes(), type=_About)
        verify_checksum(about)
        if about.sums != {name: atomic.sha256(folder / f"{name}.npy") for name in ARRAYS}:
            raise ValueError("a file is not what was written")
        # Mapped: processes share it, and of many million samples only what is used is in memory.
        arrays = [np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS]
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} is incomplete: {error}") from error
    return Index(about, *arrays)


def _write(folder: pathlib.Path, shards: list[str], stamps: list[Stamp], fields: Fields) -> None:
    columns: Fields = {**fields, JSON: [JSON]}
    tables, ends, key_ends = [], [], []
    keys = bytearray()
    for path in shards:
        rows = []
        for key, parts in _samples(path, columns):
            rows.append([parts.get(field, (0, 0)) for field in columns])
            keys += key.encode()
            key_ends.append(len(keys))
        tables.append(np.array(rows, np.uint64).reshape(len(rows), len(columns), 2))
        ends.append(len(key_ends))
    if not key_ends:
        wanted = ", ".join(f".{ending}" for endings in columns.values() for ending in endings)
        raise UserError(
            f"{shards[0]} holds no file that ends in {wanted}: see the fields of TarShards"
        )
    arrays: tuple[np.ndarray, ...] = (
        np.concatenate(tables),
        np.frombuffer(keys, np.uint8),
        np.array(key_ends, np.uint64),
    )
    with atomic.atomic_dir(folder, CACHE_REMEDY) as partial:
        for name, values in zip(ARRAYS, arrays):
            np.save(partial / f"{name}.npy", values)
        sums = {name: atomic.sha256(partial / f"{name}.npy") for name in ARRAYS}
        about = _About(shards, stamps, ends, list(columns), sums)
        (partial / "about.json").write_bytes(msgspec.json.encode(add_checksum(about)))


def _samples(path: str, columns: Fields) -> Iterator[tuple[str, dict[str, Part]]]:
    """(key, {field: where}) in the order in which the keys appear. Raises UserError."""
    found: dict[str, dict[str, Part]] = {}
    try:
        for name, offset, size in iter_members(path):
            match = NAME.fullmatch(name.removeprefix("./"))
            if match is None or "__MACOSX/" in name:
                continue
            key, ending = match[1], match[2].lower()
            endings = found.setdefault(key, {})
            if ending in endings:
                raise media.MediaError(path, f"it has two files {key}.{ending}")
            endings[ending] = offset, size
    except media.MediaError as error:
        raise UserError(str(error)) from error
    for key, endings in found.items():
        parts = {}
        for field, wanted in columns.items():
            ending = next((ending for ending in wanted if ending in endings), None)
            if ending is not None:
                parts[field] = endings[ending]
        if parts:
            yield key, parts
