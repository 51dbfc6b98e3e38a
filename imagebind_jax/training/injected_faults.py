"""Faults on purpose in a run's numbers, for tests: see `runtime.fault_injection`."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from imagebind_jax.checkpointing.digest import flatten_with_paths
from imagebind_jax.distributed.device_view import tree_path
from imagebind_jax.errors import UserError
from imagebind_jax.runtime import fault_injection
from imagebind_jax.training.skip_step import pair_name

INJECTED_SPIKE_FACTOR = 1e3  # times a loss: what `kind=spike` makes of it


def inject_loss_grad_fault(
    loss: jax.Array, gradient: Any, step: jax.Array
) -> tuple[jax.Array, Any]:
    """A step's loss and gradient with the faults that are asked for when the step is traced.

    Where none is, nothing is added to the program. A fault of another host than 0 is none here: all
    hosts run the same program.
    """
    for fault in fault_injection.requested_faults("nan_loss", "spike", "nan_grad", "inf_grad"):
        now = (fault.step <= step) & (step < fault.step + fault.steps)
        if fault.kind == "nan_loss":
            loss = jnp.where(now, jnp.nan, loss)
        elif fault.kind == "spike":
            loss = jnp.where(now, INJECTED_SPIKE_FACTOR * loss, loss)
        else:
            value = jnp.nan if fault.kind == "nan_grad" else jnp.inf
            (first, *others), tree = jax.tree.flatten(gradient)
            gradient = jax.tree.unflatten(tree, [jnp.where(now, value, first), *others])
    return loss, gradient


def inject_batch_fault(
    batch: Mapping[str, np.ndarray], step: int, asked: Sequence[fault_injection.InjectedFault]
) -> dict[str, np.ndarray]:
    """This host's rows of a step's batch, of which `nan_batch` and `inf_batch` spoil one number.

    It is one that counts: of a row whose weight is not 0. Raises UserError where no input has floats.
    """
    spoiled = dict(batch)
    for fault in asked:
        if fault.kind not in ("nan_batch", "inf_batch") or not fault.at(step):
            continue
        floats = [
            name
            for name, x in batch.items()
            if name != "weight" and jnp.issubdtype(x.dtype, jnp.floating)
        ]
        if not floats:
            raise UserError(
                f"{fault_injection.ENV_VAR}: {fault.kind} needs floats, not {pair_name(batch)}"
            )
        rows = np.array(batch[floats[0]])
        row = int(np.argmax(batch["weight"] > 0))
        rows[row].reshape(-1)[0] = np.nan if fault.kind == "nan_batch" else np.inf
        spoiled[floats[0]] = rows
    return spoiled


def inject_bit_flip(state: Any, fault: fault_injection.InjectedFault, bit: int = 0) -> Any:
    """A state of whose first shared parameter this host's last device holds one bit otherwise.

    What `kind=bitflip` does. JAX goes on believing that all devices hold the same.
    """
    if fault.host not in (None, jax.process_index()):
        return state
    leaves = flatten_with_paths(state)
    params = [name for name in sorted(leaves) if name.startswith("params/")]
    name = next((n for n in params if leaves[n].sharding.is_fully_replicated), params[0])
    return jax.tree_util.tree_map_with_path(
        lambda keys, leaf: flip_bit(leaf, bit) if tree_path(keys) == name else leaf, state
    )


def flip_bit(leaf: jax.Array, bit: int, which: int = -1) -> jax.Array:
    """An array of whose bits one is another on one of this host's devices (default: the last)."""
    shards = [shard.data for shard in leaf.addressable_shards]
    old = np.asarray(shards[which])
    changed = bytearray(old.tobytes())
    changed[bit // 8] ^= 1 << bit % 8
    new = np.frombuffer(bytes(changed), old.dtype).reshape(old.shape)
    shards[which] = jax.device_put(new, leaf.addressable_shards[which].device)
    return jax.make_array_from_single_device_arrays(leaf.shape, leaf.sharding, shards)
