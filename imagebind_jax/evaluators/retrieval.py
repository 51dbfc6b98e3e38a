"""Cross-modal retrieval: does a query's nearest neighbour in another modality belong to it?"""

import numpy as np
from jaxtyping import Float, Int

from imagebind_jax.evaluators.common import scores


def ranks(query: Float[np.ndarray, "n e"], key: Float[np.ndarray, "n e"]) -> Float[np.ndarray, "n"]:
    """Rank of each query's own key (row i of both belong together) among all keys; the best is 0.

    Ties go by index, as in `nearest`, so that embeddings which are all alike score chance at any
    k; what is not a number ranks last.
    """
    out, place = np.empty(len(query)), np.arange(len(key))
    for rows, cosines in scores(query, key):
        at = place[rows, None]
        own = np.take_along_axis(cosines, at, axis=-1)
        tied_before = (cosines == own) & (place < at)
        out[rows] = (~(cosines <= own) | tied_before).sum(axis=-1)
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
