"""A plan as numbers for JSON, and as lines for a terminal."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from imagebind_jax.plan.aot_compile import CompiledStep
from imagebind_jax.plan.roofline import MEMORY_HEADROOM, StepEstimate
from imagebind_jax.plan.tpu_topologies import Chip

Numbers = dict[str, Any]


def pair_report(compiled: CompiledStep, found: StepEstimate, chip: Chip) -> Numbers:
    """What is known of one pair's step: bytes and seconds of one device."""
    total = sum(compiled.memory.values())
    return {
        "memory": {**compiled.memory, "total": total},
        "of_chip": total / chip.memory,
        "fits": total <= chip.memory,
        "fits_with_room": total <= (1 - MEMORY_HEADROOM) * chip.memory,
        **dataclasses.asdict(found),
        "seconds": found.seconds,
        "bound": found.bound,
        "compile_seconds": compiled.seconds,
    }


def run_report(
    pairs: Mapping[str, Numbers], weights: Mapping[str, float], chip: Chip, rows: int, devices: int
) -> Numbers:
    """The mean step of a run, whose schedule draws each pair by its weight."""
    total = sum(weights.values())
    share = {name: weight / total for name, weight in weights.items()}
    seconds = sum(share[name] * pair["seconds"] for name, pair in pairs.items())
    flops = sum(share[name] * pair["flops"] for name, pair in pairs.items())
    # The program of each pair stays on the devices, whichever of them runs.
    programs = [pair["memory"].get("program", 0.0) for pair in pairs.values()]
    others = (p["memory"]["total"] - own for p, own in zip(pairs.values(), programs))
    memory = max(others) + sum(programs)
    return {
        "seconds": seconds,
        "utilisation": flops / chip.flops / seconds,
        "samples_per_second": rows / seconds,
        "memory": memory,
        "fits_with_room": memory <= (1 - MEMORY_HEADROOM) * chip.memory,
        "devices": devices,
    }


def format_plan(plan: Numbers) -> list[str]:
    """The plan as a table, a column a pair."""
    chip, pairs = plan["chip"], plan["pairs"]
    said = [
        f"{plan['topology']}: {plan['devices']} devices of {chip['memory'] / 1e9:.0f} GB, "
        f"{chip['flops'] / 1e12:.0f} TFLOP/s; global batch {plan['batch_size']}, "
        f"{plan['batch_size'] // plan['devices']} rows a device",
        "compiled for the slice and never run: times are estimates",
        "",
    ]
    cells = [["on each device", *pairs]]
    kinds = list(next(iter(pairs.values()))["memory"])
    cells += [[f"GB {kind}", *(_gb(p["memory"][kind]) for p in pairs.values())] for kind in kinds]
    cells += [["  of the chip's memory", *(f"{p['of_chip']:.0%}" for p in pairs.values())]]
    for kind in sorted({kind for pair in pairs.values() for kind in pair["collectives"]}):
        found = [pair["collectives"].get(kind) for pair in pairs.values()]
        each = [f"{_count(c['runs'])} x, {_gb(c['bytes'])} GB" if c else "–" for c in found]
        cells += [[kind, *each]]
    cells += [["TFLOP of the model", *(_digits(p["flops"] / 1e12) for p in pairs.values())]]
    for resource in ("compute", "memory", "network"):
        cells += [
            [f"ms at least, by {resource}", *(_ms(p["limits"][resource]) for p in pairs.values())]
        ]
    cells += [["  so bound by", *(p["bound"] for p in pairs.values())]]
    for name, meaning in (
        ("computing", "ms in the compiler's schedule"),
        ("kernels", "ms at least, kernels of ours"),
        ("waiting", "ms waiting for exchanges"),
        ("hidden", "ms of exchanges beside work"),
        ("seconds", "ms a step, estimated"),
    ):
        cells += [[meaning, *(_ms(p[name]) for p in pairs.values())]]
    cells += [["MFU, estimated", *(f"{p['utilisation']:.2f}" for p in pairs.values())]]
    cells += [["s to compile", *(f"{p['compile_seconds']:.0f}" for p in pairs.values())]]
    said += align_columns(cells)
    said += ["", *_verdict(plan)]
    for name, pair in pairs.items():
        slow = ", ".join(f"{row['of'][-60:]} {_ms(row['seconds'])}" for row in pair["slowest"][:3])
        said.append(f"most time in {name}, ms: {slow}")
    return said


def _verdict(plan: Numbers) -> list[str]:
    run, memory = plan["run"], plan["chip"]["memory"]
    room = 1 - run["memory"] / memory
    fits = f"{room:.0%} of the memory to spare"
    if not run["fits_with_room"]:
        fits = f"only {fits}, and {MEMORY_HEADROOM:.0%} are wise: {plan['remedy']}"
    said = [
        f"fits, with {fits}" if room > 0 else f"does not fit: {plan['remedy']}",
        f"{1e3 * run['seconds']:.0f} ms a step, {run['samples_per_second']:,.0f} samples/s, "
        f"MFU {run['utilisation']:.2f} (estimated)",
    ]
    for name, pair in plan["pairs"].items():
        if pair["unclear"]:
            said.append(f"{name}: {pair['unclear']} loops of unknown length were counted once")
        if pair["unstated"]:
            said.append(f"{name}: {pair['unstated']} kernels do not say what they compute")
        if pair["kernels"]:
            share = pair["kernels"] / pair["seconds"]
            said.append(f"{name}: {share:.0%} of the time is a bound of our kernels, no estimate")
    return said


def align_columns(cells: Sequence[Sequence[str]]) -> list[str]:
    """Rows with their columns in line: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*cells)]
    return [
        "  ".join(
            text.rjust(width) if i else text.ljust(width)
            for i, (text, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in cells
    ]


def _gb(count: float) -> str:
    return _digits(count / 1e9)


def _ms(seconds: float) -> str:
    return _digits(1e3 * seconds)


def _digits(number: float) -> str:
    """Three digits or all before the point, and never more than four behind it."""
    for smallest, places in ((100, 0), (10, 1), (1, 2), (0.1, 3)):
        if number >= smallest:
            return f"{number:,.{places}f}"
    return f"{number:.4f}" if number >= 0.00005 else "0"


def _count(runs: float) -> str:
    return f"{runs:,.0f}"
