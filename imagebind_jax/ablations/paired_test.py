"""The test that every verdict rests on: differences that are paired over seeds."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import stats

from imagebind_jax.errors import UserError

# Some sixty claims are tested at once: at 95 % three would be called by chance.
CONFIDENCE = 0.99
MIN_SEEDS = 3  # seeds
REPRODUCES, DOES_NOT, TOO_CLOSE = "reproduces", "does not reproduce", "too close to call"
YES, NO = "yes", "no"  # of claims that are not the paper's


@dataclasses.dataclass(frozen=True)
class PairedTest:
    """What the seeds say of "better > worse"."""

    difference: float  # mean over the seeds of better - worse
    low: float  # bounds of its CONFIDENCE interval
    high: float
    p: float  # two-sided
    says: str


def paired_t_test(
    better: Sequence[float], worse: Sequence[float], *, ours: bool = False
) -> PairedTest:
    """Student's paired t test: the interval of the mean difference, and what it excludes.

    better, worse: a number each seed, the same seeds in the same order. The claim reproduces where
    the whole interval lies above 0, does not where it lies below, and is too close to call where it
    holds 0. Differences that are all 0 are the closest there is. ours: the verdict is yes or no.
    Raises UserError for fewer than MIN_SEEDS seeds.
    """
    difference = np.asarray(better, float) - np.asarray(worse, float)
    n = len(difference)
    if n < MIN_SEEDS:
        raise UserError(f"a verdict over {n} seeds: {MIN_SEEDS} are the fewest")
    mean, error = float(difference.mean()), float(difference.std(ddof=1)) / n**0.5
    if error == 0:  # a difference without any spread is exactly that
        low, high, p = mean, mean, float(mean == 0)
    else:
        reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * error
        low, high = mean - reach, mean + reach
        p = float(2 * stats.t.sf(abs(mean) / error, n - 1))
    yes, no = (YES, NO) if ours else (REPRODUCES, DOES_NOT)
    return PairedTest(mean, low, high, p, yes if low > 0 else no if high < 0 else TOO_CLOSE)


def mean_and_std(values: Sequence[float]) -> tuple[float, float]:
    """(mean, standard deviation over the seeds)."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
