"""Embedding arithmetic: the sum of two modalities finds what has something of both."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from imagebind_jax.errors import UserError
from imagebind_jax.evaluation.benchmark import Embedder, EvalInputs, EvalResult, source_name
from imagebind_jax.evaluation.metrics import bootstrap, ranking
from imagebind_jax.evaluation.metrics.similarity import l2_normalize, top_k
from imagebind_jax.inputs.sources import Source


def compose(
    *embeddings: Float[np.ndarray, "*n e"], weights: tuple[float, ...] | None = None
) -> Float[np.ndarray, "*n e"]:
    """The weighted sum of unit vectors, normalised; by default each counts one half.

    Source: the paper's appendix (features normalised, scaled by 0.5 and summed).
    """
    weights = weights or (0.5,) * len(embeddings)
    parts = [w * l2_normalize(z) for w, z in zip(weights, embeddings, strict=True)]
    return l2_normalize(np.sum(parts, axis=0))


def composed_hit(
    query: Float[np.ndarray, "q e"],
    key: Float[np.ndarray, "n e"],
    wanted: Int[np.ndarray, "q l"],
    labels: Int[np.ndarray, "n l"],
    excluded: Int[np.ndarray, "q x"] | None = None,
    k: int = 1,
) -> Bool[np.ndarray, "q"]:
    """Whether one of each query's k nearest keys has all labels that are wanted.

    excluded: indices of keys that are no answers to a query, such as its own parts; they are
    passed over.
    """
    excluded = np.empty((len(query), 0), int) if excluded is None else excluded
    indices, cosines = top_k(query, key, k + excluded.shape[1])
    allowed = ~(indices[:, :, None] == excluded[:, None]).any(axis=-1) & ~np.isnan(cosines)
    allowed &= np.cumsum(allowed, axis=1) <= k
    return (allowed & (labels[indices] == wanted[:, None]).all(axis=-1)).any(axis=1)


def chance_hit_rate(
    wanted: Int[np.ndarray, "q l"],
    labels: Int[np.ndarray, "n l"],
    excluded: Int[np.ndarray, "q x"] | None = None,
    k: int = 1,
) -> float:
    """The share of queries that `composed_hit` finds among keys in random order, by counting."""
    own, of = count_answers(wanted, labels), np.full(len(wanted), len(labels))
    if excluded is not None:
        each = np.sort(excluded, axis=1)
        new = np.diff(each, axis=1, prepend=-1) > 0  # a key that is named twice counts once
        of = of - new.sum(axis=1)
        own = own - (new & (labels[each] == wanted[:, None]).all(axis=-1)).sum(axis=1)
    return ranking.chance_recall(own, of, k)


def count_answers(
    wanted: Int[np.ndarray, "q l"], labels: Int[np.ndarray, "n l"]
) -> Int[np.ndarray, "q"]:
    """How many keys have all labels that a query wants."""
    both, place = np.unique(np.concatenate([labels, wanted]), axis=0, return_inverse=True)
    place = place.reshape(-1)
    return np.bincount(place[: len(labels)], minlength=len(both))[place[len(labels) :]]


@dataclasses.dataclass(frozen=True)
class Arithmetic:
    """A record of `first` plus one of `second` finds keys that have a label of each.

    wanted: the label that a key has to share with the first record, and the one that it has to
    share with the second, such as ("shape", "material"). Each record of `first` is put together
    with one of `second`, drawn once and for all; the two differ in both labels, so that neither
    alone is an answer, and pairs that no key answers are left out, as are those of which one has
    no embedding. Embeddings that are part of a query are not among its keys. Numbers: top1 and
    top5 of the sum, and first_alone and second_alone, the top1 of its parts.
    """

    first: EvalInputs
    second: EvalInputs
    keys: EvalInputs
    wanted: tuple[str, str]

    @property
    def sources(self) -> tuple[Source, ...]:
        every = (self.first.source, self.second.source, self.keys.source)
        return tuple(s for i, s in enumerate(every) if s not in every[:i])

    @property
    def modalities(self) -> frozenset[str]:
        return frozenset(items.modality for items in (self.first, self.second, self.keys))

    def measure(self, bench: Embedder) -> EvalResult:
        """Raises UserError where records lack the labels, or no pair of records is left."""
        codes: dict[Any, int] = {}
        first, second, keys = (
            _labels(items, bench.notes(items.source), self.wanted, codes)
            for items in (self.first, self.second, self.keys)
        )
        i, j = _pairs(first, second, keys)
        if not len(i):
            raise UserError(
                f"no key has the {self.wanted[0]} of one record and the {self.wanted[1]} of "
                "another that differs in both: nothing to measure"
            )
        a, b, key = (bench.embed(items) for items in (self.first, self.second, self.keys))
        there = np.isfinite(a[i]).all(axis=-1) & np.isfinite(b[j]).all(axis=-1)
        unusable = int(np.sum(~there))
        i, j = i[there], j[there]
        labels = np.stack([first[i, 0], second[j, 1]], axis=1)
        parts = [
            part
            for items, part in ((self.first, i), (self.second, j))
            if (items.source, items.modality) == (self.keys.source, self.keys.modality)
        ]
        excluded = np.stack(parts, axis=1) if parts else None
        queries = {
            "top1": (compose(a[i], b[j]), 1),
            "top5": (compose(a[i], b[j]), 5),
            "first_alone": (a[i], 1),
            "second_alone": (b[j], 1),
        }
        numbers, chances = {}, {}
        for name, (query, k) in queries.items():
            hits = composed_hit(query, key, labels, keys, excluded, k).astype(np.float64)
            numbers[name] = bootstrap.bootstrap_mean(
                hits, resamples=bench.resamples, seed=bench.seed
            )
            chances[name] = chance_hit_rate(labels, keys, excluded, k)
        return EvalResult(numbers, samples=len(i) + unusable, unusable=unusable, chance=chances)


def _labels(
    items: EvalInputs,
    notes: Sequence[Mapping[str, Any]],
    wanted: tuple[str, str],
    codes: dict[Any, int],
) -> Int[np.ndarray, "n 2"]:
    """Both labels of every record, numbered as in `codes`, which grows."""
    rows = []
    for i, note in enumerate(notes):
        having = {**note, **note.get("labels", {})}
        for name in wanted:
            if not isinstance(having.get(name), (str, int, np.integer)):
                raise UserError(
                    f"record {note.get('id', i)!r} of {source_name(items.source)} has no single "
                    f"label {name!r}: it has {', '.join(sorted(having))}"
                )
        rows.append([codes.setdefault((name, having[name]), len(codes)) for name in wanted])
    return np.array(rows, int).reshape(-1, 2)


def _pairs(
    first: Int[np.ndarray, "a 2"], second: Int[np.ndarray, "b 2"], keys: Int[np.ndarray, "n 2"]
) -> tuple[Int[np.ndarray, "m"], Int[np.ndarray, "m"]]:
    """Records that differ in both labels and have an answer, drawn once and for all."""
    rng, n = np.random.default_rng(0), len(first)
    i, j = np.arange(n if len(second) else 0), np.resize(rng.permutation(len(second)), n)
    j = j[: len(i)]
    wanted = np.stack([first[i, 0], second[j, 1]], axis=1)
    good = (first[i] != second[j]).all(axis=1) & (count_answers(wanted, keys) > 0)
    return i[good], j[good]
