"""Devices: the mesh, where parameters and batches live, and one step compiled for them.

`pmap` keeps a replica of the parameters on each device; `sharded` splits parameters and optimizer
state over the mesh's `fsdp` axis. What one device does with its rows is written once (`devices`
has its view of the others), and is the same program in both.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from imagebind_jax.distributed.device_view import STACKED_BLOCKS, DeviceView, tree_path
from imagebind_jax.errors import UserError

BATCH_AXES = ("data", "fsdp")  # a batch is split over both axes of the mesh
PARALLEL = ("sharded", "pmap")
MIN_SHARD_ELEMENTS = 2**14  # elements; a smaller parameter is cheaper whole than gathered


def make_mesh(fsdp: int | None = None, devices=None) -> Mesh:
    """All devices as ("data", "fsdp"); `fsdp` devices share one copy of the parameters (default: all)."""
    devices = jax.devices() if devices is None else devices
    fsdp = len(devices) if fsdp is None else fsdp
    if fsdp < 1 or len(devices) % fsdp:
        raise UserError(f"fsdp {fsdp} does not divide {len(devices)} devices")
    # Linen's layers do not say their output's sharding, which explicit axes would ask of them.
    return Mesh(
        np.asarray(devices).reshape(-1, fsdp), BATCH_AXES, axis_types=(AxisType.Auto, AxisType.Auto)
    )


def check_batch_size(batch_size: int, micro_batches: int = 1) -> None:
    """Raises UserError unless every device, and so every host, gets the same number of rows."""
    devices = jax.device_count()
    if batch_size % devices:
        raise UserError(f"batch_size {batch_size} is not divisible by {devices} devices")
    if batch_size // devices % micro_batches:
        raise UserError(
            f"micro_batches {micro_batches} does not divide the {batch_size // devices} rows of "
            f"each of {devices} devices"
        )


def fsdp_spec(shape: tuple[int, ...], fsdp: int, layers: int = 0) -> P:
    """Splits the first axis that `fsdp` divides; small arrays, and vectors, stay whole.

    The first `layers` axes are those of stacked layers, each of which is made whole by itself. Parts
    along the first axis lie one after the other, so that nothing is moved within memory to make them
    whole; along the last, a TPU would pad each to 128 numbers.
    """
    if fsdp == 1 or len(shape) - layers < 2 or np.prod(shape[layers:]) < MIN_SHARD_ELEMENTS:
        return P()
    for axis in range(layers, len(shape)):
        if shape[axis] % fsdp == 0:
            return P(*(None,) * axis, "fsdp")
    return P()


class ShardedStrategy:
    """Steps under `jit` over a mesh: parameters split by rule, batches by row."""

    def __init__(self, fsdp: int | None = None, devices=None):
        self.mesh = make_mesh(fsdp, devices)
        self._batch = NamedSharding(self.mesh, P(BATCH_AXES))

    def state_shardings(self, state: Any) -> Any:
        """The placement of every leaf of a (possibly abstract) state."""
        specs = self._specs(state)
        return jax.tree.map(lambda spec: NamedSharding(self.mesh, spec), specs)

    def create(self, init: Callable[[], Any]) -> Any:
        """Runs `init` so that no device ever holds the whole state."""
        shardings = self.state_shardings(jax.eval_shape(init))
        return jax.jit(init, out_shardings=shardings)()

    def place(self, state: Any) -> Any:
        """Puts a state from the host, or from one device, where it belongs."""
        return jax.tree.map(device_put_global, state, self.state_shardings(state))

    def batch(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """This host's rows -> the global batch."""
        put = jax.make_array_from_process_local_data
        return {name: put(self._batch, rows) for name, rows in batch.items()}

    def compile(self, step: Callable, state: Any) -> Callable:
        """step(state, batch, over_devices=) -> jitted (state, batch) -> (state, metrics).

        over_devices(f)(trained, frozen, batch, key): f of this and a `DeviceView`, run on every device
        with its rows and its parts of the parameters; f returns what is the same everywhere,
        (loss, metrics), and the gradient by `trained`.
        """
        shardings = self.state_shardings(state)
        replicated = NamedSharding(self.mesh, P())
        return jax.jit(
            lambda state, batch: step(state, batch, over_devices=self._over_devices),
            out_shardings=(shardings, replicated),
            donate_argnums=0,
        )

    def _over_devices(self, f: Callable) -> Callable:
        def run(trained, frozen, batch, key):
            device = self._device(frozen, trained)
            specs = self._specs(trained), self._specs(frozen), P(BATCH_AXES), P()
            per_device = lambda *arguments: f(*arguments, device)  # noqa: E731
            return jax.shard_map(
                per_device, mesh=self.mesh, in_specs=specs, out_specs=(P(), P(), specs[0])
            )(trained, frozen, batch, key)

        return run

    def _specs(self, state: Any) -> Any:
        fsdp = self.mesh.shape["fsdp"]

        def spec(keys, leaf):
            return fsdp_spec(leaf.shape, fsdp, layers=int(STACKED_BLOCKS in tree_path(keys)))

        return jax.tree_util.tree_map_with_path(spec, state)

    def _device(self, *params: Mapping) -> DeviceView:
        """The view of each device of these parameters' parts."""
        split = {}
        for tree in params:
            for keys, spec in jax.tree_util.tree_leaves_with_path(self._specs(tree)):
                if "fsdp" in spec:
                    split[tree_path(keys)] = spec.index("fsdp")
        return DeviceView(BATCH_AXES, split)

    @property
    def shares(self) -> int:
        """Into how many parts a batch is split: it has a multiple of so many rows."""
        return self.mesh.size

    def compile_apply(self, apply: Callable) -> Callable:
        """apply(params, batch, device) -> [rows, ...], jitted, its result whole on every device.

        Of `place`d parameters and a `batch` of this host's rows; so every host has all rows' results.
        """
        replicated = NamedSharding(self.mesh, P())

        def split(params, batch):
            device = self._device(params)
            return jax.shard_map(
                lambda params, batch: apply(params, batch, device),
                mesh=self.mesh,
                in_specs=(self._specs(params), P(BATCH_AXES)),
                out_specs=P(BATCH_AXES),
            )(params, batch)

        return jax.jit(split, out_shardings=replicated)

    def compile_each(self, look: Callable, state: Any) -> Callable:
        """look(a device's own parts of a state) -> an array; jitted: [devices, ...], whole everywhere.

        What is said to be the same on all devices is looked at on each of them.
        """
        each = jax.shard_map(
            lambda own: look(own)[None],
            mesh=self.mesh,
            in_specs=(self._specs(state),),
            out_specs=P(BATCH_AXES),
        )
        return jax.jit(each, out_shardings=NamedSharding(self.mesh, P()))

    def parts(self, state: Any) -> tuple[list[jax.Device], list[np.ndarray]]:
        """(devices in the order of `compile_each`, for every leaf which part of it each holds)."""
        fsdp = np.arange(self.mesh.size) % self.mesh.shape["fsdp"]
        specs = jax.tree.leaves(self._specs(state))
        return list(self.mesh.devices.flat), [fsdp * ("fsdp" in spec) for spec in specs]

    def gather(self, state: Any) -> Any:
        """The state as a checkpoint stores it: global arrays."""
        return state


class PmapStrategy:
    """Steps under `jax.pmap`: one replica of everything on each local device."""

    def __init__(self, devices=None):
        self.devices = jax.local_devices() if devices is None else devices

    def create(self, init: Callable[[], Any]) -> Any:
        return self.place(jax.jit(init)())

    def place(self, state: Any) -> Any:
        # What was read from a checkpoint may be split, which pmap would refuse.
        whole = NamedSharding(Mesh(np.asarray(self.devices), ("data",)), P())
        state = jax.device_put(state, whole)
        # By the name that a step's axis has: else the second step would be compiled anew.
        copy = jax.pmap(
            lambda _, state: state, in_axes=(0, None), axis_name="data", devices=self.devices
        )
        return copy(np.arange(len(self.devices)), state)

    def batch(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """[rows, ...] -> [devices, rows a device, ...], on their way to the devices."""
        n = len(self.devices)
        one_each = NamedSharding(Mesh(np.asarray(self.devices), ("data",)), P("data"))
        return {
            name: jax.device_put(rows.reshape(n, -1, *rows.shape[1:]), one_each)
            for name, rows in batch.items()
        }

    def compile(self, step: Callable, state: Any) -> Callable:
        device = DeviceView("data", replicas=True)

        def over_devices(f):
            def run(trained, frozen, batch, key):
                loss, metrics, gradient = f(trained, frozen, batch, key, device)
                # The loss is already global: each device's gradient is its share times the number
                # of devices (a psum's transpose is a psum under pmap), so the mean is the whole.
                return loss, metrics, jax.lax.pmean(gradient, "data")

            return run

        per_device = functools.partial(step, over_devices=over_devices)
        run = jax.pmap(per_device, axis_name="data", devices=self.devices, donate_argnums=0)

        def first_replica(state, batch):
            state, metrics = run(state, batch)
            return state, jax.tree.map(_first, metrics)

        return first_replica

    @property
    def shares(self) -> int:
        return len(self.devices)

    def compile_apply(self, apply: Callable) -> Callable:
        """apply(params, batch, device) -> [devices, rows a device, ...]"""
        device = DeviceView("data", replicas=True)
        run = lambda params, batch: apply(params, batch, device)  # noqa: E731
        return jax.pmap(run, axis_name="data", devices=self.devices)

    def compile_each(self, look: Callable, state: Any) -> Callable:
        """look(a replica of a state) -> an array; compiled: [devices, ...]"""
        return jax.pmap(look, axis_name="data", devices=self.devices)

    def parts(self, state: Any) -> tuple[list[jax.Device], list[np.ndarray]]:
        """(devices in the order of `compile_each`, for every leaf which part of it each holds)."""
        whole = np.zeros(len(self.devices), int)
        return list(self.devices), [whole for _ in jax.tree.leaves(state)]

    def gather(self, state: Any) -> Any:
        """One replica."""
        return jax.tree.map(_first, state)


def _first(leaf: jax.Array) -> jax.Array:
    """The first device's replica, as it lies there.

    `leaf[0]` would be a program of all devices for each leaf: slower, and on CPUs, where devices
    share threads, many of them at once can wait for each other for ever.
    """
    return leaf.addressable_shards[0].data[0]


def device_put_global(x: Any, sharding: Any) -> jax.Array:
    """An array where it belongs, which may be on other hosts' devices, too: every host has all of it.

    `jax.device_put` would send all of it to all hosts, to see whether they have the same.
    """
    here = not isinstance(x, jax.Array) or x.is_fully_addressable
    if sharding.is_fully_addressable or not here:
        return jax.device_put(x, sharding)
    values = np.asarray(x)
    return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])


def make_strategy(parallel: str, fsdp: int | None = None) -> ShardedStrategy | PmapStrategy:
    """The way to run steps that a config names. Raises UserError on another name."""
    if parallel == "sharded":
        return ShardedStrategy(fsdp)
    if parallel == "pmap":
        if jax.process_count() > 1:
            raise UserError(f"pmap is for one host, and there are {jax.process_count()}: sharded")
        return PmapStrategy()
    raise UserError(f"parallel {parallel!r}: not one of {', '.join(PARALLEL)}")
