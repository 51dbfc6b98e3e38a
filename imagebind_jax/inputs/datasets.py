"""What a dataset's folder in `data/` says of it, for `imagebind-jax prepare`; and which there are."""

import dataclasses
import difflib
import importlib
import inspect
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from imagebind_jax.errors import UserError
from imagebind_jax.inputs.decoders.media import MediaError, open_media
from imagebind_jax.inputs.sources.record import LARGEST

# A record to be: `pathlib.Path`s are files to embed whole; the rest are texts, numbers and lists of them.
Row = Mapping[str, Any]


def inline_files(row: Row) -> dict[str, Any]:
    """The row with the bytes of each file in place of its path.

    Raises `MediaError`, also for a file of more than 1 GiB, which nobody would want in a record.
    """
    return {key: _read(value) for key, value in row.items()}


def _read(value: Any) -> Any:
    if isinstance(value, pathlib.Path):
        with open_media(value) as file:
            data = file.read(LARGEST + 1)
        if len(data) > LARGEST:
            raise MediaError(str(value), f"more than {LARGEST} bytes: cut it into parts")
        return data
    return [_read(item) for item in value] if isinstance(value, list) else value


@dataclasses.dataclass(frozen=True)
class DatasetListing:
    """What a download holds."""

    splits: Mapping[str, Sequence[Row]]  # each row with a unique "id"
    classes: tuple[str, ...] = ()  # names as prompts use them; row["label"] counts in this order
    prompts: tuple[str, ...] = ()  # templates with one {}
    missing: Mapping[str, int] = dataclasses.field(default_factory=dict)  # listed, but not there
    notes: tuple[str, ...] = ()  # what whoever prepares it should know
    # Class -> the names it is asked by, where they are several: its score is that of the best.
    names: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """One dataset: `data/<name>/builder.py` has one as DATASET."""

    name: str  # the folder's
    title: str
    licence: str
    homepage: str  # where the official download is
    modalities: tuple[str, ...]  # that its records can have
    # The official download's folder -> what is in it. Raises UserError, naming the missing piece.
    listing: Callable[[pathlib.Path], DatasetListing]
    # Row -> record, in worker processes: a function of the module, so that it can be sent there.
    record: Callable[[Row], Mapping[str, Any]] = inline_files


PACKAGE = "imagebind_jax.data"


def search_path() -> list[str]:
    """The folders in which datasets are looked for: a list that can be changed."""
    return importlib.import_module(PACKAGE).__path__  # type: ignore[return-value]


def dataset_names() -> list[str]:
    """The datasets that there are, sorted: the folders with a builder.py."""
    builders = (
        path for folder in search_path() for path in pathlib.Path(folder).glob("*/builder.py")
    )
    return sorted({path.parent.name for path in builders})


def get_dataset(name: str) -> Dataset:
    """The dataset of that name. Raises UserError, with the nearest name, if there is none."""
    return _module(name, "builder").DATASET


def format_datasets() -> list[str]:
    """One line a dataset: name, title, modalities, licence."""
    found = [get_dataset(name) for name in dataset_names()]
    rows = [(d.name, d.title, " ".join(d.modalities), d.licence) for d in found]
    rows.insert(0, ("name", "title", "modalities", "licence"))
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ("  ".join(text.ljust(n) for text, n in zip(row, widths)) for row in rows)
    return [line.rstrip() for line in lines]


def builder_source(name: str) -> bytes:
    """The source of the builder and of what it imports of `PACKAGE`: another may make other records."""
    found: dict[str, bytes] = {}
    left = [_module(name, "builder")]
    while left:
        module = left.pop()
        if module.__name__ not in found:
            found[module.__name__] = pathlib.Path(module.__file__).read_bytes()
            left += _imported(module)
    return b"".join(found[each] for each in sorted(found))


def _imported(module: Any) -> list[Any]:
    """Also those of which only a function or class was imported."""
    values = vars(module).values()
    names = (getattr(v, "__name__" if inspect.ismodule(v) else "__module__", "") for v in values)
    return [sys.modules[each] for each in names if str(each).startswith(f"{PACKAGE}.")]


def write_sample(name: str, folder: pathlib.Path) -> None:
    """Writes a small generated download of the dataset, in its official layout. Raises UserError."""
    _module(name, "sample").write(folder)


def _module(name: str, part: str) -> Any:
    known = dataset_names()
    if name not in known:  # so that nothing is ever imported that is not a dataset's
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(known)}"
        raise UserError(f"no dataset {name!r}: {hint}")
    return importlib.import_module(f"{PACKAGE}.{name}.{part}")
