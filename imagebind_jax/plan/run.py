"""imagebind-jax plan: the training step of a config, compiled for a TPU slice that is not there."""

import json
import os
import pathlib
from collections.abc import Callable, Sequence

from imagebind_jax.config import TrainConfig
from imagebind_jax.errors import UserError
from imagebind_jax.plan import aot_compile, step_estimate, table, tpu_topologies
from imagebind_jax.plan import sweep as plan_sweep
from imagebind_jax.storage import atomic


def run_plan(
    config: TrainConfig,
    topology: str | None,
    *,
    json_file: str | os.PathLike | None = None,
    sweep: Sequence[str] | None = None,
    say: Callable[[str], None] = print,
) -> table.Numbers:
    """Prints and returns what the config's steps would need on the slice; see `report`.

    sweep: fields of which other values are tried as well, () for all that `sweeping` knows.
    Raises UserError where there is no such slice, no compiler, or no way to run the config there;
    where it does not fit, with the compiler's number and what to change.
    """
    if topology is None:
        names = ", ".join(tpu_topologies.SLICES)
        raise UserError(f"plan needs --topology, e.g. v5e:16x16; there are {names}")
    if json_file is not None:
        atomic.check_writable(pathlib.Path(json_file).resolve().parent, "choose another --json")
    devices = aot_compile.topology_devices(topology)
    aot_compile.check_plannable(config, len(devices))
    if sweep is not None:
        plan = plan_sweep.sweep(config, topology, devices, sweep, say)
    else:
        plan = step_estimate.plan_config(config, topology, devices)
        say("\n".join(table.format_plan(plan)))
    if json_file is not None:
        atomic.write_text_atomic(pathlib.Path(json_file), json.dumps(plan, indent=1))
    return plan
