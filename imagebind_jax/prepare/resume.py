"""What of a preparation is there already, and whether it is of the same rows."""

import pathlib
from collections.abc import Callable, Collection, Mapping, Sequence

import msgspec

from imagebind_jax.errors import UserError
from imagebind_jax.inputs.datasets import Dataset
from imagebind_jax.inputs.sources import prepared
from imagebind_jax.inputs.sources.array_records import FACTS
from imagebind_jax.inputs.sources.prepared import Facts
from imagebind_jax.prepare import journal
from imagebind_jax.prepare.journal import Done, Unreadable
from imagebind_jax.prepare.shards import Part

UNREADABLE = "missing.jsonl"

Planned = Mapping[str, Sequence[Part]]  # split -> its parts


def finished(folder: pathlib.Path, dataset: Dataset, planned: Planned) -> Facts | None:
    """What was prepared here before, to its end. Raises UserError if it was not the same."""
    if not (folder / FACTS).exists():
        return None
    facts = prepared.facts(folder)
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


def done(
    folder: pathlib.Path,
    facts: Facts | None,
    planned: Planned,
    say: Callable[[str], None],
) -> dict[str, Done]:
    """What need not be made again, by file."""
    found: dict[str, Done] = {}
    rows = unreadable(folder)
    for name, split in facts.splits.items() if facts else ():
        for shard in split.shards:
            if not prepared.changed(folder, shard):
                left_out = [row for row in rows if row.shard == shard.file]
                found[shard.file] = Done(name, shard, left_out)
    found |= journal.read(folder)
    wanted = {part.file: part.digest for split in planned.values() for part in split}
    same = {file: done for file, done in found.items() if wanted.get(file) == done.shard.rows}
    others = [file for file in found if file in wanted and file not in same]
    if others:
        say(f"{len(others)} shards are of other rows or files, or by another version of the "
            "builder, and are made again")  # fmt: skip
    if same and len(same) < len(wanted):
        say(f"goes on: {len(same)} of {len(wanted)} shards are there")
    return same


def unreadable(folder: pathlib.Path) -> list[Unreadable]:
    """The rows that were left out, as missing.jsonl names them."""
    try:
        lines = (folder / UNREADABLE).read_bytes().splitlines()
        return [msgspec.json.decode(line, type=Unreadable) for line in lines]
    except (FileNotFoundError, ValueError):
        return []


def report(folder: pathlib.Path, splits: Collection[str], made: dict[str, Done]) -> None:
    """Writes what was left out, of these splits anew."""
    rows = [row for row in unreadable(folder) if row.split not in splits]
    for file in sorted(made):
        rows += made[file].unreadable
    journal.commit(folder / UNREADABLE, b"".join(msgspec.json.encode(r) + b"\n" for r in rows))
