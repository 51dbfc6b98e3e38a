"""What a compiled step should take: the compiler's schedule beside what the chip allows at all.

Nothing of it was timed. The schedule is what the compiler believes of its own program.
"""

import collections
import dataclasses
from typing import Any

from imagebind_jax.plan import hlo_schedule
from imagebind_jax.plan.tpu_topologies import Chip

MEMORY_HEADROOM = (
    0.2  # of a device's memory: what a plan leaves to what the compiler does not know of
)


@dataclasses.dataclass(frozen=True)
class StepEstimate:
    """Of one step on one device; seconds, bytes, operations.

    computing: the compiler's cycles. kernels: of our own kernels, of which it knows none; what the
    chip needs at least for the work that they state. waiting: exchanges with other devices that
    nothing else goes on beside, at the full speed of all links. `seconds` is the sum of these, or
    what the exchanges that are hidden, or the memory, need, if that is longer.
    """

    flops: float  # of the model, not of the program
    computing: float
    kernels: float
    waiting: float
    hidden: float
    limits: dict[str, float]  # resource -> seconds that it needs at the least
    utilisation: float  # of the chip's bfloat16 operations (MFU), estimated
    collectives: dict[str, dict[str, float]]  # kind -> runs, bytes sent
    slowest: list[dict[str, Any]]
    unclear: int  # loops of which it is not known how often they turn
    unstated: int  # kernels that do not say what they compute

    @property
    def seconds(self) -> float:
        """The estimate of a step's time."""
        alone = self.computing + self.kernels + self.waiting
        return max(alone, self.hidden, self.limits["memory"])

    @property
    def bound(self) -> str:
        """The resource that limits a step on this chip, were the program perfect."""
        return max(self.limits, key=lambda name: self.limits[name])


def estimate_step(found: hlo_schedule.Schedule, chip: Chip, flops: float) -> StepEstimate:
    """`flops`: of the model, a device's share of a step."""
    kernels = sum(_kernel(each, chip) * each.runs for each in found.kernels)
    sent = {hidden: 0.0 for hidden in (False, True)}
    kinds: dict[str, dict[str, float]] = collections.defaultdict(
        lambda: {"runs": 0.0, "bytes": 0.0}
    )
    for each in found.collectives:
        sent[each.hidden] += each.runs * each.sent
        kinds[each.kind]["runs"] += each.runs
        kinds[each.kind]["bytes"] += each.runs * each.sent
    made = StepEstimate(
        flops=flops,
        computing=found.cycles / chip.clock,
        kernels=kernels,
        waiting=sent[False] / chip.links,
        hidden=sent[True] / chip.links,
        limits={
            "compute": flops / chip.flops,
            "memory": found.traffic / chip.bandwidth,
            "network": sum(sent.values()) / chip.links,
        },
        utilisation=0.0,
        collectives=dict(kinds),
        slowest=_slowest(found, chip),
        unclear=found.unclear,
        unstated=sum(not each.stated for each in found.kernels),
    )
    return dataclasses.replace(made, utilisation=flops / chip.flops / made.seconds)


def _kernel(each: hlo_schedule.Kernel, chip: Chip) -> float:
    """Seconds that the chip needs at least for what a kernel says it does."""
    return max(each.flops / chip.flops, each.bytes / chip.bandwidth)


def _slowest(found: hlo_schedule.Schedule, chip: Chip, count: int = 8) -> list[dict[str, Any]]:
    """Where the time goes: what comes from the same line of the model is one row."""
    rows: dict[str, dict[str, float]] = collections.defaultdict(
        lambda: {"seconds": 0.0, "runs": 0.0}
    )
    for operation in found.operations:
        row = rows[_source_name(operation.source) or operation.op]
        row["seconds"] += operation.cycles / chip.clock
        row["runs"] += operation.runs
    for kernel in found.kernels:
        row = rows[_source_name(kernel.name)]
        row["seconds"] += _kernel(kernel, chip) * kernel.runs
        row["runs"] += kernel.runs
    ordered = sorted(rows.items(), key=lambda item: -item[1]["seconds"])
    return [{"of": name, **row} for name, row in ordered[:count]]


def _source_name(source: str) -> str:
    """JAX's name of a line, without what it stands in: jit, shard_map, loops, remat."""
    noise = {
        "while",
        "body",
        "closed_call",
        "eval_jaxpr",
        "checkpoint",
        "shard_map",
        "cond",
        "branch",
    }
    parts = [part for part in source.split("/") if part and part not in noise]
    return "/".join(part for part in parts if not part.startswith(("jit(", "rematted")))
