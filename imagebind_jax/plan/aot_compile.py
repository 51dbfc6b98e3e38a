"""The training step of a config, compiled for a TPU slice by the compiler that TPUs use, without one."""

import dataclasses
import functools
import importlib.util
import math
import os
import re
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from imagebind_jax.config import TrainConfig
from imagebind_jax.distributed import sharding
from imagebind_jax.errors import UserError, first_line
from imagebind_jax.inputs.pipeline.batches import ModalityPair
from imagebind_jax.inputs.pipeline.precomputed import PRECOMPUTED_PREFIX
from imagebind_jax.plan import tpu_topologies
from imagebind_jax.training import step as training_step

# The compiler's library looks for the TPU that it runs on; here it is told that it need not.
_ALONE = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # which no TPU is taken by
}


class OutOfMemoryError(UserError):
    """The compiler found no place in the device's memory for a program; `wanted` and `there`: bytes."""

    def __init__(self, message: str, wanted: float, there: float):
        super().__init__(message)
        self.wanted, self.there = wanted, there


@dataclasses.dataclass(frozen=True)
class CompiledStep:
    """One pair's step: the compiler's text, bytes on each device by kind, seconds it took."""

    text: str
    memory: dict[str, float]
    seconds: float


def topology_devices(topology: str) -> list[Any]:
    """The devices of a slice that is not there. Raises UserError where it cannot be planned for."""
    tpu_topologies.chip_of_slice(topology)
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "plan needs the TPU compiler, though no TPU: pip install -e '.[tpu]' (or libtpu alone)"
        )
    for name, value in _ALONE.items():
        os.environ.setdefault(name, value)
    jax.config.update("jax_platforms", "cpu")  # where the program is traced: no TPU is asked for
    from jax.experimental import topologies as described

    try:
        found = described.get_topology_desc(platform="tpu", topology_name=topology)
    except Exception as error:  # of the library's own kinds
        raise UserError(f"the TPU compiler refuses {topology}: {first_line(error)}") from error
    return list(found.devices)


def check_plannable(config: TrainConfig, count: int) -> None:
    """Raises UserError where the config cannot be run on so many devices."""
    if config.parallel != "sharded":
        raise UserError(f"parallel {config.parallel!r} is for one host: plan --parallel sharded")
    if config.batch_size % count:
        raise UserError(f"batch_size {config.batch_size} is not divisible by {count} devices")
    rows = config.batch_size // count
    if rows % config.micro_batches:
        raise UserError(
            f"micro_batches {config.micro_batches} does not divide the {rows} rows of each device"
        )


def compile_step(config: TrainConfig, pair: ModalityPair, devices: list[Any]) -> CompiledStep:
    """Compiles what `train` would run for a pair. Raises OutOfMemoryError, UserError.

    Nothing is opened or made: shapes of inputs are the encoders', those of the state are traced.
    """
    check_plannable(config, len(devices))
    place = sharding.ShardedStrategy(config.fsdp, devices)
    state = jax.eval_shape(functools.partial(training_step.create_state, config))
    state = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        state,
        place.state_shardings(state),
    )
    batch = _batch(config, pair, NamedSharding(place.mesh, P(sharding.BATCH_AXES)))
    step: Any = place.compile(functools.partial(training_step.train_step, config=config), state)
    begun = time.monotonic()
    try:
        compiled = step.lower(state, batch).compile()
    except jax.errors.JaxRuntimeError as error:
        raise _not_compiled(error, config, len(devices)) from error
    seconds = time.monotonic() - begun
    found = compiled.memory_analysis()
    return CompiledStep(
        text=compiled.as_text(),
        memory={
            "parameters": _bytes(state.params),
            "moments": _bytes(state.opt_state),
            # The next one is put on the devices while a step runs.
            "batch and the next one": 2 * _bytes(batch),
            "temporaries": float(found.temp_size_in_bytes),
            "results": float(found.output_size_in_bytes - found.alias_size_in_bytes),
            "program": float(found.generated_code_size_in_bytes),
        },
        seconds=seconds,
    )


def _batch(
    config: TrainConfig, pair: ModalityPair, rows: NamedSharding
) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of a global batch of a pair."""
    shapes: dict[str, tuple[tuple[int, ...], Any]] = {}
    for modality in pair.encoded:
        encoder = config.model.encoders[modality]
        dtype = jnp.int32 if encoder.vocab_size else jnp.float32
        shapes[modality] = (encoder.shape, dtype)
    for modality in set(pair.modalities) - set(pair.encoded):
        shapes[f"{PRECOMPUTED_PREFIX}{modality}"] = ((config.model.embed_dim,), jnp.float32)
    shapes["weight"] = ((), jnp.float32)
    return {
        name: jax.ShapeDtypeStruct((config.batch_size, *shape), dtype, sharding=rows)
        for name, (shape, dtype) in shapes.items()
    }


def _bytes(tree: Any) -> float:
    """Of a tree's leaves, as much as lies on one device."""
    return float(
        sum(
            math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
            for leaf in jax.tree.leaves(tree)
        )
    )


_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


_TOO_LARGE = (  # what the compiler says of all that it needs, or of temporaries alone
    r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm",
    r"\(([\d.]+)([KMGT]?)\) exceeds available HBM \(([\d.]+)([KMGT]?)\)",
)


def _not_compiled(error: Exception, config: TrainConfig, count: int) -> Exception:
    matches = (re.search(pattern, str(error)) for pattern in _TOO_LARGE)
    found = next(filter(None, matches), None)
    if not found:
        return error
    wanted = float(found[1]) * _UNITS[found[2]]
    there = float(found[3]) * _UNITS[found[4]]
    return OutOfMemoryError(
        f"does not fit: {wanted / 1e9:.1f} GB of a device's {there / 1e9:.1f} GB are needed; "
        f"{memory_advice(config, count)}",
        wanted,
        there,
    )


def memory_advice(config: TrainConfig, count: int) -> str:
    """What to change for a smaller program, the cheapest first."""
    rows = config.batch_size // count
    ways = []
    if config.model.remat != "full":
        ways.append("--model.remat full")
    if rows // config.micro_batches >= 2:
        ways.append(f"--micro-batches {2 * config.micro_batches}")
    if config.fsdp is not None and config.fsdp < count:
        ways.append(f"--fsdp {count}")
    ways.append("a larger slice")
    return f"try {', '.join(ways)}"
