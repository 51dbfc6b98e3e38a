"""Accuracy of scores whose right class is known: top-k, mean per class, and what chance gives."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from imagebind_jax.evaluation.metrics import bootstrap


def top_k(
    scores: Float[np.ndarray, "n classes"], labels: Int[np.ndarray, "n"], k: int = 1
) -> Float[np.ndarray, "n"]:
    """1 where the label is among the k best, 0 where not.

    Equal scores go in random order, of which this is the expectation: where all are equal, k of
    the classes. A score that is not a number is never right, and comes before all others' labels.
    """
    own = np.take_along_axis(scores, labels[:, None], axis=-1)
    before = (~(scores <= own)).sum(axis=-1)
    equal = np.maximum((scores == own).sum(axis=-1), 1)
    return np.where(np.isnan(own[:, 0]), 0.0, np.clip((k - before) / equal, 0.0, 1.0))


def mean_per_class(correct: Float[np.ndarray, "n"], labels: Int[np.ndarray, "n"]) -> float:
    """The mean over the classes with samples of the share that is correct."""
    return bootstrap.bootstrap_mean(correct, strata=labels, resamples=0).value


def chance_accuracy(labels: Int[np.ndarray, "n"], counts: Sequence[int], k: int = 1) -> float:
    """Top-k accuracy to expect if all names' scores are alike and independent.

    counts: names of each class. A class of many names is then found more often: in top-1 by its
    share of all names. (The paper states 1 / classes.)
    """
    if not len(labels):
        return float("nan")
    names = np.asarray(counts)
    shares = np.bincount(labels, minlength=len(names)) / len(labels)
    if k >= len(names) or (names == names[0]).all():
        return min(1.0, k / len(names))
    # The best of m uniform scores is below v with probability v ** m. Given that a class's best
    # is v, ahead[i] is the probability that i others are better: a polynomial in v, so that
    # Gauss-Legendre nodes integrate it exactly.
    nodes, weights = np.polynomial.legendre.leggauss(int(names.sum()) // 2 + 1)
    v, weights = (nodes + 1) / 2, weights / 2
    found = 0.0
    for label in np.flatnonzero(shares):
        ahead = np.zeros((k, len(v)))
        ahead[0] = 1
        for below in v ** np.delete(names, label)[:, None]:
            better = np.concatenate([np.zeros((1, len(v))), ahead[:-1]])
            ahead = ahead * below + better * (1 - below)
        density = names[label] * v ** (names[label] - 1)
        found += shares[label] * float((weights * density * ahead.sum(axis=0)).sum())
    return found
