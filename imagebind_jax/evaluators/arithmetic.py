"""Embedding arithmetic: the sum of two modalities finds what has something of both."""

import numpy as np
from jaxtyping import Float

from imagebind_jax.evaluators.common import unit


def compose(
    *embeddings: Float[np.ndarray, "*n e"], weights: tuple[float, ...] | None = None
) -> Float[np.ndarray, "*n e"]:
    """The weighted sum of unit vectors, normalised; by default each counts one half.

    Source: the paper's appendix (features normalised, scaled by 0.5 and summed).
    """
    weights = weights or (0.5,) * len(embeddings)
    parts = [w * unit(z) for w, z in zip(weights, embeddings, strict=True)]
    return unit(np.sum(parts, axis=0))
