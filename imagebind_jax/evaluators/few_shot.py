"""Linear probes on frozen embeddings: what a supervised reader could get out of them."""

import itertools

import numpy as np
from jaxtyping import Float, Int

from imagebind_jax.evaluators import retrieval
from imagebind_jax.evaluators.common import unit


def linear_probe(
    train: Float[np.ndarray, "n e"],
    train_labels: Int[np.ndarray, "n"],
    test: Float[np.ndarray, "m e"],
    test_labels: Int[np.ndarray, "m"],
) -> float:
    """Top-1 accuracy on `test` of a logistic regression fitted to `train`.

    Its L2 penalty is chosen by 5-fold cross-validation on `train`.
    """
    from sklearn.linear_model import LogisticRegressionCV

    mean, std = train.mean(axis=0), train.std(axis=0) + 1e-6
    probe = LogisticRegressionCV(
        Cs=[0.003, 0.03, 0.3, 3.0, 30.0],
        cv=5,
        max_iter=2000,
        scoring="accuracy",
        l1_ratios=(0,),
        use_legacy_attributes=False,
    )
    probe.fit((train - mean) / std, train_labels)
    return float(np.mean(probe.predict((test - mean) / std) == test_labels))


PENALTIES = (1e-3, 1e-2, 1e-1)
IDENTITIES = (0.0, 0.1, 0.3, 1.0, 3.0)


def linear_map(
    query: Float[np.ndarray, "n e"], key: Float[np.ndarray, "n e"]
) -> Float[np.ndarray, "d e"]:
    """A linear map (its last row a bias) from query embeddings to those of their keys.

    A ridge regression on true pairs plus a multiple of the identity; penalty and multiple are the
    ones that retrieve best on a held-out third of the pairs. A supervised reference for retrieval
    by cosine, not an upper bound: it minimises squares, not ranks.
    """
    x, y = with_bias(query), unit(key)
    fit, choose = slice(0, 2 * len(x) // 3), slice(2 * len(x) // 3, None)

    def solve(rows, penalty, identity):
        gram = x[rows].T @ x[rows]
        gram += penalty * np.trace(gram) / len(gram) * np.eye(len(gram))
        found = np.linalg.solve(gram, x[rows].T @ y[rows])
        return found + identity * np.eye(*found.shape)

    def score(setting):
        return retrieval.recall(retrieval.ranks(x[choose] @ solve(fit, *setting), y[choose]), k=5)

    best = max(itertools.product(PENALTIES, IDENTITIES), key=score)
    return solve(slice(None), *best)


def with_bias(x: Float[np.ndarray, "n e"]) -> Float[np.ndarray, "n d"]:
    """Unit vectors with a last column of ones."""
    return np.concatenate([unit(x), np.ones((len(x), 1), x.dtype)], axis=-1)
