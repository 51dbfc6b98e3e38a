"""Is the run in a folder the one that is asked for? By config.json, records.json and its checkpoints."""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec

from imagebind_jax.checkpointing import checkpointer
from imagebind_jax.errors import UserError
from imagebind_jax.storage import checksummed

CONFIG, RECORDS = "config.json", "records.json"


# Strict, as a file of an older version has no seal.
class _Config(msgspec.Struct, forbid_unknown_fields=True):
    config: dict[str, Any]


class _Records(msgspec.Struct, forbid_unknown_fields=True):
    records: list[tuple[str, int]]  # pair of modalities, how many


Kind = TypeVar("Kind", _Config, _Records)


def _read(path: pathlib.Path, kind: type[Kind], say: Callable[[str], None]) -> Kind | None:
    """None where there is no such file, or a damaged one, which is told."""
    if not path.exists():
        return None
    try:
        said = checksummed.read_json(path)
        if isinstance(said, list):  # an older version's records
            said = {"records": said}
        return msgspec.convert(checksummed.verify_checksum(said), kind)
    except ValueError:
        say(f"{path} is damaged: what checkpoints say of the run counts, and it is written anew")
        return None


def check_existing_run(folder: pathlib.Path, facts: dict, say: Callable[[str], None]) -> bool:
    """Whether a run was begun here, as config.json says. Raises UserError where it is another."""
    before = _read(folder / CONFIG, _Config, say)
    if before is not None:
        check_config(folder, before.config, facts["config"])
    return before is not None


def write_config(folder: pathlib.Path, facts: dict) -> None:
    checksummed.write_checksummed_json(folder / CONFIG, facts, indent=1)


def check_config(folder: pathlib.Path, before: dict, now: dict) -> None:
    """Of a run's config, what it computes. Raises UserError where that is not the same."""
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            raise UserError(
                f"{folder} holds a run with {name} = {before.get(name)}, not {now.get(name)}: "
                "choose another --out, or the config it was started with"
            )


def record_counts(batches: Any) -> list[list]:
    """How many of each pair, in the order of the config."""
    return [[rows.name, len(rows)] for rows in batches.rows]


def check_record_counts(
    folder: pathlib.Path,
    now: Sequence[Sequence],
    said: Sequence[Sequence] | None,
    say: Callable[[str], None],
) -> None:
    """The shuffle depends on how many records there are: a source that grew is another stream.

    said: what a checkpoint says of them, if it does. Raises UserError.
    """
    found = _read(folder / RECORDS, _Records, say)
    before = found.records if found is not None else said or []
    for (pair, count), (_, here) in zip(before, now):
        if count != here:
            raise UserError(
                f"{folder} was trained on {count} records of {pair} and now there are {here}: "
                "batches would be others; restore them, or choose another --out"
            )


def write_record_counts(folder: pathlib.Path, now: Sequence[Sequence]) -> None:
    checksummed.write_checksummed_json(folder / RECORDS, {"records": now})


def previous_run_info(checkpoints: checkpointer.Checkpointer) -> dict[str, Any]:
    """What the newest checkpoint whose facts can be read says of its run. Raises CheckpointError."""
    for step in checkpoints.steps():
        try:
            return checkpoints.meta(step)
        except checkpointer.CorruptCheckpointError:
            continue  # `restore_newest` tells
    raise checkpointer.CorruptCheckpointError(
        f"every checkpoint in {checkpoints.folder} is damaged"
    )
