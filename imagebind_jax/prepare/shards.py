"""The parts in which a dataset is prepared: which rows become which shard, and how it is written."""

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from imagebind_jax.inputs import datasets
from imagebind_jax.inputs.datasets import Dataset, Row
from imagebind_jax.inputs.decoders import media
from imagebind_jax.inputs.sources.array_records import write_shard
from imagebind_jax.inputs.sources.record import MEDIA, validate_record
from imagebind_jax.prepare.journal import FinishedShard, UnreadableRow, record_shard, rename_durably

RECORDS, BYTES = 256, 256 << 20  # of one shard at most: seconds of work, and files of a handy size
FORMAT = b"1"  # of the records written: another one makes other shards


@dataclasses.dataclass(frozen=True)
class ShardPlan:
    """Rows that become one shard."""

    split: str
    file: str
    rows: Sequence[Row]
    digest: str  # of the rows, the sizes of their files and the builder's code
    size: int  # of their files, in bytes; 0 where the builder does more than embed them
    download: pathlib.Path


def plan_shards(
    dataset: Dataset, split: str, rows: Sequence[Row], download: pathlib.Path
) -> list[ShardPlan]:
    """The parts of a split, always the same ones for the same rows.

    Raises ValueError where two rows have the same id.
    """
    whole = dataset.record is datasets.inline_files
    begin = hashlib.sha256(FORMAT + datasets.builder_source(dataset.name))
    parts: list[ShardPlan] = []
    seen: set[Any] = set()
    start, size, digest = 0, 0, begin.copy()

    def close(stop: int) -> None:
        file = f"{split}-{len(parts):05d}.array_record"
        parts.append(ShardPlan(split, file, rows[start:stop], digest.hexdigest(), size, download))

    for index, row in enumerate(rows):
        if row["id"] in seen:
            raise ValueError(f"two rows of {split} have the id {row['id']!r}")
        seen.add(row["id"])
        packed, added = _measured(row, download)
        added *= whole
        if index - start == RECORDS or (index > start and size + added > BYTES):
            close(index)
            start, size, digest = index, 0, begin.copy()
        size += added
        digest.update(packed)
    if start < len(rows):
        close(len(rows))
    return parts


def _measured(row: Row, download: pathlib.Path) -> tuple[bytes, int]:
    """What identifies a row, wherever the download lies, and the bytes of its files."""
    total = 0

    def plain(value: Any) -> Any:
        nonlocal total
        if not isinstance(value, pathlib.Path):
            raise TypeError(f"a row cannot hold {value!r}")
        try:
            size = os.stat(value).st_size
            total += size
        except OSError:  # writing will tell
            size = -1
        return os.path.relpath(value, download), size

    return msgspec.msgpack.encode(dict(row), enc_hook=plain), total


def write_and_record_shard(
    name: str, search: Sequence[str], part: ShardPlan, out: pathlib.Path
) -> FinishedShard:
    """Writes a part's shard and, when it is safely on disk, its entry in the journal.

    name: of the dataset, looked for in `search`: this runs in processes that know neither. Raises
    OSError where it cannot be written.
    """
    datasets.search_path()[:] = search
    unreadable: list[UnreadableRow] = []
    records = _records(datasets.get_dataset(name), part, unreadable)
    partial = out / f"{part.file}.partial"
    try:
        shard = write_shard(partial, records)
        shard.file, shard.rows = part.file, part.digest
        if shard.count:
            rename_durably(partial, out / part.file)
        else:
            shard.size = 0  # and no file
        done = FinishedShard(part.split, shard, unreadable)
        record_shard(out, done)
    finally:
        partial.unlink(missing_ok=True)
    return done


def _records(
    dataset: Dataset, part: ShardPlan, unreadable: list[UnreadableRow]
) -> Iterator[dict[str, Any]]:
    root = os.path.realpath(part.download)
    for row in part.rows:
        try:
            for path in _paths(row):
                _check_within(path, root)
            made = validate_record(
                {"id": row["id"], **dataset.record(row)}, f"{part.split} {row['id']}"
            )
            for key in MEDIA & made.keys():
                for frame in made[key] if isinstance(made[key], list) else [made[key]]:
                    _check_medium(key, frame)
        except (media.MediaError, OSError) as error:
            unreadable.append(UnreadableRow(part.split, part.file, row["id"], str(error)))
            continue
        except Exception as error:
            error.add_note(f"This was with {dataset.name} {part.split}, row {row['id']!r}.")
            raise
        yield made


def _paths(row: Row) -> Iterator[pathlib.Path]:
    for value in row.values():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, pathlib.Path):
                yield item


def _check_within(path: pathlib.Path, root: str) -> None:
    """A link may lead to anything on this machine, and records are given away."""
    real = os.path.realpath(path)
    if os.path.commonpath([real, root]) != root:
        remedy = "have the files themselves there; a folder of another disk can be mounted there"
        raise media.MediaError(str(path), f"a link that leads out of the download: {remedy}")


def _check_medium(key: str, data: bytes) -> None:
    """Raises `MediaError` for a web page or a text in place of a medium, and the like."""
    if media.sniff_media_type(data) or key not in ("vision", "audio", "thermal"):
        return
    # No beginning that is known at once: the decoders know more, such as BigTIFF, AU and CAF.
    if key == "audio":
        from imagebind_jax.inputs.decoders import audio_files

        audio_files.duration(data)
    else:
        from imagebind_jax.inputs.decoders import images

        images.image_size(data)
