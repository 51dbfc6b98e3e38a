"""Folders that `imagebind-jax prepare` wrote: what is in them, and their splits as sources."""

import dataclasses
import itertools
import os
import pathlib

import msgspec

from imagebind_jax.errors import UserError, first_line
from imagebind_jax.inputs.sources.array_records import DATASET_JSON, ArrayRecords, Shard
from imagebind_jax.storage import checksummed


class SplitInfo(msgspec.Struct):
    """One split of a prepared folder."""

    count: int  # records
    shards: list[Shard]
    missing: int = 0  # samples that the download lists but lacks
    unreadable: int = 0  # samples left out since they could not be read: missing.jsonl names them


class DatasetInfo(msgspec.Struct):
    """The dataset.json of a prepared folder."""

    name: str
    title: str
    licence: str
    homepage: str
    modalities: list[str]
    classes: list[str]  # names as prompts use them; a record's label counts in this order
    prompts: list[str]  # templates with one {}
    notes: list[str]
    splits: dict[str, SplitInfo]
    names: dict[str, list[str]] = {}  # class -> its names, where they are several; the best counts


def read_dataset_info(folder: str | os.PathLike) -> DatasetInfo:
    """What is in the folder. Raises UserError."""
    path = pathlib.Path(folder) / DATASET_JSON
    try:
        found = msgspec.convert(checksummed.read_checksummed_json(path), DatasetInfo)
    except FileNotFoundError:
        raise UserError(
            f"{folder} holds no {DATASET_JSON}: it is not prepared, or not to its end"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({first_line(error)}): remove {folder}, and prepare it again; "
            "or take out its `seal`, where it was you who changed it"
        ) from error
    for shard in itertools.chain.from_iterable(split.shards for split in found.splits.values()):
        if os.path.basename(shard.file) != shard.file or shard.count < 0:
            raise UserError(f"{path} names {shard.file!r}, which is not a shard of its folder")
    return found


def encode_dataset_info(facts: DatasetInfo) -> bytes:
    """A dataset.json, with a digest of itself."""
    return msgspec.json.format(
        msgspec.json.encode(checksummed.add_checksum(msgspec.to_builtins(facts)))
    )


def split_info(folder: str | os.PathLike, name: str) -> SplitInfo:
    """One split of the folder. Raises UserError if there is none of that name."""
    splits = read_dataset_info(folder).splits
    if name not in splits:
        raise UserError(f"{os.fspath(folder)} has no split {name!r}: only {', '.join(splits)}")
    return splits[name]


def shard_changed(folder: str | os.PathLike, shard: Shard) -> bool:
    """Whether a shard is missing or of another size than was written: quick, for any number."""
    if not shard.count:
        return False  # none of its rows could be read: it has no file
    try:
        return os.stat(os.path.join(folder, shard.file)).st_size != shard.size
    except OSError:
        return True


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A split of a prepared folder.

    The sizes of its files are checked when it is opened; a damaged record is a `MediaError` when
    it is read. `imagebind-jax prepare FOLDER --verify` checks every byte.
    """

    folder: str | os.PathLike
    split: str = "train"

    def __post_init__(self):
        object.__setattr__(self, "folder", os.fspath(self.folder))

    def open(self) -> ArrayRecords:
        """Raises UserError if it is not there as it was written."""
        shards = split_info(self.folder, self.split).shards
        for shard in shards:
            if shard_changed(self.folder, shard):
                raise UserError(
                    f"{os.path.join(self.folder, shard.file)} is missing or damaged: run the "
                    "`imagebind-jax prepare` that made it again, which makes it anew"
                )
        return ArrayRecords(self.folder, shards)
