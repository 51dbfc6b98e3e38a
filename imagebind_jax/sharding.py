"""Devices: the mesh, where parameters and batches live, and one step compiled for them.

The only file that knows there is more than one device. `pmap` keeps a replica of the parameters
on each device; `sharded` splits parameters and optimizer state over the mesh's `fsdp` axis.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from imagebind_jax import losses
from imagebind_jax.errors import UserError

BATCH = ("data", "fsdp")  # a batch is split over both axes of the mesh
PARALLEL = ("sharded", "pmap")
SMALLEST_SPLIT = 2**14  # elements; a smaller parameter is cheaper whole than gathered


def make_mesh(fsdp: int | None = None, devices=None) -> Mesh:
    """All devices as ("data", "fsdp"); `fsdp` devices share one copy of the parameters (default: all)."""
    devices = jax.devices() if devices is None else devices
    fsdp = len(devices) if fsdp is None else fsdp
    if fsdp < 1 or len(devices) % fsdp:
        raise UserError(f"fsdp {fsdp} does not divide {len(devices)} devices")
    # Linen's layers do not say their output's sharding, which explicit axes would ask of them.
    return Mesh(
        np.asarray(devices).reshape(-1, fsdp), BATCH, axis_types=(AxisType.Auto, AxisType.Auto)
    )


def check_batch_size(batch_size: int) -> None:
    """Raises UserError unless every device, and so every host, gets the same number of rows."""
    devices = jax.device_count()
    if batch_size % devices:
        raise UserError(f"batch_size {batch_size} is not divisible by {devices} devices")


def parameter_spec(shape: tuple[int, ...], fsdp: int) -> P:
    """Splits the largest axis that `fsdp` divides; small arrays, and vectors, stay whole."""
    if fsdp == 1 or len(shape) < 2 or np.prod(shape) < SMALLEST_SPLIT:
        return P()
    axes = [axis for axis in range(len(shape)) if shape[axis] % fsdp == 0]
    if not axes:
        return P()
    # The last axis wins a tie: a leading one may be the layers', which a scan walks along.
    largest = max(axes, key=lambda axis: (shape[axis], axis))
    return P(*(None,) * largest, "fsdp")


class Sharded:
    """Steps under `jit` over a mesh: parameters split by rule, batches by row."""

    def __init__(self, fsdp: int | None = None, devices=None):
        self.mesh = make_mesh(fsdp, devices)
        self._batch = NamedSharding(self.mesh, P(BATCH))

    def state_shardings(self, state: Any) -> Any:
        """The placement of every leaf of a (possibly abstract) state."""
        fsdp = self.mesh.shape["fsdp"]
        return jax.tree.map(
            lambda leaf: NamedSharding(self.mesh, parameter_spec(leaf.shape, fsdp)), state
        )

    def create(self, init: Callable[[], Any]) -> Any:
        """Runs `init` so that no device ever holds the whole state."""
        shardings = self.state_shardings(jax.eval_shape(init))
        return jax.jit(init, out_shardings=shardings)()

    def place(self, state: Any) -> Any:
        """Puts a state from the host, or from one device, where it belongs."""
        return jax.device_put(state, self.state_shardings(state))

    def batch(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """This host's rows -> the global batch."""
        put = jax.make_array_from_process_local_data
        return {name: put(self._batch, rows) for name, rows in batch.items()}

    def compile(self, step: Callable, state: Any) -> Callable:
        """step(state, batch, pair_loss=, mean=, replica=) -> jitted (state, batch) -> (state, metrics)."""
        shardings = self.state_shardings(state)
        replicated = NamedSharding(self.mesh, P())

        def pair_loss(a, b, scale, weight):
            a, b = (jax.lax.with_sharding_constraint(z, self._batch) for z in (a, b))
            per_device = jax.shard_map(
                lambda a, b, scale, weight: losses.pair_loss(
                    a, b, scale, weight=weight, axis_name=BATCH
                ),
                mesh=self.mesh,
                in_specs=(P(BATCH), P(BATCH), P(), P(BATCH)),
                out_specs=P(),
            )
            return per_device(a, b, scale, weight)

        return jax.jit(
            lambda state, batch: step(
                state, batch, pair_loss=pair_loss, mean=lambda grads: grads, replica=lambda: 0
            ),
            out_shardings=(shardings, replicated),
            donate_argnums=0,
        )

    @property
    def shares(self) -> int:
        """Into how many parts a batch is split: it has a multiple of so many rows."""
        return self.mesh.size

    def compile_apply(self, apply: Callable) -> Callable:
        """apply(params, batch) -> [rows, ...], jitted, with the result whole on every device.

        Of `place`d parameters and a `batch` of this host's rows; so every host has all rows' results.
        """
        replicated = NamedSharding(self.mesh, P())

        def split(params, batch):
            return jax.lax.with_sharding_constraint(apply(params, batch), self._batch)

        return jax.jit(split, out_shardings=replicated)

    def gather(self, state: Any) -> Any:
        """The state as a checkpoint stores it: global arrays."""
        return state


class Replicated:
    """Steps under `jax.pmap`: one replica of everything on each local device."""

    def __init__(self, devices=None):
        self.devices = jax.local_devices() if devices is None else devices

    def create(self, init: Callable[[], Any]) -> Any:
        return self.place(jax.jit(init)())

    def place(self, state: Any) -> Any:
        copy = jax.pmap(lambda _, state: state, in_axes=(0, None), devices=self.devices)
        return copy(np.arange(len(self.devices)), state)

    def batch(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """[rows, ...] -> [devices, rows a device, ...]"""
        n = len(self.devices)
        return {name: rows.reshape(n, -1, *rows.shape[1:]) for name, rows in batch.items()}

    def compile(self, step: Callable, state: Any) -> Callable:
        def pair_loss(a, b, scale, weight):
            return losses.pair_loss(a, b, scale, weight=weight, axis_name="data")

        def per_device(state, batch):
            # The loss is already global: each device's gradient is its share times the number of
            # devices (a psum's transpose is a psum under pmap), so the mean is the whole.
            return step(
                state,
                batch,
                pair_loss=pair_loss,
                mean=lambda grads: jax.lax.pmean(grads, "data"),
                replica=lambda: jax.lax.axis_index("data"),
            )

        run = jax.pmap(per_device, axis_name="data", devices=self.devices, donate_argnums=0)

        def first_replica(state, batch):
            state, metrics = run(state, batch)
            return state, jax.tree.map(_first, metrics)

        return first_replica

    @property
    def shares(self) -> int:
        return len(self.devices)

    def compile_apply(self, apply: Callable) -> Callable:
        """apply(params, batch) -> [devices, rows a device, ...]"""
        return jax.pmap(apply, devices=self.devices)

    def gather(self, state: Any) -> Any:
        """One replica."""
        return jax.tree.map(_first, state)


def _first(leaf: jax.Array) -> jax.Array:
    """The first device's replica, as it lies there.

    `leaf[0]` would be a program of all devices for each leaf: slower, and on CPUs, where devices
    share threads, many of them at once can wait for each other for ever.
    """
    return leaf.addressable_shards[0].data[0]


def placement(parallel: str, fsdp: int | None = None) -> Sharded | Replicated:
    """The way to run steps that a config names. Raises UserError on another name."""
    if parallel == "sharded":
        return Sharded(fsdp)
    if parallel == "pmap":
        if jax.process_count() > 1:
            raise UserError(f"pmap is for one host, and there are {jax.process_count()}: sharded")
        return Replicated()
    raise UserError(f"parallel {parallel!r}: not one of {', '.join(PARALLEL)}")
