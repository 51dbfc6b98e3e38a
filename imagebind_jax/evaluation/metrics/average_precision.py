"""Average precision of many classes at once, exact with ties, and quick to resample."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from imagebind_jax.evaluation.metrics import bootstrap
from imagebind_jax.evaluation.metrics.bootstrap import Estimate


@dataclasses.dataclass(frozen=True)
class RankedScores:
    """Where the positive samples of each class stand among all; sorted once, for any weights.

    A step is the stretch of samples from a positive one, without it and its equals, to the next,
    with it and its equals. Rows of the sparse matrices add up the weights of some samples.
    """

    every: Any  # [steps, n]: all samples of a step
    right: Any  # [steps, n]: its positive ones
    positive: Any  # [classes, n]: the positive ones of a class
    classes: Int[np.ndarray, "found"]  # those with a step
    first: Int[np.ndarray, "found"]  # and its number


def rank_scores(
    scores: Float[np.ndarray, "n c"], positive: Bool[np.ndarray, "n c"]
) -> RankedScores:
    """Sorts the samples by each class. What is not a number is never found."""
    every, right, ends, counts, classes, first = [], [], [0], [0], [], []
    for column in range(scores.shape[1]):
        values = scores[:, column]
        order = np.argsort(-values, kind="stable")
        order = order[: len(order) - np.isnan(values).sum()]  # the last ones
        hit = np.flatnonzero(positive[order, column])
        if not len(hit):
            continue
        values = values[order]
        last = np.append(np.flatnonzero(values[1:] != values[:-1]), len(values) - 1)
        stop, count = np.unique(last[np.searchsorted(last, hit)], return_counts=True)
        classes.append(column)
        first.append(len(ends) - 1)
        every.append(order[: stop[-1] + 1])
        right.append(order[hit])
        ends.extend((ends[-1] + stop + 1).tolist())
        counts.extend((counts[-1] + np.cumsum(count)).tolist())
    each = positive.T
    return RankedScores(
        _adding(every, ends, len(scores)),
        _adding(right, counts, len(scores)),
        _adding([np.flatnonzero(row) for row in each], _ends(each.sum(axis=-1)), len(scores)),
        np.array(classes, int),
        np.array(first, int),
    )


def _ends(counts: np.ndarray) -> list[int]:
    return [0, *np.cumsum(counts).tolist()]


def _adding(members: list[np.ndarray], ends: list[int], n: int) -> Any:
    """The sparse matrix whose row i adds up members[ends[i]:ends[i + 1]]."""
    from scipy import sparse

    columns = np.concatenate([np.empty(0, np.int32), *members]).astype(np.int32)
    ones = np.ones(len(columns), np.float32)
    return sparse.csr_array((ones, columns, np.array(ends)), shape=(len(ends) - 1, n))


def average_precision(
    ranking: RankedScores, weights: Float[np.ndarray, "n draws"]
) -> Float[np.ndarray, "draws c"]:
    """The sum over thresholds of the gain in recall times the precision, of each class.

    NaN for a class of whose positives none counts. Equal scores are found at once, as by
    scikit-learn's `average_precision_score`. float32 weights are exact where they count to 2**24.
    """
    found = np.full((ranking.positive.shape[0], weights.shape[1]), np.nan)
    gain, step = (x @ weights for x in (ranking.right, ranking.every))
    if len(ranking.first):
        lengths = np.diff(ranking.first, append=len(gain))
        right, every = (_cumulative(x, ranking.first, lengths) for x in (gain, step))
        precision = np.divide(right, every, out=np.zeros_like(right), where=every > 0)
        found[ranking.classes] = np.add.reduceat(gain * precision, ranking.first, axis=0)
    total = ranking.positive @ weights
    found[(total > 0) & np.isnan(found)] = 0  # all positives' scores are not numbers
    return np.divide(found, total, out=np.full_like(found, np.nan), where=total > 0).T


def _cumulative(x: np.ndarray, first: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Sums from the first step of a class on."""
    sums = np.cumsum(x, axis=0, dtype=np.float64)
    before = np.where(first[:, None] > 0, sums[first - 1], 0)
    sums -= np.repeat(before, lengths, axis=0)
    return sums


def mean_average_precision(
    ranking: RankedScores, weights: Float[np.ndarray, "n draws"]
) -> Float[np.ndarray, "draws"]:
    """The mean over the classes of which a positive sample counts; NaN if there is none."""
    found = average_precision(ranking, weights)
    there = ~np.isnan(found)
    total, count = np.where(there, found, 0).sum(axis=-1), there.sum(axis=-1)
    return np.divide(total, count, out=np.full(len(found), np.nan), where=count > 0)


def bootstrap_map(
    rankings: Sequence[RankedScores],
    *,
    groups: Int[np.ndarray, "n"] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Estimate:
    """The mean average precision, or its mean over folds, and its interval.

    groups: of the samples of all folds, one after the other. Resampling shifts this number, and
    the interval is moved back; it then holds the mean of other sets of as many samples.
    """
    ends = np.cumsum([0, *(ranking.positive.shape[1] for ranking in rankings)])
    fold = np.repeat(np.arange(len(rankings)), np.diff(ends))

    def of(times: np.ndarray) -> np.ndarray:  # [draws, n] -> [draws, folds]
        parts = np.split(np.ascontiguousarray(times.T, np.float32), ends[1:-1])
        each = [mean_average_precision(*pair) for pair in zip(rankings, parts)]
        return np.stack(each, axis=-1)

    each = of(np.ones((1, ends[-1])))[0].tolist()
    value, found = bootstrap.nan_mean(each), [np.empty(0)]
    for times in bootstrap.resample_counts(
        int(ends[-1]), groups=groups, strata=fold, resamples=resamples, seed=seed
    ):
        found.append(np.array([bootstrap.nan_mean(row) for row in of(times).tolist()]))
    low, high = bootstrap.percentile_interval(np.concatenate(found), around=value)
    n = int(ends[-1]) if groups is None else len(np.unique(groups))
    return Estimate(value, low, high, n, spread=bootstrap.nan_std(each))


def chance_map(positive: Bool[np.ndarray, "n c"]) -> float:
    """The mean average precision to expect of samples in random order.

    It is above the mean prevalence (which equal scores give) by up to ln(n) / n. Source: the
    precision at place k of a positive there, averaged: one and its share of the others, of k.
    """
    n, count = len(positive), positive.sum(axis=0)
    count = count[count > 0]
    if not len(count):
        return float("nan")
    harmonic = np.sum(1 / np.arange(1, n + 1))
    others = (count - 1) / max(n - 1, 1) * (n - harmonic)
    return float(np.mean((harmonic + others) / n))
