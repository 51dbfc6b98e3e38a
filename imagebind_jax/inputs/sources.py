"""Sources of records: random access to `dict`s whose media are still encoded."""

import concurrent.futures.process
import ctypes
import dataclasses
import hashlib
import inspect
import json
import multiprocessing
import os
import pathlib
import shutil
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import msgspec

from imagebind_jax import files
from imagebind_jax.errors import UserError

Record = Mapping[str, Any]
CACHE_VARIABLE = "IMAGEBIND_JAX_CACHE"
SHARD = 128  # records; the unit of work of one process


@runtime_checkable
class Source(Protocol):
    """What a config names: something that can be opened to records by index."""

    def open(self) -> Sequence[Record]: ...


def cache_folder() -> pathlib.Path:
    """Where made data is kept: $IMAGEBIND_JAX_CACHE, or ~/.cache/imagebind_jax."""
    folder = os.environ.get(CACHE_VARIABLE)
    return pathlib.Path(folder or "~/.cache/imagebind_jax").expanduser()


class ArrayRecords(Sequence[Record]):
    """The records of a folder written by `write_records`, in order."""

    def __init__(self, folder: str | os.PathLike):
        """Raises ValueError, saying what is wrong, unless every byte is as it was written."""
        from grain.sources import ArrayRecordDataSource

        self.folder = pathlib.Path(folder)
        self.info = verify(self.folder)
        paths = [str(self.folder / shard["file"]) for shard in self.info["shards"]]
        self._source = ArrayRecordDataSource(paths)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(index)  # which ends a loop over the records
        return msgspec.msgpack.decode(self._source[index])

    def __repr__(self):
        return f"ArrayRecords({str(self.folder)!r}, {len(self)} records)"


def verify(folder: pathlib.Path) -> dict[str, Any]:
    """The folder's dataset.json, its shards' sizes and SHA-256 checked. Raises ValueError."""
    try:
        info = json.loads((folder / "dataset.json").read_text())
        sums = {shard["file"]: shard["sha256"] for shard in info["shards"]}
        missing = info["count"] - sum(shard["count"] for shard in info["shards"])
        broken = [file for file, wanted in sums.items() if _sha256(folder / file) != wanted]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder} is incomplete: {error}") from error
    if missing:
        raise ValueError(f"{folder} is incomplete: {missing} records are missing")
    if broken:
        raise ValueError(f"{folder / broken[0]} is not what was written")
    return info


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
    dataset.json. One process at a time: see `Cached`. Raises UserError where it cannot be written.
    """
    partial = folder.with_name(f"{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
        partial.mkdir(parents=True)
        spans = [(start, min(start + SHARD, count)) for start in range(0, count, SHARD)]
        jobs = [(partial / f"{i:05d}.array_record", make, *span) for i, span in enumerate(spans)]
        shards, done = [], 0
        for shard in _in_processes(jobs, workers or os.cpu_count() or 1):
            shards.append(shard)
            done += shard["count"]
            progress(done)
        info = {**facts, "count": count, "shards": sorted(shards, key=lambda s: s["file"])}
        (partial / "dataset.json").write_text(json.dumps(info, indent=1))
        if folder.exists():  # broken: `verify` has said so
            shutil.rmtree(folder)
        partial.rename(folder)
    except OSError as error:
        raise UserError(
            f"cannot write {folder}: {error.strerror or error}; "
            f"choose another place with ${CACHE_VARIABLE} or --cache"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _in_processes(jobs, workers):
    if workers == 1 or len(jobs) == 1:
        yield from (_write_shard(*job) for job in jobs)
        return
    # Spawned, not forked: JAX's threads may already run in this process.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(
        min(workers, len(jobs)), context, initializer=_die_with_parent, initargs=(os.getpid(),)
    ) as pool:
        futures = [pool.submit(_write_shard, *job) for job in jobs]
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


def _write_shard(path: pathlib.Path, make, start: int, stop: int) -> dict[str, Any]:
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(path), "group_size:1")  # any other size is slow at random access
    try:
        for index in range(start, stop):
            writer.write(msgspec.msgpack.encode(make(index)))
    finally:
        writer.close()
    return {"file": path.name, "count": stop - start, "sha256": _sha256(path)}


def _sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _die_with_parent(parent: int) -> None:
    """A killed parent must not leave workers behind."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent tells us
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # it died before we asked
            os._exit(1)


@dataclasses.dataclass(frozen=True)
class Cached:
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
        files.check_writable(
            self.folder.parent, f"choose another place with ${CACHE_VARIABLE} or --cache"
        )
        with files.locked(self.folder.with_name(f"{self.folder.name}.lock")):
            try:
                return ArrayRecords(self.folder)
            except ValueError:
                facts = {"make": repr(self.make)}
                write_records(self.folder, self.make, self.count, facts=facts, progress=progress)
                return ArrayRecords(self.folder)
