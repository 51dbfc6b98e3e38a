"""What runs in a compiled program, and how often: the compiler's cycles, exchanges, own kernels.

The compiler's totals count the body of a loop once. Here each instruction counts as often as the
loops around it turn: a loop's turns are read from its condition, where it begins and its step.
"""

import dataclasses
import json
import math
import re

from imagebind_jax.plan import hlo_parser
from imagebind_jax.plan.hlo_parser import Computation, Instruction
from imagebind_jax.plan.hlo_traffic import hbm_bytes

COLLECTIVES = (
    "all-gather",
    "reduce-scatter",
    "all-reduce",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)


@dataclasses.dataclass(frozen=True)
class Collective:
    """One exchange between devices: `sent` bytes a device each time, over all times that it runs.

    hidden: it goes on while the device computes something else.
    """

    kind: str
    runs: int
    sent: float
    hidden: bool
    shape: str
    source: str


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A kernel of our own, for which the compiler states no cycles: its stated work, each time."""

    name: str
    runs: int
    flops: float
    bytes: float
    transcendentals: float
    stated: bool  # False: it says nothing, and `bytes` are those of its arguments and results


@dataclasses.dataclass(frozen=True)
class Operation:
    """An instruction with the compiler's cycles for all its runs."""

    cycles: int
    runs: int
    op: str
    shape: str
    source: str


@dataclasses.dataclass(frozen=True)
class Schedule:
    """One device's program. traffic: bytes to and from its memory. unclear: loops of unknown turns,
    counted as one."""

    operations: list[Operation]
    collectives: list[Collective]
    kernels: list[Kernel]
    traffic: float
    unclear: int

    @property
    def cycles(self) -> int:
        return sum(each.cycles for each in self.operations)


def read_schedule(text: str) -> Schedule:
    """What runs, how often, of a compiled program's `as_text()`."""
    computations, entry = hlo_parser.parse_hlo(text)
    partitions = re.search(r"num_partitions=(\d+)", text[: text.index("\n")])
    return _Reader(computations, int(partitions[1]) if partitions else 1).read(entry)


class _Reader:
    def __init__(self, computations: dict[str, Computation], devices: int):
        self.computations, self.devices = computations, devices
        self.found = Schedule([], [], [], 0.0, 0)
        self.traffic, self.unclear = 0.0, 0

    def read(self, entry: str) -> Schedule:
        self._visit(entry, 1)
        return dataclasses.replace(self.found, traffic=self.traffic, unclear=self.unclear)

    def _visit(self, name: str, runs: int) -> None:
        computation = self.computations[name]
        for each in computation.values():
            if each.op == "while":
                times = trip_count(self.computations, computation, each)
                self.unclear += not times
                self._visit(each.called("body"), runs * (times or 1))
            elif each.op in ("call", "conditional"):
                for called in self._branches(each):
                    self._visit(called, runs)
            else:
                self._count(computation, each, runs)

    def _branches(self, each: Instruction) -> list[str]:
        """What a call runs; of a conditional's branches the longest text stands for all."""
        names = re.search(r"branch_computations=\{([^}]*)\}", each.rest)
        listed = re.findall(r"[\w.\-]+", names[1]) if names else []
        listed += [each.called(key) for key in ("true_computation", "false_computation")]
        listed = [name for name in listed if name in self.computations]
        if listed:
            return [max(listed, key=lambda name: len(self.computations[name]))]
        return [name for name in (each.called("to_apply"),) if name in self.computations]

    def _count(self, computation: Computation, each: Instruction, runs: int) -> None:
        if cycles := re.search(r'"estimated_cycles":"(\d+)"', each.rest):
            operation = Operation(int(cycles[1]) * runs, runs, each.op, each.shape, each.source)
            self.found.operations.append(operation)
        self.traffic += float(runs) * hbm_bytes(self.computations, computation, each)
        kind = each.op.removesuffix("-start")
        if kind in COLLECTIVES:
            self._exchange(computation, each, kind, runs, hidden=kind != each.op)
        elif each.op == "custom-call" and 'custom_call_target="tpu_custom_call"' in each.rest:
            self.found.kernels.append(_kernel(computation, each, runs))
        elif inner := self.computations.get(each.called("calls")):
            self._inside(inner, runs, each)

    def _inside(self, computation: Computation, runs: int, around: Instruction) -> None:
        """Collectives of a fusion, or of an asynchronous computation.

        One that is fused with other work appears in every fusion that it goes on in: it counts
        where it starts.
        """
        if around.op in ("async-update", "async-done"):
            return
        started = {
            name
            for each in computation.values()
            if "AsyncCollectiveStart" in each.rest
            for name in each.operands
        }
        for each in computation.values():
            if each.op in COLLECTIVES:
                spread = "async_collective_fusion_config" in each.rest
                if not spread or each.name in started:
                    scatters = "all-reduce-scatter" in around.rest
                    kind = "reduce-scatter" if scatters else each.op
                    hidden = spread or around.op == "async-start"
                    self._exchange(computation, each, kind, runs, hidden=hidden)
            elif inner := self.computations.get(each.called("calls")):
                self._inside(inner, runs, each)

    def _exchange(self, computation, each, kind, runs, *, hidden) -> None:
        operands = [computation[name].shape for name in each.operands if name in computation]
        if kind == "collective-permute":
            operands = operands[:1]  # others say where to put it
        held, n = sum(map(hlo_parser.shape_bytes, operands)), self._group(each)
        share = (n - 1) / n
        sent = {"all-gather": n - 1, "all-reduce": 2 * share, "collective-permute": 1.0}.get(
            kind, share
        )
        shape = ", ".join(re.sub(r"\{[^}]*\}", "", shape) for shape in operands)
        self.found.collectives.append(
            Collective(kind, runs, float(sent * held), hidden, shape, each.source)
        )

    def _group(self, each: Instruction) -> int:
        """How many devices take part in one exchange."""
        if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\] ?\{([^}]*)\}", each.rest):
            axes = dict(re.findall(r"'([^']+)'=(\d+)", mesh[1]))
            return math.prod(int(axes[name]) for name in re.findall(r"'([^']+)'", mesh[2]))
        if counted := re.search(r"replica_groups=\[\d+,(\d+)\]", each.rest):
            return int(counted[1])
        if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", each.rest):
            return len(listed[1].split(","))
        return self.devices


def _kernel(computation: Computation, each: Instruction, runs: int) -> Kernel:
    found = re.search(r'"cost_estimate":(\{[^}]*\})', each.rest)
    cost = {name: float(n) for name, n in json.loads(found[1]).items()} if found else {}
    shapes = [each.shape, *(computation[name].shape for name in each.operands)]
    moved = cost.get("bytes_accessed") or sum(map(hlo_parser.shape_bytes, shapes))
    work = cost.get("flops", 0.0), float(moved), cost.get("transcendentals", 0.0)
    return Kernel(each.source or each.name, runs, *work, stated=bool(cost))


# ---- how often


def trip_count(computations: dict[str, Computation], around: Computation, loop: Instruction) -> int:
    """How often the body of a while loop runs; 0 where its condition does not say it.

    Understood is a counter, an element of the loop's tuple, that is compared with a constant.
    """
    condition = computations[loop.called("condition")]
    inside = [*condition.values()]
    for each in condition.values():  # the comparison may be wrapped
        inside += computations.get(each.called("calls"), {}).values()
    limits = [n for n in map(_integer, inside) if n is not None]
    counters = [each for each in condition.values() if each.op == "get-tuple-element"]
    compared = [each for each in inside if each.op == "compare"]
    if len(limits) != 1 or len(counters) != 1 or len(compared) != 1:
        return 0
    index = _index(counters[0])
    last = limits[0] + ("direction=LE" in compared[0].rest)
    step = _step(computations[loop.called("body")], index)
    return max(0, -(-(last - _initial_counter(around, loop, index)) // step))


def _integer(each: Instruction) -> int | None:
    """The value of an integer constant."""
    text = each.rest.partition("|")[0]
    whole = each.op == "constant" and re.match(r"[su]\d+\[\]", each.shape)
    return int(text) if whole and re.fullmatch(r"-?\d+", text) else None


def _index(element: Instruction) -> int:
    found = re.search(r"index=(\d+)", element.rest)
    return int(found[1]) if found else 0


def _initial_counter(around: Computation, loop: Instruction, index: int) -> int:
    """The counter's value before the loop: 0, unless it is given as another constant."""
    start = around.get(loop.operands[0])
    if start is None or start.op != "tuple":
        return 0
    value = around.get(start.operands[index])
    while value is not None and value.op in ("copy", "bitcast"):
        value = around.get(value.operands[0])
    return (_integer(value) if value else None) or 0


def _step(body: Computation, index: int) -> int:
    """What the body adds to the counter: 1, unless it adds another constant."""
    root = next(each for each in body.values() if each.root)
    after = body.get(root.operands[index]) if root.op == "tuple" else None
    added = [_integer(body[name]) for name in after.operands if name in body] if after else []
    return next((n for n in added if n), 1)
