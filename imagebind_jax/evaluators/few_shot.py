"""Linear probes on frozen embeddings: what a supervised reader could get out of them."""

import numpy as np
from jaxtyping import Float, Int

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
        Cs=[0.003, 0.03, 0.3, 3.0],
        cv=5,
        max_iter=2000,
        scoring="accuracy",
        l1_ratios=(0,),
        use_legacy_attributes=False,
    )
    probe.fit((train - mean) / std, train_labels)
    return float(np.mean(probe.predict((test - mean) / std) == test_labels))


def ridge_map(
    query: Float[np.ndarray, "n e"], key: Float[np.ndarray, "n e"], penalty: float = 1e-2
) -> Float[np.ndarray, "d e"]:
    """The linear map (with a bias row) that best takes query embeddings to their keys.

    Fitted on true pairs, it is the supervised ceiling of retrieval by cosine.
    """
    x = with_bias(query)
    gram = x.T @ x + penalty * len(x) / x.shape[1] * np.eye(x.shape[1])
    return np.linalg.solve(gram, x.T @ unit(key))


def with_bias(x: Float[np.ndarray, "n e"]) -> Float[np.ndarray, "n d"]:
    """Unit vectors with a last column of ones."""
    return np.concatenate([unit(x), np.ones((len(x), 1), x.dtype)], axis=-1)
