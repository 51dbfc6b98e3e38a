"""Numbers with their uncertainty: bootstrap over samples, seeded."""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

COVERED = (2.5, 97.5)  # percentiles: 95 % intervals


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number, and the 95 % interval in which other samples of the same kind would put it."""

    value: float
    low: float
    high: float
    n: int  # samples, or groups of them, that were drawn from
    share: bool = True  # of 1, shown in percent; else a plain number such as a rank
    spread: float | None = (
        None  # standard deviation over draws of training samples, if there are any
    )
    # Where the number is a mean: what it is the mean of, so that two systems can be compared
    # sample by sample; and which samples belong together or count alike.
    samples: Float[np.ndarray, "n"] | None = dataclasses.field(default=None, repr=False)
    groups: Int[np.ndarray, "n"] | None = dataclasses.field(default=None, repr=False)
    strata: Int[np.ndarray, "n"] | None = dataclasses.field(default=None, repr=False)


def bootstrap(
    metric: Callable[[Float[np.ndarray, "n"]], float],
    n: int,
    *,
    groups: Int[np.ndarray, "n"] | None = None,
    strata: Int[np.ndarray, "n"] | None = None,
    resamples: int = 1000,
    seed: int = 0,
    share: bool = True,
) -> Estimate:
    """The percentile bootstrap of a metric of n samples.

    metric: how often each sample counts -> the number. groups: samples of one number (the captions
    of a recording) are drawn together. strata: as many are drawn of each number (class, fold) as
    there are. Without resamples the interval is NaN. Source: Efron and Tibshirani, 1993, chapter 13.
    """
    units = np.arange(n) if groups is None else np.unique(groups, return_inverse=True)[1]
    count = int(units.max()) + 1 if n else 0
    layer = np.zeros(count, int)
    if strata is not None:
        layer[units] = strata
    members = [np.flatnonzero(layer == each) for each in np.unique(layer)]
    rng = np.random.default_rng(seed)
    found = np.full(max(resamples, 1), np.nan)
    for i in range(resamples if n else 0):
        drawn = [each[rng.integers(len(each), size=len(each))] for each in members]
        times = np.bincount(np.concatenate(drawn), minlength=count)
        found[i] = metric(times[units].astype(np.float64))
    value = float(metric(np.ones(n))) if n else float("nan")
    low, high = (
        float(np.nanpercentile(found, p)) if n and resamples else float("nan") for p in COVERED
    )
    return Estimate(value, low, high, count, share)


def mean(
    samples: Float[np.ndarray, "n"],
    *,
    groups: Int[np.ndarray, "n"] | None = None,
    strata: Int[np.ndarray, "n"] | None = None,
    resamples: int = 1000,
    seed: int = 0,
    share: bool = True,
) -> Estimate:
    """The mean of samples, or the mean of the strata's means (of classes, of folds)."""
    samples = np.asarray(samples, np.float64)
    each = np.zeros(len(samples), int)
    if strata is not None:
        each = np.unique(strata, return_inverse=True)[1]

    def metric(times: Float[np.ndarray, "n"]) -> float:
        totals = np.bincount(each, times)
        return float(np.mean(np.bincount(each, times * samples) / np.maximum(totals, 1e-12)))

    found = bootstrap(
        metric,
        len(samples),
        groups=groups,
        strata=strata,
        resamples=resamples,
        seed=seed,
        share=share,
    )
    return dataclasses.replace(found, samples=samples, groups=groups, strata=strata)
