"""Embeddings out of files: another system's are measured by the same code, and without a model."""

import os
import pathlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from jaxtyping import Float

from imagebind_jax.errors import UserError, first_line, one_line
from imagebind_jax.evaluation import record_reader
from imagebind_jax.evaluation.benchmark import EvalConfig, EvalInputs
from imagebind_jax.inputs.decoders.media import MediaError, open_media, wrap_decode_errors
from imagebind_jax.inputs.decoders.npy import read_npy
from imagebind_jax.inputs.sources import ArrayRecords, Prepared, Record, Source
from imagebind_jax.inputs.sources.array_records import Shard
from imagebind_jax.inputs.sources.prepared import DatasetInfo
from imagebind_jax.storage.row_file import read_metadata

MAX_WIDTH = 1 << 16  # of an embedding
REMEDY = "--wanted DIR writes what to embed, in order"


class StoredEmbedder:
    """An `Embedder` whose embeddings are files in one folder, named as `ModelEmbedder` names them.

    `<items>.npy` holds float16, 32 or 64 [n, e], a row for each record in order, NaN where there is
    no input; or `<items>.array_record` records {"id", "embedding"} in any order, the embedding a
    list of numbers or the bytes of an .npy. `<name>.classes.npy` has a row for each class, and
    `<name>.texts.npy` one for each sentence. Rows are normalised here.

    Notes and facts are the records' own; where these are not at hand, `<source>.jsonl` and
    `<dataset>.dataset.json` in the same folder. The files may come from anywhere: nothing in them is
    ever run.
    """

    def __init__(
        self,
        config: EvalConfig,
        folder: pathlib.Path,
        tell: Callable[[str], None] = lambda what: None,
    ):
        if not folder.is_dir():
            raise UserError(f"no folder {folder} of embeddings: {REMEDY}")
        self.config, self.tell, self._in = config, tell, folder
        self.resamples, self.seed = config.resamples, config.seed
        self.folder: pathlib.Path | None = None  # nothing is written
        # Without the folder: where the records are at hand, they say what is right, and no file of it.
        self._sources = record_reader.RecordCache(config, None, tell)
        self._asked: dict[str, Any] = {}
        self._parameters: dict[str, str] = {}  # of what a ModelEmbedder made: modality -> digest
        self._notes: dict[str, Sequence[Mapping[str, Any]]] = {}
        self._width: tuple[int, str] | None = None  # and whose it was

    def records(self, source: Source) -> Sequence[Record]:
        return self._sources.records(source)

    def inputs(self, items: EvalInputs) -> tuple[np.ndarray, np.ndarray]:
        return record_reader.load_inputs(self.config, self.records(items.source), items, self.tell)

    def facts(self, source: Source) -> DatasetInfo | None:
        if not isinstance(source, Prepared):
            return None
        try:
            return self._sources.facts(source)
        except UserError as error:
            path = record_reader.dataset_info_path(self._in, source)
            return _decoded(path, error, lambda data: msgspec.json.decode(data, type=DatasetInfo))

    def notes(self, source: Source) -> Sequence[Mapping[str, Any]]:
        try:
            return self._sources.notes(source)
        except UserError as error:
            path = record_reader.annotations_path(self._in, source)
            if path.name not in self._notes:
                self.tell(f"labels and texts are those of {path}: the records are not at hand")
                self._notes[path.name] = _decoded(path, error, record_reader.parse_annotations)
            return self._notes[path.name]

    def embed(self, items: EvalInputs) -> Float[np.ndarray, "n e"]:
        """Raises UserError where the file is missing, not of this form, or has too many NaN rows."""
        record_reader.check_unique_name(self._asked, items.name, items)
        notes = self.notes(items.source)
        path = self._in / f"{items.name}.array_record"
        if path.is_file() and not path.with_suffix(".npy").exists():
            z = _by_id(path, [str(note["id"]) if "id" in note else None for note in notes])
        else:
            z = self._table(items.name, len(notes), f"the {items.modality} of each record")
        z = self._unit(z, items.name)
        bad = np.flatnonzero(np.isnan(z[:, 0])).tolist()
        why = {row: f"row {row} is not finite" for row in bad}
        record_reader.check_unusable_fraction(items, len(z), self.config.unusable, why)
        return z

    def texts(self, name: str, texts: Sequence[str]) -> Float[np.ndarray, "n e"]:
        record_reader.check_unique_name(self._asked, f"{name}.texts", list(texts))
        return self._whole(f"{name}.texts", len(texts), "each sentence")

    def classes(
        self, name: str, names: Sequence[str], prompts: Sequence[str]
    ) -> Float[np.ndarray, "names e"]:
        record_reader.check_unique_name(
            self._asked, f"{name}.classes", (list(names), list(prompts))
        )
        what = f"each class (the mean of its {len(prompts)} prompts' unit vectors)"
        return self._whole(f"{name}.classes", len(names), what)

    def _whole(self, name: str, n: int, what: str) -> Float[np.ndarray, "n e"]:
        z = self._unit(self._table(name, n, what), name)
        if np.isnan(z).any():
            row = int(np.flatnonzero(np.isnan(z[:, 0]))[0])
            raise UserError(f"{self._in / name}.npy: row {row} is not finite, or zero")
        return z

    def _table(self, name: str, n: int, what: str) -> np.ndarray:
        path = self._in / f"{name}.npy"
        if not path.is_file():
            raise UserError(
                f"no {path}: it must hold the embedding of {what}, in order, as numbers [{n}, width]; "
                f"{REMEDY}"
            )
        self._check_own(path)
        found = read_npy(path, min(os.stat(path).st_size, n * MAX_WIDTH * 8))
        if found.ndim != 2 or len(found) != n or not 1 <= found.shape[1] <= MAX_WIDTH:
            raise UserError(
                f"{path} is {list(found.shape)}, and should be [{n}, width]: a row for {what}, in "
                f"order; {REMEDY}"
            )
        if found.dtype not in (np.float16, np.float32, np.float64):
            raise UserError(f"{path} is {found.dtype}: expected float16, float32 or float64")
        return found

    def _check_own(self, path: pathlib.Path) -> None:
        """Refuses what a `ModelEmbedder` did not finish, or what is not as it or one model left it."""
        try:
            note = read_metadata(path.with_suffix(".json"))
        except (OSError, ValueError):
            return  # another system's
        if note.done < note.rows:
            raise UserError(
                f"{path} has {note.done} of {note.rows} rows: run the evaluation that makes it again, "
                "which goes on from there"
            )
        with open_media(path) as file:
            file.seek(-4 * note.rows * note.width, os.SEEK_END)
            if zlib.crc32(file.read()) != note.crc32:
                raise UserError(
                    f"{path} is not as it was written: remove {path.stem}.json if it is yours"
                )
        modality = next(iter(note.of.get("encoder", {})), "").partition(".")[0]
        parameters = str(note.of.get("parameters"))
        if self._parameters.setdefault(modality, parameters) != parameters:
            raise UserError(f"{path} is of other weights than the files of {modality} before it")

    def _unit(self, z: np.ndarray, name: str) -> Float[np.ndarray, "n e"]:
        """Rows on the unit sphere; of NaN where anything in them is not finite, or all is zero."""
        width, first = self._width = self._width or (z.shape[1], name)
        if z.shape[1] != width:
            raise UserError(
                f"{name} in {self._in} is {z.shape[1]} wide, and {first} {width}: all embeddings "
                "must be of one space"
            )
        z = z.astype(np.float64)
        with np.errstate(all="ignore"):  # of what is not finite, which gives no number
            z /= np.maximum(np.abs(z).max(axis=-1, keepdims=True), 1e-300)  # no length overflows
            z = (z / np.linalg.norm(z, axis=-1, keepdims=True)).astype(np.float32)
        z[~np.isfinite(z).all(axis=-1)] = np.nan
        return z


def _decoded(path: pathlib.Path, missing: UserError, decode: Callable[[bytes], Any]) -> Any:
    """What a file holds that stands in for records that are not at hand."""
    if not path.is_file():
        raise UserError(f"{missing}; nor is there {path} in its place") from missing
    try:
        with open_media(path) as file:
            return decode(file.read())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({first_line(error)})") from error


class _Row(msgspec.Struct):
    embedding: list[float] | bytes
    id: int | str | None = None


def _by_id(path: pathlib.Path, ids: Sequence[str | None]) -> np.ndarray:
    """Rows [n, e] in the order of ids, NaN of those that are not there; in the file's order without."""
    with wrap_decode_errors(path):
        from array_record.python.array_record_module import ArrayRecordReader

        count = ArrayRecordReader(str(path)).num_records()
    numbered = None in ids
    if not 0 < count <= len(ids) or numbered and count != len(ids):
        raise UserError(f"{path} has {count} records, and {len(ids)} are wanted; {REMEDY}")
    records = ArrayRecords(path.parent, [Shard(path.name, count, "")])
    rows = {each: row for row, each in enumerate(ids)}
    z, seen = np.zeros((len(ids), 0)), set[int]()
    for index in range(count):
        name, vector = _vector(path, index, records[index])
        row = index if numbered else rows.get(name, -1)
        if row < 0 or row in seen:
            wrong = "no record has that id" if row < 0 else "that id comes twice"
            raise UserError(f"{path}, record {index}: {one_line(str(name), 100)!r}: {wrong}")
        if not seen:
            z = np.full((len(ids), len(vector)), np.nan)
        if len(vector) != z.shape[1]:
            raise UserError(
                f"{path}, record {index}: {len(vector)} numbers, and those before {z.shape[1]}"
            )
        z[row] = vector
        seen.add(row)
    return z


def _vector(path: pathlib.Path, index: int, record: Record) -> tuple[str | None, np.ndarray]:
    name = f"{path}, record {index}"
    try:
        row = msgspec.convert(dict(record), _Row)
    except msgspec.ValidationError as error:
        raise UserError(f'{name} is not {{"id", "embedding"}}: {first_line(error)}') from error
    if isinstance(row.embedding, bytes):
        try:
            vector = read_npy(row.embedding, MAX_WIDTH * 8)
        except MediaError as error:
            raise MediaError(name, error.reason) from error
    else:
        vector = np.array(row.embedding, np.float64)
    if vector.ndim != 1 or not 1 <= len(vector) <= MAX_WIDTH:
        raise MediaError(name, f"an embedding of shape {list(vector.shape)}: expected [width]")
    return None if row.id is None else str(row.id), vector
