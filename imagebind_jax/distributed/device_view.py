"""What one device of a program on many knows of the others: its rows, and parameters made whole."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

AxisName = str | tuple[str, ...]

STACKED_BLOCKS = (
    "trunk/blocks/"  # a tower's parameters that are stacked by layer, and needed one by one
)


def tree_path(keys: Any) -> str:
    """A leaf's path in a tree of dicts, "vision/trunk/blocks/attn/qkv/kernel"."""
    return jax.tree_util.keystr(keys, simple=True, separator="/")


@dataclasses.dataclass(frozen=True)
class DeviceView:
    """The view of one device; by default it is alone.

    axes: the mapped axes over which all devices are. split: parameter's path -> which of its axes
    is split over the devices along `fsdp`; the others are whole everywhere. replicas: under pmap,
    where nothing is split and gradients are averaged afterwards.
    """

    axes: AxisName | None = None
    split: Mapping[str, int] = dataclasses.field(default_factory=dict)
    fsdp: str = "fsdp"
    replicas: bool = False

    @property
    def count(self) -> int:
        """How many devices there are."""
        return 1 if self.axes is None else jax.lax.axis_size(self.axes)

    def rows(self, count: int) -> jax.Array:
        """The numbers in the global batch of this device's `count` rows."""
        first = 0 if self.axes is None else count * jax.lax.axis_index(self.axes)
        return first + jnp.arange(count)

    def own(self, params: Any) -> Any:
        """Parameters of which each device has its own gradient until the end, where it is summed.

        Else a scan over layers or micro-batches would sum over all devices in each of its turns.
        """
        if self.axes is None or self.replicas:
            return params
        axes = (self.axes,) if isinstance(self.axes, str) else self.axes

        def varying(keys, leaf):
            same = [axis for axis in axes if tree_path(keys) not in self.split or axis != self.fsdp]
            return jax.lax.pcast(leaf, tuple(same), to="varying")

        return jax.tree_util.tree_map_with_path(varying, params)

    def whole(self, params: Mapping) -> Mapping:
        """{tower: parameters}: all but the layers of trunks made whole, which `layer` does."""

        def gathered(keys, leaf):
            path = tree_path(keys)
            stacked = STACKED_BLOCKS in path
            return leaf if stacked or path not in self.split else self._gather(path, leaf)

        return jax.tree_util.tree_map_with_path(gathered, params)

    def layer(self, modality: str, params: Mapping, dtype: str) -> Mapping:
        """One layer's parameters whole; weights of products travel in the type they are used in."""

        def gathered(keys, leaf):
            _, _, name = tree_path(keys).partition("/")  # of the collection, "params"
            path = f"{modality}/{STACKED_BLOCKS}{name}"
            if path not in self.split:
                return leaf
            travel = dtype if name.endswith("kernel") else leaf.dtype
            return self._gather(path, leaf, layers=1, dtype=travel)

        return jax.tree_util.tree_map_with_path(gathered, params)

    def _gather(self, path: str, leaf: jax.Array, layers: int = 0, dtype: Any = None) -> jax.Array:
        return _gathered(leaf, self.fsdp, self.split[path] - layers, jnp.dtype(dtype or leaf.dtype))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _gathered(leaf, axis_name, axis, dtype):
    return jax.lax.all_gather(leaf.astype(dtype), axis_name, axis=axis, tiled=True)


def _gathered_forward(leaf, axis_name, axis, dtype):
    return _gathered(leaf, axis_name, axis, dtype), jnp.zeros((0,), leaf.dtype)


def _gathered_backward(axis_name, axis, dtype, like, gradient):
    # Parts of a gradient are summed in the parameter's type, whatever the type it was used in.
    gradient = gradient.astype(like.dtype)
    part = jax.lax.psum_scatter(gradient, axis_name, scatter_dimension=axis, tiled=True)
    return (part,)


_gathered.defvjp(_gathered_forward, _gathered_backward)
