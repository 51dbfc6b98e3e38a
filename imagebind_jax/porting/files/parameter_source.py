"""A model's parameters, wherever they are, read leaf by leaf and layer by layer."""

import abc
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import ml_dtypes
import numpy as np
from flax import traverse_util

from imagebind_jax.errors import UserError
from imagebind_jax.models.imagebind import ImageBindConfig, init
from imagebind_jax.porting.torch_pickle.torch_file import TensorSpec

DTYPES = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}
_COLUMNS = 16  # of float32: a cache line
_PART = 32 << 20  # bytes
_STACKED = "trunk/blocks/"  # leaves with one row a layer


class ParameterSource(abc.ABC):
    """Parameters of `config` in `dtype`; logit scales are float32 always.

    `specs` has each leaf's shape and dtype by path; `origin` says in JSON where they come from, and
    `inputs`, of a run, by which transforms its inputs were made (`config.run_fingerprint`).
    """

    inputs: Mapping[str, Any] = {}

    def __init__(self, config: ImageBindConfig, dtype: str, origin: Mapping[str, Any]):
        if dtype not in DTYPES:
            raise UserError(f"dtype {dtype!r}: not one of {', '.join(DTYPES)}")
        self.config = config
        self.dtype = dtype
        self.origin = origin
        self.specs = {
            path: TensorSpec(leaf.shape, DTYPES[dtype if leaf.shape else "float32"])
            for path, leaf in param_shapes(config).items()
        }

    @abc.abstractmethod
    def pieces(self, path: str) -> Iterator[np.ndarray]:
        """A leaf, one layer after the other where layers are stacked, C-contiguous."""

    def place(self, path: str) -> str:
        """Where in the source a leaf stands, for people."""
        return path

    def _layers(self, path: str, leaf: np.ndarray) -> Iterator[np.ndarray]:
        """`pieces` of a leaf that is in memory as a whole."""
        dtype = self.specs[path].dtype
        for x in leaf if is_stacked(path) else (leaf,):
            as_wanted = x.dtype == dtype and x.flags.c_contiguous
            yield x if as_wanted else copy_cast(x, dtype, path)

    def read(self, path: str) -> np.ndarray:
        """A whole leaf."""
        if not is_stacked(path):
            return next(iter(self.pieces(path)))
        out = np.empty(self.specs[path].shape, self.specs[path].dtype)
        for i, piece in enumerate(self.pieces(path)):
            out[i] = piece
        return out


class InMemoryParams(ParameterSource):
    """Parameters that are in memory already: numpy or JAX arrays in a nested dict."""

    def __init__(
        self,
        config: ImageBindConfig,
        params: Mapping,
        dtype: str = "float32",
        origin: Mapping[str, str | int] | None = None,
    ):
        """Raises UserError where `params` are not those of `config`."""
        super().__init__(config, dtype, origin or {})
        self._leaves = traverse_util.flatten_dict(params, sep="/")
        expected = {path: spec.shape for path, spec in self.specs.items()}
        found = {path: np.shape(leaf) for path, leaf in self._leaves.items()}
        if wrong := sorted(p for p in expected | found if expected.get(p) != found.get(p)):
            raise UserError(f"these are not the parameters of this model: {', '.join(wrong)}")

    def pieces(self, path: str) -> Iterator[np.ndarray]:
        """As of `ParameterSource`."""
        yield from self._layers(path, np.asarray(self._leaves[path]))


def copy_cast(
    x: np.ndarray, dtype: np.dtype, name: str, release: Callable[[], None] = lambda: None
) -> np.ndarray:
    """A new array in C order; `release` is called each time that a part has been copied.

    Raises UserError where a finite number of `name` would not be one in `dtype`.
    """
    out = np.empty(x.shape, dtype)
    with np.errstate(over="ignore"):  # looked at below
        if x.ndim == 2 and not x.flags.c_contiguous:
            for i in range(0, x.shape[1], _COLUMNS):  # numpy's own transposition misses the cache
                out[:, i : i + _COLUMNS] = x[:, i : i + _COLUMNS]
        elif x.ndim:
            rows = max(1, _PART * len(x) // max(1, x.nbytes))
            for i in range(0, len(x), rows):
                out[i : i + rows] = x[i : i + rows]
                release()
        else:
            out[...] = x
    if x.dtype != dtype and not np.array_equal(np.isfinite(out), np.isfinite(x)):
        raise UserError(f"{name} holds numbers that are too large for {dtype}")
    release()
    return out


def is_stacked(path: str) -> bool:
    """Whether a leaf's first axis counts layers."""
    return _STACKED in path


def param_shapes(config: ImageBindConfig) -> dict[str, jax.ShapeDtypeStruct]:
    """{path: shape and dtype} of every leaf of a model, without making any."""
    params = jax.eval_shape(lambda key: init(config, key), jax.random.key(0))
    return traverse_util.flatten_dict(params, sep="/")


def select_encoders(
    config: ImageBindConfig, modalities: Sequence[str], where: object
) -> ImageBindConfig:
    """The config of some of its encoders (none named: of all). Raises UserError on one it lacks."""
    if absent := [m for m in modalities if m not in config.encoders]:
        there = ", ".join(config.encoders)
        raise UserError(f"{where} has no {', '.join(absent)}: only {there}")
    chosen = {m: c for m, c in config.encoders.items() if not modalities or m in modalities}
    return dataclasses.replace(config, encoders=chosen)
