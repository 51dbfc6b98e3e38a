"""What a dataset's folder in `data/` says of it, for `imagebind-jax prepare`."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from imagebind_jax.inputs.media import open_source

# A record to be: `pathlib.Path`s are files to embed whole; the rest are texts, numbers and lists of them.
Row = Mapping[str, Any]


def embed(row: Row) -> dict[str, Any]:
    """The row with the bytes of each file in place of its path. Raises `MediaError`."""
    return {key: _read(value) for key, value in row.items()}


def _read(value: Any) -> Any:
    if isinstance(value, pathlib.Path):
        with open_source(value) as file:
            return file.read()
    return [_read(item) for item in value] if isinstance(value, list) else value


@dataclasses.dataclass(frozen=True)
class Listing:
    """What a download holds."""

    splits: Mapping[str, Sequence[Row]]  # each row with a unique "id"
    classes: tuple[str, ...] = ()  # names as prompts use them; row["label"] counts in this order
    prompts: tuple[str, ...] = ()  # templates with one {}
    missing: Mapping[str, int] = dataclasses.field(default_factory=dict)  # listed, but not there
    notes: tuple[str, ...] = ()  # what whoever prepares it should know


@dataclasses.dataclass(frozen=True)
class Dataset:
    """One dataset: `data/<name>/builder.py` has one as DATASET."""

    name: str  # the folder's
    title: str
    licence: str
    homepage: str  # where the official download is
    modalities: tuple[str, ...]  # that its records can have
    # The official download's folder -> what is in it. Raises UserError, naming the missing piece.
    listing: Callable[[pathlib.Path], Listing]
    # Row -> record, in worker processes: a function of the module, so that it can be sent there.
    record: Callable[[Row], Mapping[str, Any]] = embed
