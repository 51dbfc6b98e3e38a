"""What of a preparation is safely on disk: one small file for each finished shard."""

import os
import pathlib
from typing import Any

import msgspec

from imagebind_jax.inputs.sources.array_records import Shard
from imagebind_jax.inputs.sources.prepared import shard_changed

FOLDER = ".prepare"  # in the folder that is being prepared


class UnreadableRow(msgspec.Struct):
    """A row that was left out."""

    split: str
    shard: str
    id: Any
    reason: str


class FinishedShard(msgspec.Struct):
    """What became of a part."""

    split: str
    shard: Shard
    unreadable: list[UnreadableRow]


def record_shard(out: pathlib.Path, done: FinishedShard) -> None:
    """Remembers a part whose shard is in its place."""
    write_durably(_path(out, done.shard.file), msgspec.json.encode(done))


def drop_shard(out: pathlib.Path, done: FinishedShard) -> None:
    """The part is to be made again."""
    _path(out, done.shard.file).unlink(missing_ok=True)


def finished_shards(out: pathlib.Path) -> dict[str, FinishedShard]:
    """What is done, by file: entries whose shard is there as it was written."""
    found = {}
    for path in sorted((out / FOLDER).glob("*.json")):
        try:
            done = msgspec.json.decode(path.read_bytes(), type=FinishedShard)
        except ValueError:
            continue  # of a disk that failed
        if _path(out, done.shard.file) == path and not shard_changed(out, done.shard):
            found[done.shard.file] = done
    return found


def _path(out: pathlib.Path, file: str) -> pathlib.Path:
    return out / FOLDER / f"{file}.json"


def rename_durably(partial: pathlib.Path, path: pathlib.Path) -> None:
    """Puts a finished file in its place, where it then is whatever happens to the machine."""
    _sync(partial)
    partial.replace(path)
    _sync(path.parent)


def write_durably(path: pathlib.Path, data: bytes) -> None:
    """Writes a file that is whole or not there."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.write_bytes(data)
        rename_durably(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _sync(path: pathlib.Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
