"""What a record and a source of records are, and the rules for fields that come from outside."""

import functools
import json
import math
import operator
import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import msgspec

from imagebind_jax.errors import UserError
from imagebind_jax.inputs.decoders import media

Record = Mapping[str, Any]
MEDIA = ("vision", "audio", "depth", "thermal", "imu")  # fields that hold files or their bytes
NUMBERS = ("start", "seconds", "focal_length", "baseline", "imu_rate")
LARGEST = 1 << 30  # bytes of a medium that is held whole in a record
MAX_LINE_BYTES = 1 << 20  # bytes of a text, a line or a JSON object


@runtime_checkable
class Source(Protocol):
    """What a config names: something that can be opened to records by index.

    What `open` returns can be pickled, and read by many threads. A record that cannot be read is a
    `media.MediaError`; a source that cannot be opened a `UserError`.
    """

    def open(self) -> Sequence[Record]: ...


def normalize_index(index: Any, count: int) -> int:
    """An index of `count` records as an int. Raises IndexError, which ends a loop over them."""
    place = operator.index(index)
    if not 0 <= place < count:
        raise IndexError(index)
    return place


def validate_record(record: dict[str, Any], name: str, medium: type = bytes) -> dict[str, Any]:
    """The record, if its fields are what transforms expect. Raises `MediaError`, naming `name`.

    Media must be of type `medium`, so that no text out of a file is ever taken for a path.
    """
    for key, value in record.items():
        if key in MEDIA:
            frames = value if key == "vision" and isinstance(value, list) and value else [value]
            good = all(isinstance(frame, medium) for frame in frames)
        elif key == "text":
            lines = value if isinstance(value, list) and value else [value]
            good = all(isinstance(line, str) for line in lines)
        elif key == "label":
            numbers = value if isinstance(value, list) else [value]
            good = all(type(number) is int for number in numbers)
        elif key == "id":
            good = type(value) in (int, str)
        elif key in NUMBERS:
            good = type(value) in (int, float) and math.isfinite(value)
        else:
            good = key != "view"  # which the pipeline puts there
        if not good:
            raise media.MediaError(name, f"{key} is {_short(value)}: expected {_expected(key)}")
    return record


def parse_number(key: str, text: str, name: str) -> int | float:
    """The number that a field in NUMBERS, or "label", has as text. Raises `MediaError`."""
    try:
        return int(text) if key == "label" else float(text)
    except ValueError:
        wrong = f"{key} is {_short(text)}: expected {_expected(key)}"
        raise media.MediaError(name, wrong) from None


def json_object(data: bytes) -> dict[str, Any]:
    """The fields of a JSON object in UTF-8, without those that are null. Raises ValueError."""
    found = msgspec.json.decode(data.decode())
    if not isinstance(found, dict):
        raise ValueError('not a JSON object: expected {"vision": "a.jpg", ...}')
    json.loads(data, object_pairs_hook=_unique)
    return {key: value for key, value in found.items() if value is not None}


def _unique(pairs: list[tuple[str, Any]]) -> None:
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            raise ValueError(f"{_short(key)} is given twice")
        seen.add(key)


def check_fields(fields: Collection[str]) -> None:
    """Raises UserError where a field's name is nearly, but not, that of a modality."""
    for key in fields:
        if meant := suggest_modality(key, fields):
            raise UserError(f"{key!r} is no modality: did you mean {meant!r}?")


def suggest_modality(key: str, fields: Collection[str]) -> str | None:
    """The modality, not among the fields, that this one's name was probably meant to be.

    One letter is too many, missing or another, or two are swapped. Such as text_1, depth_m and test
    are names of their own.
    """
    meant = _nearest(key) if len(key) < 20 else None
    return meant if meant not in fields else None


@functools.lru_cache(maxsize=4096)
def _nearest(key: str) -> str | None:
    names = (*MEDIA, "text")
    if key in names or not key.isalpha() or len(key) < 3:
        return None
    return next((name for name in names if _is_nearly(key.lower(), name)), None)


def _is_nearly(key: str, name: str) -> bool:
    same = len(os.path.commonprefix([key, name]))
    left, right = key[same:], name[same:]
    if not same or not left + right:
        return not left + right
    changed = len(name) > 5 and left[1:] == right[1:]  # not test, next, audit, death
    swapped = left[:2] == right[1::-1] and left[2:] == right[2:]
    return changed or swapped or left[1:] == right or left == right[1:]


def _short(value: Any) -> str:
    text = f"{len(value)} bytes" if isinstance(value, bytes) else repr(value)
    return text if len(text) <= 80 else f"{text[:80]} ..."


def _expected(key: str) -> str:
    if key in MEDIA:
        return "a file" + (" or a list of them" if key == "vision" else "")
    known = {
        "id": "a text or an integer",
        "text": "a text or a list of texts",
        "label": "the number of a class or a list of them",
    }
    known |= dict.fromkeys(NUMBERS, "a finite number")
    return known.get(key, "another name, since this one is taken")


Stamp = tuple[int, int]  # size in bytes, time of the last change in ns: is it the same file?


def file_stamp(path: str) -> Stamp:
    """Raises `MediaError` unless it is a regular file with something in it."""
    with media.open_media(path) as file:
        return _stamp(file.fileno())


def _stamp(descriptor: int) -> Stamp:
    status = os.fstat(descriptor)
    return status.st_size, status.st_mtime_ns


def read_ranges(path: str, wanted: Stamp, parts: Sequence[tuple[int, int]]) -> list[bytes]:
    """The bytes at each (offset, size) of a file that has not changed since. Raises `MediaError`.

    The file is opened each time: nothing to share between threads, or to send to processes.
    """
    with media.open_media(path) as file, media.wrap_decode_errors(path):
        if _stamp(file.fileno()) != wanted:
            raise media.MediaError(path, "was changed since it was opened")
        return [_read_part(path, file.fileno(), *part) for part in parts]


def _read_part(path: str, descriptor: int, offset: int, size: int) -> bytes:
    if size > LARGEST:
        raise media.MediaError(path, f"{size} bytes in one record are more than {LARGEST}")
    data = os.pread(descriptor, size, offset)
    if len(data) != size:
        raise media.MediaError(path, f"ends {size - len(data)} bytes too early")
    return data
