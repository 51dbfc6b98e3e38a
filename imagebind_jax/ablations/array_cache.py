"""The folder of a seed: arrays and parameters in files that are whole, or are not there."""

import contextlib
import pathlib
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from imagebind_jax.errors import UserError, first_line
from imagebind_jax.storage import atomic

DAMAGED = (FileNotFoundError, ValueError, EOFError, KeyError, zipfile.BadZipFile)


class ArrayCache:
    """The arrays of one seed: each file is whole, or is not there."""

    def __init__(self, folder: pathlib.Path, seed: int):
        self.path, self.seed = folder / f"seed-{seed}", seed

    def has(self, part: str) -> bool:
        return (self.path / marker_file(part)).exists()

    def write(self, name: str, array: np.ndarray) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        with atomic.atomic_write(self.path / name) as file:
            np.save(file, array, allow_pickle=False)

    def read(self, name: str) -> np.ndarray:
        """Mapped, not loaded. Raises UserError where it is damaged, or gone."""
        with _whole(self.path):
            return np.load(self.path / name, mmap_mode="r", allow_pickle=False)


def marker_file(part: str) -> str:
    """Of those that a part writes: where it is, the others are, too."""
    kind, _, rest = part.partition("-")
    if part in ("captioned", "test", "audio", "thermal"):
        return {
            "captioned": "captioned-vision.npy",
            "test": "test-labels.npy",
            "audio": "audio.npy",
            "thermal": "thermal-z.npy",
        }[part]
    if kind == "tower":
        return f"{part}.npz"
    return f"classes-material-{rest}.npy" if kind == "test" else f"{kind}-z-{rest}.npy"


@contextlib.contextmanager
def _whole(folder: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except DAMAGED as error:
        raise UserError(
            f"the data in {folder} are damaged ({first_line(error)}): remove the folder, and the same "
            "command makes it again"
        ) from error


def save_params(path: pathlib.Path, params: Mapping) -> None:
    """Nested dicts of arrays as one .npz file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    flat: dict[str, Any] = traverse_util.flatten_dict(params, sep="/")
    with atomic.atomic_write(path) as file:
        np.savez(file, **flat)


def load_params(path: pathlib.Path) -> dict:
    """What `save_params` has written. Raises UserError where it is damaged, or gone."""
    with _whole(path.parent), np.load(path, allow_pickle=False) as flat:
        return traverse_util.unflatten_dict({name: flat[name] for name in flat}, sep="/")


def to_float16(x: np.ndarray) -> np.ndarray:
    """Numbers that are not whole in half precision, which is finer than what they were measured with."""
    return x.astype(np.float16) if x.dtype.kind == "f" else x
