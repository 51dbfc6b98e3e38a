"""What evaluations share: unit vectors, and scores in pieces that fit in memory."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float


def unit(x: Float[np.ndarray, "*n e"]) -> Float[np.ndarray, "*n e"]:
    """Rows on the unit sphere; a row of zeros stays one."""
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def scores(
    query: Float[np.ndarray, "q e"], key: Float[np.ndarray, "k e"], rows: int = 1024
) -> Iterator[tuple[slice, Float[np.ndarray, "rows k"]]]:
    """Cosines of a stretch of queries with all keys, one stretch after the other."""
    query, key = unit(query), unit(key)
    for start in range(0, len(query), rows):
        part = slice(start, start + rows)
        yield part, query[part] @ key.T
