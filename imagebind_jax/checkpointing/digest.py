"""A digest of every leaf of a tree, computed on the devices and the same however they share it."""

from typing import Any

import jax
import jax.numpy as jnp


def _mix(x):
    """A 32-bit finaliser: every input bit reaches every output bit."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


@jax.jit
def leaf_checksum(x):
    """(two sums of uint32, [2], whether it is finite) of an array, however devices share it."""
    x = jnp.atleast_1d(x)
    finite = jnp.all(jnp.isfinite(x)) if jnp.issubdtype(x.dtype, jnp.floating) else jnp.bool_(True)
    unsigned = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize]
    bits = jax.lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32)
    index = jnp.zeros(x.shape, jnp.uint32)  # each element's place in the whole array
    for axis, size in enumerate(x.shape):
        index = index * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
    # Sums do not depend on how the array is split over devices.
    sums = [jnp.sum(_mix(bits ^ _mix(index + jnp.uint32(salt)))) for salt in (0, 0x9E3779B9)]
    return jnp.stack(sums), finite


def flatten_with_paths(tree: Any) -> dict[str, Any]:
    """{path: leaf}, with paths as "params/image/trunk/kernel"."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def dtype_and_shape(leaf: Any) -> str:
    """Dtype and shape, as a digest begins: "float32[64, 32]"."""
    return f"{leaf.dtype}{list(leaf.shape)}"


def tree_checksums(tree: Any) -> tuple[dict[str, str], bool]:
    """({leaf's path: digest with its shape and dtype}, whether every leaf is finite)."""
    leaves = flatten_with_paths(tree)
    # One after the other: many sums over devices in flight at once can starve each other on CPUs.
    results = {name: jax.device_get(leaf_checksum(leaf)) for name, leaf in leaves.items()}
    digests = {
        name: f"{dtype_and_shape(leaves[name])}:{sums[0]:08x}{sums[1]:08x}"
        for name, (sums, _) in results.items()
    }
    return digests, all(bool(finite) for _, finite in results.values())
