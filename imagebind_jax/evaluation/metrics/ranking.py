"""Ranks of what belongs together, both ways at once, and what random rankings would give."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from imagebind_jax.evaluation.metrics import similarity
from imagebind_jax.evaluation.metrics.similarity import chunks, l2_normalize_f32

# Cosines this close are tied. A float32 sum of d products is off by about sqrt(d) roundings of
# 2^-24, 2e-6 at d = 1024 (found: 2e-7 for vectors at random, 2e-6 for constant ones), and not the
# same in every place of a matrix product; this is twice as much. It hides nothing: keeping
# embeddings as float16 moves their cosines by more (1e-5).
TIE = 2.0**-18
DENSE_LIMIT = 8  # blocks of queries held as unit vectors: 32 MB at d = 1024


def retrieval_ranks(
    query: Float[np.ndarray, "q e"],
    key: Float[np.ndarray, "k e"],
    query_items: Int[np.ndarray, "q"] | None = None,
    key_items: Int[np.ndarray, "k"] | None = None,
) -> Float[np.ndarray, "q"]:
    """Rank of each query's best-placed own key among all keys; the best is 0.

    Its own are the keys of the same item number, by default that of the same row. Cosines within
    TIE of the best own one are tied with it, and ties go by index, as in `top_k`, so that
    embeddings which are all alike score chance at any k, or less where items of several stand
    side by side among those that search. Keys that are not numbers are never
    found: what has no other own key, and what is not a number itself, ranks last, at infinity.
    """
    return _ranks(query, key, query_items, key_items, back=False)[0]


def bidirectional_ranks(
    query: Float[np.ndarray, "q e"],
    key: Float[np.ndarray, "k e"],
    query_items: Int[np.ndarray, "q"] | None = None,
    key_items: Int[np.ndarray, "k"] | None = None,
) -> tuple[Float[np.ndarray, "q"], Float[np.ndarray, "k"]]:
    """(ranks of the queries among the keys, ranks of the keys among the queries), in one pass.

    Never more than a block of the scores is held, nor of the embeddings as unit vectors.
    """
    return _ranks(query, key, query_items, key_items, back=True)


@dataclasses.dataclass
class _Side:
    """Searchers, and how many of the others came before their own so far."""

    best: Float[np.ndarray, "n"]  # the highest own cosine; NaN where there is none
    place: Int[np.ndarray, "n"]  # of the first own one that is tied with it
    before: Int[np.ndarray, "n"]

    def count(self, rows: slice, columns: slice, cosines: Float[np.ndarray, "r c"]) -> None:
        """Adds those of a block: what is clearly closer, and what is tied at a lower index."""
        best, place = self.best[rows], self.place[rows]
        closer, tied = best + np.float32(TIE), best - np.float32(TIE)
        bound = np.where(place >= columns.stop, tied, closer)  # whether the block lies before it
        # Counted in 16 bits, for speed: a block has fewer rows and columns than that.
        closer_ones = (cosines > bound[:, None]).view(np.uint8)
        self.before[rows] += closer_ones.sum(axis=1, dtype=np.uint16)
        inside = np.flatnonzero((place >= columns.start) & (place < columns.stop))
        if len(inside):
            part = cosines[inside] if len(inside) < len(cosines) else cosines
            ties = (part > tied[inside, None]) & (part <= closer[inside, None])
            earlier = np.empty_like(ties)  # in the same memory order, of rows or of columns
            np.less(np.arange(columns.start, columns.stop), place[inside, None], out=earlier)
            ties &= earlier
            self.before[rows.start + inside] += ties.view(np.uint8).sum(axis=1, dtype=np.uint16)

    def ranks(self) -> Float[np.ndarray, "n"]:
        return np.where(np.isnan(self.best), np.inf, self.before)


def _ranks(query, key, query_items, key_items, back: bool):
    query_items = np.arange(len(query)) if query_items is None else query_items
    key_items = np.arange(len(key)) if key_items is None else key_items
    rows, columns = _pairs(query_items, key_items)
    own = np.empty(len(rows), np.float32)
    for part in chunks(len(rows)):
        # In float64, so that it is off by less than any float32 product.
        a, b = l2_normalize_f32(query[rows[part]]), l2_normalize_f32(key[columns[part]])
        own[part] = np.einsum("ne,ne->n", a, b, dtype=np.float64)
    sides = [_side(rows, columns, own, len(query))]
    if back:
        sides.append(_side(columns, rows, own, len(key)))
    for some in chunks(
        len(query), DENSE_LIMIT * similarity.BLOCK
    ):  # so that keys are seldom normalised again
        queries = l2_normalize_f32(query[some])
        for across in chunks(len(key)):
            keys = l2_normalize_f32(key[across]).T
            for part in chunks(len(queries)):
                cosines = queries[part] @ keys
                up = slice(some.start + part.start, some.start + part.stop)
                sides[0].count(up, across, cosines)
                if back:
                    sides[1].count(across, up, cosines.T)
    return tuple(side.ranks() for side in sides)


def _pairs(query_items, key_items):
    """Rows and columns of all own scores."""
    order = np.argsort(key_items, kind="stable")
    ordered = key_items[order]
    first = np.searchsorted(ordered, query_items, side="left")
    count = np.searchsorted(ordered, query_items, side="right") - first
    rows = np.repeat(np.arange(len(query_items)), count)
    within = np.arange(len(rows)) - np.repeat(np.cumsum(count) - count, count)
    return rows, order[first[rows] + within]


def _side(searcher, found, own, n) -> _Side:
    best = np.full(n, np.nan, np.float32)
    np.fmax.at(best, searcher, own)  # the number, where the other one is none
    place = np.full(n, np.iinfo(np.int64).max)
    tied = own >= best[searcher] - np.float32(TIE)
    np.minimum.at(place, searcher[tied], found[tied])
    return _Side(best, place, np.zeros(n, np.int64))


def recall_at_k(rank: Float[np.ndarray, "n"], k: int = 1) -> float:
    """Fraction of queries of whose keys one is among the k nearest."""
    return float(np.mean(rank < k))


def median_rank(rank: Int[np.ndarray, "n"], weights: Float[np.ndarray, "n"] | None = None) -> float:
    """The rank, counted from 1, that half of the queries reach.

    weights: how often each query counts; the median is that of the queries so repeated, and where
    two stand in the middle, their mean.
    """
    reached = np.cumsum(np.bincount(rank, weights), dtype=np.float64)
    return _middle(reached, reached[-1] / 2, slack=0.0)


def _middle(reached: Float[np.ndarray, "r"], half: float, slack: float) -> float:
    low = np.searchsorted(reached, half - slack, side="left")
    high = np.searchsorted(reached, half + slack, side="right")
    return float(low + min(int(high), len(reached) - 1)) / 2 + 1


def chance_recall(own: Int[np.ndarray, "n"], of: Int[np.ndarray, "n"] | int, k: int) -> float:
    """Recall at k of random rankings: the mean over queries with `own` keys out of `of`.

    Exactly 1 - C(of - own, k) / C(of, k): no own key among the first k.
    """
    missed = np.ones(len(own))
    for i in range(k):
        left = np.clip((of - own - i) / np.maximum(of - i, 1), 0, 1)
        missed *= np.where(own > 0, left, 1)
    return float(np.mean(1 - missed))


def chance_median_rank(own: Int[np.ndarray, "n"], of: int) -> float:
    """The median rank, counted from 1, of random rankings of `of` keys of which `own` are right."""
    reached = np.zeros(of)  # the share of queries whose rank is r or better
    for m, times in zip(*np.unique(own, return_counts=True)):
        r = np.arange(of)
        missed = np.cumprod(np.maximum(of - m - r, 0) / (of - r))
        reached += times / len(own) * (1 - missed)
    return _middle(reached, 0.5, slack=1e-9)  # of rounding
