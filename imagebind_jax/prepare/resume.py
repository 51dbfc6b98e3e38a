"""What of a preparation is there already, and whether it is of the same rows."""

import pathlib
from collections.abc import Callable, Collection, Mapping, Sequence

import msgspec

from imagebind_jax.errors import UserError
from imagebind_jax.inputs.datasets import Dataset
from imagebind_jax.inputs.sources import prepared
from imagebind_jax.inputs.sources.array_records import DATASET_JSON
from imagebind_jax.inputs.sources.prepared import DatasetInfo
from imagebind_jax.prepare import journal
from imagebind_jax.prepare.journal import FinishedShard, UnreadableRow
from imagebind_jax.prepare.shards import ShardPlan

UNREADABLE = "missing.jsonl"

PlannedShards = Mapping[str, Sequence[ShardPlan]]  # split -> its parts


def previous_dataset_info(
    folder: pathlib.Path, dataset: Dataset, planned: PlannedShards
) -> DatasetInfo | None:
    """What was prepared here before, to its end. Raises UserError if it was not the same."""
    if not (folder / DATASET_JSON).exists():
        return None
    facts = prepared.read_dataset_info(folder)
    if facts.name != dataset.name:
        raise UserError(f"{folder} holds {facts.title}: choose another --out")
    for split in planned.keys() & facts.splits.keys():
        before = [(shard.file, shard.rows) for shard in facts.splits[split].shards]
        if before != [(part.file, part.digest) for part in planned[split]]:
            raise UserError(
                f"{folder} holds {split} of other rows or files, or by another version of the "
                "builder: remove it, or choose another --out"
            )
    return facts


def reusable_shards(
    folder: pathlib.Path,
    facts: DatasetInfo | None,
    planned: PlannedShards,
    say: Callable[[str], None],
) -> dict[str, FinishedShard]:
    """What need not be made again, by file."""
    found: dict[str, FinishedShard] = {}
    rows = read_unreadable(folder)
    for name, split in facts.splits.items() if facts else ():
        for shard in split.shards:
            if not prepared.shard_changed(folder, shard):
                left_out = [row for row in rows if row.shard == shard.file]
                found[shard.file] = FinishedShard(name, shard, left_out)
    found |= journal.finished_shards(folder)
    wanted = {part.file: part.digest for split in planned.values() for part in split}
    same = {file: done for file, done in found.items() if wanted.get(file) == done.shard.rows}
    others = [file for file in found if file in wanted and file not in same]
    if others:
        say(f"{len(others)} shards are of other rows or files, or by another version of the "
            "builder, and are made again")  # fmt: skip
    if same and len(same) < len(wanted):
        say(f"goes on: {len(same)} of {len(wanted)} shards are there")
    return same


def read_unreadable(folder: pathlib.Path) -> list[UnreadableRow]:
    """The rows that were left out, as missing.jsonl names them."""
    try:
        lines = (folder / UNREADABLE).read_bytes().splitlines()
        return [msgspec.json.decode(line, type=UnreadableRow) for line in lines]
    except (FileNotFoundError, ValueError):
        return []


def write_unreadable(
    folder: pathlib.Path, splits: Collection[str], made: dict[str, FinishedShard]
) -> None:
    """Writes what was left out, of these splits anew."""
    rows = [row for row in read_unreadable(folder) if row.split not in splits]
    for file in sorted(made):
        rows += made[file].unreadable
    journal.write_durably(
        folder / UNREADABLE, b"".join(msgspec.json.encode(r) + b"\n" for r in rows)
    )
