"""Cross-modal retrieval: does a query's nearest neighbour in another modality belong to it?"""

import numpy as np
from jaxtyping import Float, Int

from imagebind_jax.evaluators.common import scores


def ranks(query: Float[np.ndarray, "n e"], key: Float[np.ndarray, "n e"]) -> Float[np.ndarray, "n"]:
    """Rank of each query's own key (row i of both belong together) among all keys; the best is 0.

    Ties share the mean of their ranks, so that embeddings which are all alike score chance.
    """
    out = np.empty(len(query))
    for rows, cosines in scores(query, key):
        own = cosines[np.arange(len(cosines)), np.arange(rows.start, rows.start + len(cosines))]
        better = (cosines > own[:, None]).sum(axis=-1)
        ties = (cosines == own[:, None]).sum(axis=-1) - 1
        out[rows] = better + ties / 2
    return out


def recall(rank: Float[np.ndarray, "n"], k: int = 1) -> float:
    """Fraction of queries whose key is among the k nearest."""
    return float(np.mean(rank < k))


def nearest(
    query: Float[np.ndarray, "q e"], key: Float[np.ndarray, "n e"], k: int = 1
) -> tuple[Int[np.ndarray, "q k"], Float[np.ndarray, "q k"]]:
    """The k nearest keys of each query, best first: (indices, cosines)."""
    indices, values = [], []
    for _, cosines in scores(query, key):
        order = np.argsort(-cosines, axis=-1, kind="stable")[:, :k]
        indices.append(order)
        values.append(np.take_along_axis(cosines, order, axis=-1))
    return np.concatenate(indices), np.concatenate(values)
