"""Records made by parallel processes, into a folder that appears whole or not at all."""

import concurrent.futures.process
import dataclasses
import functools
import hashlib
import inspect
import json
import multiprocessing
import os
import pathlib
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import msgspec

from imagebind_jax.errors import UserError
from imagebind_jax.inputs.sources.array_records import (
    DATASET_JSON,
    ArrayRecords,
    Shard,
    write_shard,
)
from imagebind_jax.inputs.sources.record import Record
from imagebind_jax.runtime.progress import Progress
from imagebind_jax.runtime.worker_process import die_with_parent
from imagebind_jax.storage import atomic, lock
from imagebind_jax.storage.cache_dir import CACHE_REMEDY, cache_folder

SHARD = 128  # records; the unit of work of one process


@dataclasses.dataclass(frozen=True)
class CachedSource:
    """Records that are made once and kept in the cache folder; a broken copy is made again.

    `make` is a frozen dataclass, called with an index; it, the code of its package and `count`
    name the folder.
    """

    make: Callable[[int], Record]
    count: int

    @property
    def folder(self) -> pathlib.Path:
        name = f"{type(self.make).__name__.lower()}-{self.count}"
        key = hashlib.sha256(repr((self.make, self.count)).encode())
        for path in sorted(pathlib.Path(inspect.getfile(type(self.make))).parent.glob("*.py")):
            key.update(path.read_bytes())  # records made by other code are other records
        return cache_folder() / f"{name}-{key.hexdigest()[:16]}"

    def open(self, progress: Callable[[int], None] = lambda done: None) -> ArrayRecords:
        """Makes the records if they are not there; `progress(done)` while it does."""
        folder = self.folder  # once: it names the code, which somebody may be editing
        atomic.check_writable(folder.parent, CACHE_REMEDY)
        with lock.file_lock(folder.with_name(f"{folder.name}.lock")):
            try:
                return ArrayRecords(folder)
            except ValueError:
                facts = {"make": repr(self.make)}
                write_records(folder, self.make, self.count, facts=facts, progress=progress)
                return ArrayRecords(folder)


def write_records(
    folder: pathlib.Path,
    make: Callable[[int], Record],
    count: int,
    *,
    facts: Mapping[str, Any],
    progress: Callable[[int], None] = lambda done: None,
    workers: int | None = None,
) -> None:
    """Makes records 0..count-1 in parallel processes and puts the finished folder in place.

    `make` must be picklable. The folder appears whole or not at all; `facts` goes into its
    dataset.json. One process at a time: see `CachedSource`. Raises UserError where it cannot be written.
    """
    with atomic.atomic_dir(folder, CACHE_REMEDY) as partial:
        spans = [range(start, min(start + SHARD, count)) for start in range(0, count, SHARD)]
        jobs = [(partial / f"{i:05d}.array_record", make, span) for i, span in enumerate(spans)]
        shards, done = [], 0
        for shard in run_in_processes(_write, jobs, workers or os.cpu_count() or 1):
            shards.append(msgspec.structs.asdict(shard))
            done += shard.count
            progress(done)
        info = {**facts, "count": count, "shards": sorted(shards, key=lambda s: s["file"])}
        (partial / DATASET_JSON).write_text(json.dumps(info, indent=1))


def _write(path: pathlib.Path, make: Callable[[int], Record], span: range) -> Shard:
    return write_shard(path, (make(index) for index in span))


def run_in_processes(
    function: Callable[..., Any], jobs: Sequence[tuple], workers: int
) -> Generator[Any, None, None]:
    """function(*job) of each job, in the order in which they are done; here, if one will do.

    No process outlives this one. Raises what the first job to fail raised: the others that run are
    waited for, and those that do not are left undone. So it is when the iterator is closed.
    """
    if workers == 1 or len(jobs) <= 1:
        yield from (function(*job) for job in jobs)
        return
    # Spawned, not forked: JAX's threads may already run in this process.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(
        min(workers, len(jobs)), context, initializer=die_with_parent, initargs=(os.getpid(),)
    ) as pool:
        futures = [pool.submit(function, *job) for job in jobs]
        try:
            yield from (future.result() for future in concurrent.futures.as_completed(futures))
        except concurrent.futures.process.BrokenProcessPool as error:
            raise UserError(
                "the processes that make records could not start or were killed; a script must "
                "call this below `if __name__ == '__main__':`, since they import it again"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def materialize(sources: Sequence[CachedSource]) -> None:
    """Makes every record that is not in the cache, with one progress bar."""
    total, done = sum(source.count for source in sources), 0
    if not total:
        return
    with Progress("render", total) as progress:
        for source in sources:
            source.open(functools.partial(_advance, progress, done))
            done += source.count
        progress.update(done)


def _advance(progress: Progress, before: int, done: int) -> None:
    progress.update(before + done)
