"""From an official download to records: `imagebind-jax prepare`, which goes on where it was stopped."""

import contextlib
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Sequence

from imagebind_jax.errors import UserError
from imagebind_jax.inputs import datasets
from imagebind_jax.inputs.datasets import Dataset, DatasetListing
from imagebind_jax.inputs.decoders import media
from imagebind_jax.inputs.sources.array_records import DATASET_JSON
from imagebind_jax.inputs.sources.cached import run_in_processes
from imagebind_jax.inputs.sources.prepared import DatasetInfo, SplitInfo, encode_dataset_info
from imagebind_jax.prepare import journal, resume, shards
from imagebind_jax.prepare.journal import FinishedShard
from imagebind_jax.prepare.resume import PlannedShards
from imagebind_jax.prepare.shards import ShardPlan
from imagebind_jax.prepare.verify import verify_dataset
from imagebind_jax.runtime.progress import Progress
from imagebind_jax.storage import atomic, lock

__all__ = ["prepare_dataset", "verify_dataset"]

LOCK, DOWNLOAD = ".lock", "download"
PROBE = ".writable"  # of atomic.check_writable in another process
SHARD = re.compile(r".+-\d{5}\.array_record(\.partial)?")
SPARE = 64 << 20  # bytes that are left free


def prepare_dataset(
    name: str,
    download: str | os.PathLike | None,
    out: str | os.PathLike,
    *,
    splits: Sequence[str] = (),
    workers: int | None = None,
    allow_missing: float = 0.01,
    say: Callable[[str], None] = print,
) -> DatasetInfo:
    """Writes the records of a dataset's download into the folder `out`; returns what is in it.

    download: None to have a small one generated, in `out`/download. splits: all by default; others
    can be added later. allow_missing: the share of rows that may be left out since their files
    cannot be read. A preparation that was stopped, in whatever way, goes on with the shards that
    are not finished. Rows, code or sizes of files that changed are noticed; a file of the same size
    is not: times are not compared, as a copy has others. A link that leads out of the download
    counts as a file that cannot be read. Raises UserError.
    """
    if not 0 <= allow_missing <= 1:
        raise UserError(f"--allow-missing is a share, 0 to 1, not {allow_missing}")
    dataset, folder = datasets.get_dataset(name), pathlib.Path(out)
    if download is not None and not pathlib.Path(download).is_dir():
        raise UserError(f"no folder {download}: get {dataset.title} from {dataset.homepage}")
    _claim(folder)
    busy = f"another process prepares {folder}: wait for it, or choose another --out"
    with lock.file_lock(folder / LOCK, busy):
        source = _sample(name, folder) if download is None else pathlib.Path(download)
        listing, planned = _plan(dataset, source, splits)
        finished = resume.previous_dataset_info(folder, dataset, planned)
        done = resume.reusable_shards(folder, finished, planned, say)
        todo = [part for split in planned.values() for part in split if part.file not in done]
        if finished and not todo and planned.keys() <= finished.splits.keys():
            finished = _refresh(
                folder, finished, _dataset_info(dataset, listing, planned, done, finished)
            )
            say(f"{folder} is prepared already")
            _tidy(folder, planned, finished)
            return finished
        _check_space(folder, todo)
        try:
            _write(name, folder, planned, done, workers, allow_missing)
            facts = _dataset_info(dataset, listing, planned, done, finished)
            journal.write_durably(folder / DATASET_JSON, encode_dataset_info(facts))
            _tidy(folder, planned, facts)
        except OSError as error:
            raise UserError(
                f"cannot write to {folder}: {error.strerror or error}: mend that, and the same "
                "command goes on"
            ) from error
    for note in listing.notes:
        say(f"note: {note}")
    for split in planned:
        found = facts.splits[split]
        say(f"{split}: {found.count} records, {found.missing} missing from the download, "
            f"{found.unreadable} unreadable")  # fmt: skip
    say(f"{folder} is prepared; licence: {dataset.licence}")
    return facts


def _claim(folder: pathlib.Path) -> None:
    """Makes it, unless it holds anything that is not a preparation."""
    atomic.check_writable(folder, "choose another --out")
    ours = (folder / LOCK).exists() or (folder / DATASET_JSON).exists()
    if not ours and any(path.name != PROBE for path in folder.iterdir()):
        raise UserError(f"{folder} is not empty: choose a new folder with --out")


def _sample(name: str, folder: pathlib.Path) -> pathlib.Path:
    download, partial = folder / DOWNLOAD, folder / f"{DOWNLOAD}.partial"
    if not download.exists():
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        datasets.write_sample(name, partial)
        partial.rename(download)
    return download


def _plan(
    dataset: Dataset, download: pathlib.Path, splits: Sequence[str]
) -> tuple[DatasetListing, PlannedShards]:
    try:
        listing = dataset.listing(download)
    except media.MediaError as error:
        raise UserError(str(error)) from error
    if unknown := [split for split in splits if split not in listing.splits]:
        have = ", ".join(listing.splits)
        raise UserError(f"{download} has no split {unknown[0]!r}: choose from {have}")
    planned = {}
    for split in splits or listing.splits:
        try:
            planned[split] = shards.plan_shards(dataset, split, listing.splits[split], download)
        except ValueError as error:
            raise UserError(f"{download}: {error}") from error
    if not any(planned.values()):
        raise UserError(f"{download} holds no {' and no '.join(planned) or 'splits'}")
    return listing, planned


def _check_space(folder: pathlib.Path, todo: Sequence[ShardPlan]) -> None:
    needed, free = sum(part.size for part in todo) + SPARE, shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{folder} needs {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free: make room, "
            "or choose another --out"
        )


def _write(
    name: str,
    folder: pathlib.Path,
    planned: PlannedShards,
    done: dict[str, FinishedShard],
    workers: int | None,
    allow_missing: float,
) -> None:
    """Makes all parts that are not done, and enters them there."""
    (folder / journal.FOLDER).mkdir(exist_ok=True)
    for path in folder.glob("*.partial"):
        if SHARD.fullmatch(path.name):
            path.unlink()  # of a process that was killed
    every = [part for split in planned.values() for part in split]
    todo = [part for part in every if part.file not in done]
    rows = {part.file: len(part.rows) for part in every}
    search = list(datasets.search_path())
    jobs = [(name, search, part, folder) for part in todo]
    # Processes take a second to start, in which one alone has done a few shards.
    workers = workers or min(os.cpu_count() or 1, 1 + len(jobs) // 4)
    limit = allow_missing * sum(rows.values())
    lost = sum(len(d.unreadable) for d in done.values())
    ready = sum(rows[file] for file in done)
    with (
        Progress(f"prepare {name}", sum(rows.values())) as progress,
        contextlib.closing(run_in_processes(shards.write_and_record_shard, jobs, workers)) as made,
    ):
        progress.begin(ready)
        while lost <= limit and (result := next(made, None)) is not None:
            done[result.shard.file] = result
            lost += len(result.unreadable)
            ready += rows[result.shard.file]
            progress.update(ready, f"{lost} unreadable" if lost else "")
    resume.write_unreadable(folder, planned.keys(), done)
    if lost > limit:
        for entry in journal.finished_shards(folder).values():
            if entry.unreadable:
                journal.drop_shard(folder, entry)  # their files may be mended before the next try
        worst = next(d.unreadable[0] for d in done.values() if d.unreadable)
        raise UserError(
            f"{lost} of {sum(rows.values())} rows cannot be read, more than --allow-missing "
            f"{allow_missing:g}; {worst.split} {worst.id}: {worst.reason}; "
            f"{folder / resume.UNREADABLE} names those found so far"
        )


def _dataset_info(
    dataset: Dataset,
    listing: DatasetListing,
    planned: PlannedShards,
    done: dict[str, FinishedShard],
    finished: DatasetInfo | None,
) -> DatasetInfo:
    splits = dict(finished.splits) if finished else {}
    for split, part_list in planned.items():
        made = [done[part.file] for part in part_list]
        splits[split] = SplitInfo(
            count=sum(d.shard.count for d in made),
            shards=[d.shard for d in made],
            missing=listing.missing.get(split, 0),
            unreadable=sum(len(d.unreadable) for d in made),
        )
    return DatasetInfo(
        name=dataset.name,
        title=dataset.title,
        licence=dataset.licence,
        homepage=dataset.homepage,
        modalities=list(dataset.modalities),
        classes=list(listing.classes),
        prompts=list(listing.prompts),
        notes=list(listing.notes),
        names={name: list(others) for name, others in listing.names.items()},
        splits=splits,
    )


def _refresh(folder: pathlib.Path, before: DatasetInfo, facts: DatasetInfo) -> DatasetInfo:
    """Writes what is said of the same shards, where another version of the dataset says more."""
    if facts != before:
        try:
            journal.write_durably(folder / DATASET_JSON, encode_dataset_info(facts))
        except OSError as error:
            raise UserError(f"cannot write to {folder}: {error.strerror or error}") from error
    return facts


def _tidy(folder: pathlib.Path, planned: PlannedShards, facts: DatasetInfo) -> None:
    """Removes what a finished preparation has no use for; other splits may have been begun."""
    kept = {shard.file for split in facts.splits.values() for shard in split.shards}
    for entry in journal.finished_shards(folder).values():
        if entry.split in planned:
            journal.drop_shard(folder, entry)
        else:
            kept.add(entry.shard.file)
    for path in folder.iterdir():
        if SHARD.fullmatch(path.name) and path.name not in kept:
            path.unlink()
    with contextlib.suppress(OSError):
        (folder / journal.FOLDER).rmdir()  # if it is empty
