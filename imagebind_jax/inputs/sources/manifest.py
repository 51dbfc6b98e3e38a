"""A list of samples as a source: JSONL or CSV, one sample a line, its media in files beside it."""

import array
import csv
import dataclasses
import io
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from imagebind_jax.errors import UserError
from imagebind_jax.inputs.decoders import media
from imagebind_jax.inputs.sources.record import (
    MAX_LINE_BYTES,
    MEDIA,
    NUMBERS,
    Record,
    file_stamp,
    json_object,
    normalize_index,
    parse_number,
    read_ranges,
    suggest_modality,
    validate_record,
)

BOM = b"\xef\xbb\xbf"


@dataclasses.dataclass(frozen=True)
class Manifest:
    """A JSONL file (one object a line) or a CSV file (names in its first line) of samples.

    vision, audio, depth, thermal and imu are paths, relative to `root` or else to the manifest's
    folder (vision also a list of paths: frames); text is a text or a list of texts; all other
    fields go into the record as they are. In CSV label is an integer; start, seconds,
    focal_length, baseline and imu_rate are numbers; a field that is empty is left out. An id is
    a text or an integer; without one, it is the number of the line. No field may be given twice.
    UTF-8; no sample longer than 1 MiB.

    A manifest need not be trusted: a path that leads out of the root, also by a link, is a
    `MediaError`. root="/" trusts it: then paths may be absolute.
    """

    path: str | os.PathLike
    root: str | os.PathLike | None = None

    def __post_init__(self):
        object.__setattr__(self, "path", os.fspath(self.path))
        if self.root is not None:
            object.__setattr__(self, "root", os.fspath(self.root))

    def open(self) -> "ManifestRecords":
        """Raises UserError if it cannot be read, or its first sample is not as it should be."""
        path = os.fspath(self.path)
        try:
            return ManifestRecords(path, os.fspath(self.root or os.path.dirname(path) or "."))
        except media.MediaError as error:
            raise UserError(str(error)) from error


class _Index(NamedTuple):
    """Of each sample where it begins, its bytes and the number of its line: 16 bytes of memory."""

    starts: np.ndarray
    sizes: np.ndarray
    lines: np.ndarray


class ManifestRecords(Sequence[Record]):
    """The samples of a manifest, read from it when they are asked for."""

    def __init__(self, path: str, root: str):
        """Raises `MediaError`, as for the first sample."""
        self.path, self.root = path, os.path.realpath(root)
        self._stamp = file_stamp(path)
        with media.open_media(path) as file:
            self._columns, self._index = _index(path, file)
        if not len(self):
            raise media.MediaError(path, "holds no samples")
        if not {*MEDIA, "text"} & self[0].keys():
            wanted = f"{', '.join(MEDIA)} or text"
            raise media.MediaError(
                f"{path}, line {self._index.lines[0]}", f"no field named {wanted}"
            )

    def __len__(self) -> int:
        return len(self._index.starts)

    def __getitem__(self, index):
        place = normalize_index(index, len(self))
        start, size, line = (int(values[place]) for values in self._index)
        [data] = read_ranges(self.path, self._stamp, [(start, size)])
        name = f"{self.path}, line {line}"
        with media.wrap_decode_errors(name):
            fields = json_object(data) if not self._columns else self._row(data, name)
            for key in fields:
                if meant := suggest_modality(key, self._columns or fields):
                    raise media.MediaError(name, f"{key!r} is no modality: did you mean {meant!r}?")
            record = {key: self._value(key, value, name) for key, value in fields.items()}
            return validate_record({"id": line, **record}, name, pathlib.Path)

    def _row(self, data: bytes, name: str) -> dict[str, Any]:
        values, *more = csv.reader(io.StringIO(data.decode(), newline=""), strict=True)
        if more or len(values) != len(self._columns):
            count = len(values) + sum(map(len, more))
            wanted = f"{count} fields, but the first line names {len(self._columns)}"
            raise media.MediaError(name, f"{wanted} (a field with a comma or quote goes in quotes)")
        row: dict[str, Any] = {k: v for k, v in zip(self._columns, values) if k and v}
        for key in (*NUMBERS, "label"):
            if key in row:
                row[key] = parse_number(key, row[key], name)
        return row

    def _value(self, key: str, value: Any, name: str) -> Any:
        if key not in MEDIA:
            return value
        if key == "vision" and isinstance(value, list):
            return [self._file(key, item, name) for item in value]
        return self._file(key, value, name)

    def _file(self, key: str, value: Any, name: str) -> pathlib.Path:
        if not isinstance(value, str) or not value:
            raise media.MediaError(name, f"{key} is {value!r:.80}: expected a path")
        given = pathlib.PurePath(value)
        outside = self.root != "/" and (given.is_absolute() or ".." in given.parts)
        # The real path is what is checked, and then opened: a link on the way may lead anywhere.
        real = os.path.realpath(os.path.join(self.root, value))
        if outside or os.path.commonpath([real, self.root]) != self.root:
            remedy = "give paths relative to it, or another root (root='/' trusts the manifest)"
            raise media.MediaError(name, f"{key} {value!r:.200} leads out of {self.root}: {remedy}")
        return pathlib.Path(real)


def _index(path: str, file: io.BufferedIOBase) -> tuple[list[str], _Index]:
    """A CSV file's columns (of JSONL: none), then starts, sizes and lines of all samples."""
    head = file.read(1 << 16)
    file.seek(len(BOM) if head.startswith(BOM) else 0)
    suffix = os.path.splitext(path)[1].lower()
    is_object = head.removeprefix(BOM).lstrip().startswith(b"{")
    is_csv = suffix == ".csv" or not (is_object or suffix in (".jsonl", ".ndjson", ".json"))
    starts, sizes, lines = array.array("Q"), array.array("I"), array.array("I")
    for start, size, line in _spans(path, file, is_csv):
        starts.append(start)
        sizes.append(size)
        lines.append(line)
    columns = []
    if is_csv and starts:
        file.seek(starts[0])
        columns = _columns(f"{path}, line {lines[0]}", file.read(sizes[0]))
    first = len(columns) > 0  # the line of the names is no sample
    index = np.array(starts, np.uint64), np.array(sizes, np.uint32), np.array(lines, np.uint32)
    return columns, _Index(*(part[first:] for part in index))


def _spans(path: str, file: io.BufferedIOBase, is_csv: bool) -> Iterator[tuple[int, int, int]]:
    """(offset, bytes, line) of everything that is not blank."""
    offset = begin = file.tell()
    quotes = line = first = 0
    while text := file.readline(MAX_LINE_BYTES + 1):
        line += 1
        if begin == offset:
            first = line
        offset += len(text)
        if offset - begin > MAX_LINE_BYTES:
            raise media.MediaError(f"{path}, line {first}", f"longer than {MAX_LINE_BYTES} bytes")
        if is_csv:
            quotes += text.count(b'"')
            if quotes % 2:  # inside a quoted field, of which newlines are a part
                continue
        if offset - begin > len(text) or text.strip():
            yield begin, offset - begin, first
        begin = offset
    if begin != offset:
        raise media.MediaError(f"{path}, line {first}", "a quote is opened here and never closed")


def _columns(name: str, head: bytes) -> list[str]:
    with media.wrap_decode_errors(name):
        columns = [key.strip() for key in next(csv.reader([head.decode()], strict=True))]
        if twice := [key for key in columns if key and columns.count(key) > 1]:
            raise ValueError(f"two columns are named {twice[0]!r}")
        return columns
