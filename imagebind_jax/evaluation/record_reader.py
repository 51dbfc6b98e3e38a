"""The records of an evaluation: found, opened once, their small fields, and their model inputs."""

import concurrent.futures
import dataclasses
import hashlib
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from imagebind_jax.errors import UserError
from imagebind_jax.evaluation.benchmark import UNUSABLE_KEY, EvalConfig, EvalInputs, source_name
from imagebind_jax.inputs.decoders.media import MediaError
from imagebind_jax.inputs.pipeline import batches
from imagebind_jax.inputs.sources import Prepared, Record, Source, prepared
from imagebind_jax.inputs.sources.fingerprint import source_fingerprint
from imagebind_jax.inputs.sources.prepared import DatasetInfo
from imagebind_jax.inputs.sources.record import MEDIA
from imagebind_jax.runtime.progress import RateEstimator
from imagebind_jax.storage import atomic
from imagebind_jax.storage.fingerprint import json_sha256
from imagebind_jax.storage.row_file import read_regular_file, write_durably

ProgressFn = Callable[[str], None]
MAX_INPUT_BYTES = 16 << 30  # bytes of all inputs at once, for what trains an encoder itself


def resolve_source(source: Source, records: str | os.PathLike) -> Source:
    """The source itself; in place of a Prepared with a relative folder, the one in `records`."""
    if isinstance(source, Prepared):
        return dataclasses.replace(source, folder=os.path.join(records, source.folder))
    return source


def check_unique_name(known: dict[str, Any], name: str, asked: Any) -> None:
    """Raises UserError where one name, and so one file, is wanted for two different things."""
    if known.setdefault(name, asked) != asked:
        raise UserError(f"two different things are named {name}: give one another name")


class RecordCache:
    """What is read of the records, once each.

    folder: where notes and facts are kept, so that embeddings in it can be measured without them.
    """

    def __init__(
        self,
        config: EvalConfig,
        folder: pathlib.Path | None,
        tell: ProgressFn,
        writes: bool = True,
    ):
        self.config, self.folder, self.tell, self._writes = config, folder, tell, writes
        self._opened: list[tuple[Source, Sequence[Record]]] = []
        self._notes: list[tuple[Source, list[dict[str, Any]]]] = []
        self._identities: list[tuple[Source, Any]] = []

    def resolved(self, source: Source) -> Source:
        return resolve_source(source, self.config.records)

    def records(self, source: Source) -> Sequence[Record]:
        """Raises UserError where they cannot be opened, or there are none."""
        for known, records in self._opened:
            if known == source:
                return records
        records = self.resolved(source).open()
        if not len(records):
            raise UserError(f"{source} has no records to evaluate on")
        self._opened.append((source, records))
        return records

    def facts(self, source: Source) -> DatasetInfo | None:
        if not isinstance(source, Prepared):
            return None
        found = prepared.read_dataset_info(os.path.join(self.config.records, source.folder))
        if self.folder is not None and self._writes:
            write_durably(dataset_info_path(self.folder, source), msgspec.json.encode(found))
        return found

    def notes(self, source: Source) -> Sequence[Mapping[str, Any]]:
        """What JSON can hold of every record without its media; of one that cannot be read, why not."""
        for known, notes in self._notes:
            if known == source:
                return notes
        self.facts(source)  # kept beside them
        notes = self._kept(source) or self._read(source)
        self._notes.append((source, notes))
        return notes

    def _read(self, source: Source) -> list[dict[str, Any]]:
        records = self.records(source)
        name = type(source).__name__ if self.folder is None else source_name(source)
        notes: list[dict[str, Any]] = []
        seen = ThrottledProgress(f"notes of {name}", len(records), self.tell)
        with concurrent.futures.ThreadPoolExecutor(self.config.threads) as pool:
            for note in pool.map(lambda index: _note(records, index), range(len(records))):
                notes.append(note)
                seen(len(notes))
        if self.folder is not None and self._writes:
            path = annotations_path(self.folder, source)
            data = b"".join(msgspec.json.encode(note) + b"\n" for note in notes)
            write_durably(path, data)
            said = {"of": self._of(source), "sha256": hashlib.sha256(data).hexdigest()}
            write_durably(_said_path(path), msgspec.json.encode(said))
        return notes

    def identity(self, source: Source) -> Any:
        """Found once: it may take reading all records."""
        for known, found in self._identities:
            if known == source:
                return found
        found = source_fingerprint(self.resolved(source))
        self._identities.append((source, found))
        return found

    def _of(self, source: Source) -> str:
        return json_sha256(self.identity(source))

    def _kept(self, source: Source) -> list[dict[str, Any]] | None:
        """Those of a run before, if they are of the same records and whole."""
        if self.folder is None:
            return None
        path = annotations_path(self.folder, source)
        try:
            said = msgspec.json.decode(read_regular_file(_said_path(path)), type=dict[str, str])
            if said != {"of": self._of(source), "sha256": atomic.sha256(path)}:
                return None
            return parse_annotations(path.read_bytes())
        except (OSError, ValueError):
            return None


def _note(records: Sequence[Record], index: int) -> dict[str, Any]:
    try:
        record = records[index]
    except MediaError as error:
        return {UNUSABLE_KEY: str(error)}
    small = {
        key: value
        for key, value in record.items()
        if key not in MEDIA and not isinstance(value, (bytes, np.ndarray))
    }
    return msgspec.json.decode(msgspec.json.encode(small, enc_hook=_plain))


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else repr(value)


def annotations_path(folder: pathlib.Path, source: Source) -> pathlib.Path:
    return folder / f"{source_name(source)}.jsonl"


def _said_path(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(f"{path.name}.json")


def dataset_info_path(folder: pathlib.Path, source: Prepared) -> pathlib.Path:
    return folder / f"{pathlib.PurePath(source.folder).name}.dataset.json"


def parse_annotations(data: bytes) -> list[dict[str, Any]]:
    """Raises MsgspecError where it is not a JSON object a line."""
    return [msgspec.json.decode(line, type=dict[str, Any]) for line in data.splitlines()]


def check_unusable_fraction(
    items: EvalInputs, total: int, allowed: float, unusable: Mapping[int, str]
) -> None:
    """Raises UserError where more than the allowed share of the records is unusable: row -> why."""
    if items.optional or len(unusable) <= allowed * total:
        return
    first = "; ".join(unusable[row] for row in list(unusable)[:3])
    raise UserError(
        f"{items.name}: {len(unusable)} of {total} records cannot be used, more than {allowed:.1%}: "
        f"{first}. Mend or remove them, or allow more with --unusable"
    )


def load_inputs(
    config: EvalConfig, records: Sequence[Record], items: EvalInputs, tell: ProgressFn
) -> tuple[np.ndarray, np.ndarray]:
    """(all inputs [n, ...], which of them are usable [n]).

    Raises UserError where their shapes differ, too many cannot be made, or all would be over 16 GB.
    """
    n = len(records)
    bad: dict[int, str] = {}
    made, usable = np.zeros((n, 0)), np.zeros(n, bool)
    seen = ThrottledProgress(items.name, n, tell)
    for row, (x, why) in enumerate(stream_inputs(config, records, items)):
        if x is None:
            bad[row] = why
            check_unusable_fraction(items, n, config.unusable, bad)
        else:
            if not usable.any():
                if n * x.nbytes > MAX_INPUT_BYTES:
                    raise UserError(
                        f"{items.name}: {n} inputs of {list(x.shape)} {x.dtype} would take "
                        f"{n * x.nbytes / 1e9:.0f} GB, more than {MAX_INPUT_BYTES / 1e9:.0f}: take "
                        "smaller inputs, or fewer records"
                    )
                made = np.zeros((n, *x.shape), x.dtype)
            if x.shape != made.shape[1:]:
                raise UserError(
                    f"{items.name}: record {row} is {list(x.shape)}, and those before it "
                    f"{list(made.shape[1:])}: choose a transform that gives one shape"
                )
            made[row], usable[row] = x, True
        seen(row + 1)
    return made, usable


def stream_inputs(
    config: EvalConfig, records: Sequence[Record], items: EvalInputs, start: int = 0
) -> Iterator[tuple[np.ndarray | None, str]]:
    """Each record's input, or why there is none, decoded ahead as the config says."""
    return batches.iterate_inputs(
        records,
        items.transform,
        items.modality,
        items.name,
        start=start,
        threads=config.threads,
        workers=config.workers,
        patience=config.patience,
    )


def fill_prompts(prompts: Sequence[str], name: str) -> list[str]:
    """The prompts with the name for `{}`; other braces, which files may hold, mean nothing."""
    return [prompt.replace("{}", name) for prompt in prompts]


class ThrottledProgress:
    """Tells now and then how far something is, how fast it goes and how long it will take."""

    def __init__(self, what: str, total: int, tell: ProgressFn, start: int = 0):
        self._what, self._total, self._tell = what, total, tell
        self._pace, self._last = RateEstimator(start), time.monotonic()
        tell(f"{what} {start}/{total}")

    def __call__(self, done: int) -> None:
        now = time.monotonic()
        if now - self._last < 1:
            return
        self._last = now
        self._tell(f"{self._what} {done}/{self._total}{self._pace(done, self._total)}")
