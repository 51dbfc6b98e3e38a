"""What evaluations share: unit vectors, and their cosines in pieces that fit in memory."""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float, Int

BLOCK = 1024  # rows and columns of a score matrix at a time: 4 MB


def l2_normalize(x: Float[np.ndarray, "*n e"]) -> Float[np.ndarray, "*n e"]:
    """Rows on the unit sphere, at least float32; a row of zeros stays one.

    A row with anything that is not a finite number becomes a row of NaN.
    """
    x = x.astype(np.promote_types(x.dtype, np.float32), copy=False)
    with np.errstate(invalid="ignore", over="ignore"):  # infinite / infinite
        length = np.linalg.norm(x, axis=-1, keepdims=True)
        return x / np.where(np.isfinite(length), np.maximum(length, 1e-12), np.nan)


def l2_normalize_f32(x: Float[np.ndarray, "*n e"]) -> Float[np.ndarray, "*n e"]:
    """The same as float32, in which scores are computed."""
    return l2_normalize(x).astype(np.float32, copy=False)


def chunks(n: int, size: int | None = None) -> Iterator[slice]:
    """n rows, `size` at a time (by default BLOCK)."""
    size = size or BLOCK
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def cosine_chunks(
    query: Float[np.ndarray, "q e"], key: Float[np.ndarray, "k e"], rows: int | None = None
) -> Iterator[tuple[slice, Float[np.ndarray, "rows k"]]]:
    """Cosines of a stretch of queries with all keys, one stretch after the other."""
    key = l2_normalize(key)
    for part in chunks(len(query), rows):
        yield part, l2_normalize(query[part]) @ key.T


def weighted_sum(
    parts: Sequence[Float[np.ndarray, "n e"]], weights: Sequence[float]
) -> Float[np.ndarray, "n e"]:
    """Unit vectors of the weighted sum of unit vectors, row by row.

    A part that is missing (a row of NaN) counts as zero, as a silent video's sound does; where all
    are missing, so is the sum. Source: the paper's 0.95 video + 0.05 audio of MSR-VTT.
    """
    total = np.zeros(parts[0].shape, np.float32)
    present = np.zeros(len(total), bool)
    for part, weight in zip(parts, weights, strict=True):
        for rows in chunks(len(total)):
            z = l2_normalize_f32(part[rows])
            there = np.isfinite(z).all(axis=-1)
            total[rows] += np.where(there[:, None], np.float32(weight) * z, np.float32(0))
            present[rows] |= there
    total[~present] = np.nan
    for rows in chunks(len(total)):
        total[rows] = l2_normalize(total[rows])
    return total


def top_k(
    query: Float[np.ndarray, "q e"], key: Float[np.ndarray, "n e"], k: int = 1
) -> tuple[Int[np.ndarray, "q k"], Float[np.ndarray, "q k"]]:
    """The k nearest keys of each query, or all if there are fewer: (indices, cosines), best first.

    Equal cosines go by index; keys that are not numbers come last, with a cosine of NaN.
    """
    k = min(k, len(key))
    indices = np.empty((len(query), k), np.int64)
    values = np.empty((len(query), k), np.float32)
    for rows in chunks(len(query)):
        z = l2_normalize_f32(query[rows])
        best = np.empty((len(z), 0), np.int64)
        for columns in chunks(len(key)):
            found = _sortable(z @ l2_normalize_f32(key[columns]).T, columns.start)
            best = np.concatenate([best, _least(found, k)], axis=1)
            best = _least(best, k)
        best.sort(axis=1)
        indices[rows] = best & 0xFFFFFFFF
        values[rows] = _cosines(best)
    return indices, values


def _least(x: Int[np.ndarray, "q n"], k: int) -> Int[np.ndarray, "q _"]:
    return np.partition(x, k - 1, axis=1)[:, :k] if 0 < k < x.shape[1] else x


def _sortable(cosines: Float[np.ndarray, "q n"], start: int) -> Int[np.ndarray, "q n"]:
    """One integer a score that sorts as (falling cosine, rising index) do.

    The upper half is the float's bits, those of negative numbers turned around, as integers of the
    same order; the lower half is the index.
    """
    bits = (np.float32(0) - cosines).view(np.int32)  # 0 - 0 is +0, whatever the sign was
    bits = np.where(np.isnan(cosines), np.int32(2**31 - 1), bits ^ ((bits >> 31) & 0x7FFFFFFF))
    return (bits.astype(np.int64) << 32) | np.arange(start, start + cosines.shape[1])


def _cosines(sortable: Int[np.ndarray, "q n"]) -> Float[np.ndarray, "q n"]:
    bits = (sortable >> 32).astype(np.int32)
    return np.float32(0) - (bits ^ ((bits >> 31) & 0x7FFFFFFF)).view(np.float32)
