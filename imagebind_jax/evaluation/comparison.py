"""Two runs side by side: differences with paired intervals, and where the runs cannot be compared."""

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from imagebind_jax.errors import one_line
from imagebind_jax.evaluation import results
from imagebind_jax.evaluation.metrics import bootstrap
from imagebind_jax.evaluation.metrics.bootstrap import Estimate
from imagebind_jax.evaluation.results import BenchmarkResult, ResultsFile


@dataclasses.dataclass(frozen=True)
class MetricDelta:
    """One number of both runs."""

    benchmark: str
    number: str
    ours: float
    theirs: float
    difference: float
    low: float | None  # of the difference's 95 % interval, where both have the same samples
    high: float | None
    share: bool


@dataclasses.dataclass(frozen=True)
class RunComparison:
    """A run beside another."""

    ours: str
    theirs: str
    rows: tuple[MetricDelta, ...]
    warnings: tuple[str, ...] = ()


def compare_runs(
    ours: ResultsFile,
    folder: str | os.PathLike,
    other: str | os.PathLike,
    *,
    names: Sequence[str],
    resamples: int,
    seed: int,
) -> RunComparison:
    """Our results beside those of `other`, a results.json or its folder. Raises UserError.

    names: of the benchmarks to compare. Where the other run kept samples that belong together with
    ours, in number, groups and strata, the difference is that of pairs; else only the plain one.
    """
    theirs = results.read_results(other)
    rows: list[MetricDelta] = []
    warnings = []
    for name in names:
        if name not in ours.benchmarks or name not in theirs.benchmarks:
            if name in ours.benchmarks or name in theirs.benchmarks:
                who = ours.of if name in ours.benchmarks else theirs.of
                warnings.append(f"{name}: only {who} has it")
            continue
        mine, yours = ours.benchmarks[name], theirs.benchmarks[name]
        warnings += [f"{name}: {what}" for what in _differ(mine, yours)]
        a, b = (
            results.load_estimates(folder, name, mine),
            results.load_estimates(other, name, yours),
        )
        for number in a:
            if number in b and a[number].share == b[number].share:
                found = None
                if mine.records == yours.records:
                    found = _paired(a[number], b[number], resamples, seed)
                rows.append(_row(name, number, a[number], b[number], found))
    warnings += [
        f"{name}: only {theirs.of} has it" for name in theirs.benchmarks if name not in names
    ]
    return RunComparison(ours.of, theirs.of, tuple(rows), tuple(warnings))


def _paired(a: Estimate, b: Estimate, resamples: int, seed: int) -> Estimate | None:
    if a.samples is None or b.samples is None:
        return None
    return bootstrap.paired_difference(a, b, resamples=resamples, seed=seed)


def _row(name: str, number: str, a: Estimate, b: Estimate, found: Estimate | None) -> MetricDelta:
    low = high = None
    apart = a.value - b.value
    if found and math.isfinite(found.low) and math.isfinite(found.high):
        # Of the samples that both have, as its interval: one of them may have left some out.
        apart, low, high = found.value, found.low, found.high
    return MetricDelta(name, number, a.value, b.value, apart, low, high, a.share)


def _differ(ours: BenchmarkResult, theirs: BenchmarkResult) -> list[str]:
    """Why the numbers of both may differ for another reason than the weights."""
    said = []
    if names := _changed(ours.records, theirs.records):
        said.append(f"other records: {names}")
    if names := _changed(ours.settings, theirs.settings):
        said.append(f"other settings: {names}")
    if ours.samples != theirs.samples or ours.unusable != theirs.unusable:
        counts = [f"{e.samples - e.unusable} of {e.samples}" for e in (ours, theirs)]
        said.append(f"samples used: {counts[0]} here, {counts[1]} there")
    return said


def _changed(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    # A folder's content counts, and not where it lies.
    both = [name for name in {**ours, **theirs} if not name.endswith(".folder")]
    names = [one_line(name, 100) for name in both if ours.get(name) != theirs.get(name)]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
