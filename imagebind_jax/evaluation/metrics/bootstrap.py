"""Numbers with their uncertainty: bootstrap over samples, seeded."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Float, Int

from imagebind_jax.errors import UserError

PERCENTILES = (2.5, 97.5)  # percentiles: 95 % intervals
_AT_ONCE = 1 << 20  # samples drawn before they are counted: some 30 MB


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number, and the 95 % interval in which other samples of the same kind would put it."""

    value: float
    low: float
    high: float
    n: int  # samples, or groups of them, that were drawn from
    share: bool = True  # of 1, shown in percent; else a plain number such as a rank
    spread: float | None = None  # standard deviation over folds, or draws of training samples
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
    there are. Without resamples the interval is NaN. Where all samples are alike (100 % right) it
    is a point, and strata of a few samples make it too narrow: at 5 each by a tenth.
    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    found = [
        float(metric(times.astype(np.float64)))
        for some in resample_counts(n, groups=groups, strata=strata, resamples=resamples, seed=seed)
        for times in some
    ]
    value = float(metric(np.ones(n))) if n else float("nan")
    count = n if groups is None else len(np.unique(groups))
    return Estimate(value, *percentile_interval(np.array(found)), count, share)


def resample_counts(
    n: int,
    *,
    groups: Int[np.ndarray, "n"] | None = None,
    strata: Int[np.ndarray, "n"] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Iterator[Int[np.ndarray, "draws n"]]:
    """How often each of n samples counts in each resample, some resamples at a time."""
    units, layers = _units(n, groups, strata)
    count = len(layers)
    for places in _draw_units(layers, resamples, seed):
        rows = places + count * np.arange(len(places))[:, None]
        times = np.bincount(rows.ravel(), minlength=count * len(places))
        yield times.reshape(-1, count)[:, units]


def percentile_interval(
    found: Float[np.ndarray, "resamples"], around: float | None = None
) -> tuple[float, float]:
    """The 95 % interval of a number's resamples; what is not a number is left out.

    around: the number itself, of a kind that resampling shifts (an average precision rises, since
    what is drawn twice is found at once): the interval is moved back by the mean shift.
    """
    found = found[~np.isnan(found)]
    if not len(found):
        return float("nan"), float("nan")
    shift = 0.0 if around is None else found.mean() - around
    low, high = np.percentile(found, PERCENTILES) - shift
    return float(low), float(high)


def bootstrap_mean(
    samples: Float[np.ndarray, "n"],
    *,
    groups: Int[np.ndarray, "n"] | None = None,
    strata: Int[np.ndarray, "n"] | None = None,
    resamples: int = 1000,
    seed: int = 0,
    share: bool = True,
) -> Estimate:
    """The mean of samples, or the mean of the strata's means (of classes, of folds).

    Samples that are NaN, of records without an input, are left out. The interval is that of
    `bootstrap`, but quicker.
    """
    there = ~np.isnan(samples)
    kept = samples[there].astype(np.float64)
    layer = None if strata is None else strata[there]
    units, layers = _units(len(kept), None if groups is None else groups[there], layer)
    totals, sizes = np.bincount(units, kept), np.bincount(units)
    # The units of a stratum stand side by side, and so do the ones drawn of them.
    first = np.flatnonzero(np.diff(layers, prepend=-1))

    def of(drawn: Int[np.ndarray, "draws units"]) -> Float[np.ndarray, "draws"]:
        sums = np.add.reduceat(totals[drawn], first, axis=-1)
        return (sums / np.add.reduceat(sizes[drawn], first, axis=-1)).mean(axis=-1)

    found = [of(places) for places in _draw_units(layers, resamples, seed)]
    value = float(of(np.arange(len(layers))[None])[0]) if len(kept) else float("nan")
    low, high = percentile_interval(np.concatenate([np.empty(0), *found]))
    return Estimate(
        value, low, high, len(layers), share, samples=samples, groups=groups, strata=strata
    )


def paired_difference(
    a: Estimate, b: Estimate, *, resamples: int = 1000, seed: int = 0
) -> Estimate | None:
    """How much a is above b, by the same resamples of the samples that both have.

    None where they cannot be paired: not means, or not of the same samples, groups and strata.
    """
    same = (
        a.samples is not None
        and b.samples is not None
        and len(a.samples) == len(b.samples)
        and a.share == b.share
        and _equal(a.groups, b.groups)
        and _equal(a.strata, b.strata)
    )
    if not same:
        return None
    assert a.samples is not None and b.samples is not None
    apart = a.samples.astype(np.float64) - b.samples
    return bootstrap_mean(
        apart, groups=a.groups, strata=a.strata, resamples=resamples, seed=seed, share=a.share
    )


def nan_mean(values: Sequence[float]) -> float:
    """The mean of the values that are numbers; NaN if none is."""
    there = [value for value in values if not np.isnan(value)]
    return float(np.mean(there)) if there else float("nan")


def nan_std(values: Sequence[float]) -> float | None:
    """The standard deviation of the values that are numbers; None of fewer than two."""
    there = [value for value in values if not np.isnan(value)]
    return float(np.std(there, ddof=1)) if len(there) > 1 else None


def _equal(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    return a is b if a is None or b is None else np.array_equal(a, b)


def _units(
    n: int, groups: Int[np.ndarray, "n"] | None, strata: Int[np.ndarray, "n"] | None
) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "units"]]:
    """(what each sample is drawn with, the stratum of each such unit in ascending order)."""
    own = np.zeros(n, int) if strata is None else np.unique(strata, return_inverse=True)[1]
    units = np.arange(n) if groups is None else np.unique(groups, return_inverse=True)[1]
    layers = np.zeros(int(units.max()) + 1 if n else 0, int)
    layers[units] = own
    if np.any(layers[units] != own):
        raise UserError("samples that are drawn together belong to different classes or folds")
    order = np.argsort(layers, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return place[units], layers[order]


def _draw_units(
    layers: Int[np.ndarray, "units"], resamples: int, seed: int
) -> Iterator[Int[np.ndarray, "draws units"]]:
    """The units that are drawn, each of the stratum of its place, some resamples at a time."""
    rng, sizes = np.random.default_rng(seed), np.bincount(layers)
    size, first = sizes[layers], (np.cumsum(sizes) - sizes)[layers]
    at_once = max(1, _AT_ONCE // max(len(layers), 1))
    for start in range(0, resamples if len(layers) else 0, at_once):
        shape = (min(at_once, resamples - start), len(layers))
        yield first + (rng.random(shape) * size).astype(int)
