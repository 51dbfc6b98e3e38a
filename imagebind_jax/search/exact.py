"""Search in a store of embeddings: the nearest rows to any vector, exactly, by modality and metadata."""

import dataclasses
import fnmatch
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from imagebind_jax.errors import UserError
from imagebind_jax.search.store import ROWS_PER_BLOCK, EmbeddingStore

MAX_K = 10_000  # hits of a query
MAX_SCORES_IN_MEMORY = 1 << 26  # cosines in memory at once: 256 MB


@dataclasses.dataclass(frozen=True)
class Hit:
    """One row that was found: its cosine with the query, and what it is of."""

    row: int
    cosine: float
    modality: str
    file: str  # or, of a text in a manifest, that with its line
    item: Mapping[str, Any]


def search_store(
    store: EmbeddingStore,
    query: Float[np.ndarray, "e"],
    k: int = 10,
    *,
    modalities: Sequence[str] = (),
    where: Sequence[str] = (),
    without: Sequence[int] = (),
) -> list[Hit]:
    """The k rows nearest to the query by cosine, best first; equal ones by row.

    query: of any length but 0. modalities: only rows of these. where: conditions on metadata, all of
    which hold (`parse_filter`). without: rows that are no answer. All rows are compared. Raises UserError.
    """
    rows = candidate_mask(store, modalities, where)
    rows[list(without)] = False
    found, cosines = exact_top_k(store, query[None], k, rows)
    return load_hits(store, found[0], cosines[0])


def load_hits(
    store: EmbeddingStore, rows: Int[np.ndarray, "k"], cosines: Float[np.ndarray, "k"]
) -> list[Hit]:
    """What the rows are of. Raises UserError where the store is damaged."""
    found = []
    for row, cosine in zip(rows.tolist(), cosines.tolist()):
        item = store.item(row)
        found.append(Hit(row, cosine, store.modality(row), str(item.get("file", "")), item))
    return found


def candidate_mask(
    store: EmbeddingStore, modalities: Sequence[str] = (), where: Sequence[str] = ()
) -> Bool[np.ndarray, "n"]:
    """Which rows may be answers. Raises UserError on a condition or modality that makes no sense."""
    rows = ~store.replaced
    if modalities:
        for modality in modalities:
            if modality not in store.note.modalities:
                there = ", ".join(store.note.modalities) or "nothing"
                raise UserError(f"no {modality} in {store.folder}: only {there}")
        numbers = [store.note.modalities.index(modality) for modality in modalities]
        rows &= np.isin(store.rows["modality"], numbers)
    if where:
        holds = [parse_filter(text) for text in where]
        fields = {name for _, name in holds}
        rows &= np.array([all(each(item) for each, _ in holds) for item in store.items], bool)
        if not rows.any():
            known = sorted({key for item in store.items for key in item} - {"key", "stamp"})
            if missing := sorted(fields - set(known)):
                raise UserError(f"no row has {missing[0]!r}: only {', '.join(known)[:300]}")
    return rows


_COMPARED: Mapping[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "!=": operator.ne,
    "=": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}
_CONDITION = re.compile(r"\s*([^<>=!~\s]+)\s*(<=|>=|!=|=|<|>|~)\s*(.*?)\s*", re.S)


def parse_filter(text: str) -> tuple[Callable[[Mapping[str, Any]], bool], str]:
    """(whether an item's metadata fulfil it, the field's name).

    FIELD=VALUE, !=, <, <=, >, >= (numbers as numbers, else as text), or FIELD~GLOB: "seconds>5",
    "file~*/beach/*", "label=3". An item without the field fulfils none. Raises UserError.
    """
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise UserError(f"--where {text!r}: expected FIELD=VALUE, FIELD>VALUE or FIELD~GLOB")
    name, sign, wanted = match.groups()
    if wanted[:1] in ("=", "<", ">", "~"):
        raise UserError(
            f"--where {text!r}: one of = != < <= > >= ~ between the field and its value"
        )

    def holds(item: Mapping[str, Any]) -> bool:
        if name not in item:
            return False
        if sign == "~":
            return fnmatch.fnmatchcase(str(item[name]), wanted)
        found, other = _number(item[name]), _number(wanted)
        if found is None or other is None:
            plain = item[name]
            return _COMPARED[sign](
                str(plain).lower() if plain in (True, False) else str(plain), wanted
            )
        return _COMPARED[sign](found, other)

    return holds, name


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def exact_top_k(
    store: EmbeddingStore,
    queries: Float[np.ndarray, "q e"],
    k: int,
    rows: Bool[np.ndarray, "n"] | None = None,
) -> tuple[Int[np.ndarray, "q k"], Float[np.ndarray, "q k"]]:
    """(rows, cosines) of the k nearest, best first, fewer where there are fewer; equal ones by row.

    rows: which may be answers (default: all that count). One pass over the vectors' memory; their
    bytes are checked in the first one. Raises UserError.
    """
    check_k(k)
    queries = validate_queries(store, queries)
    rows = ~store.replaced if rows is None else rows
    k = min(k, int(rows.sum()))
    found = np.zeros((len(queries), k), np.int64)
    cosines = np.zeros((len(queries), k), np.float32)
    at_once = max(1, MAX_SCORES_IN_MEMORY // max(1, len(store)))
    for start in range(0, len(queries), at_once):
        some = slice(start, start + at_once)
        scores = _scores(store, queries[some], rows)
        found[some] = [_best(each, k) for each in scores]
        cosines[some] = np.take_along_axis(scores, found[some], axis=1)
    return found, cosines


def _scores(
    store: EmbeddingStore, queries: Float[np.ndarray, "q e"], rows: Bool[np.ndarray, "n"]
) -> Float[np.ndarray, "q n"]:
    """Cosines with all rows; -inf of those that may be no answer."""
    scores = np.full((len(queries), len(store)), -np.inf, np.float32)
    for index in range(store.blocks):
        part = slice(index * ROWS_PER_BLOCK, index * ROWS_PER_BLOCK + ROWS_PER_BLOCK)
        if rows[part].any():
            np.matmul(queries, store.block(index).T, out=scores[:, part])
    if not rows.all():
        scores[:, ~rows] = -np.inf
    return scores


def _best(scores: Float[np.ndarray, "n"], k: int) -> Int[np.ndarray, "k"]:
    """The k largest, of equal ones the first."""
    if not k:
        return np.zeros(0, np.int64)
    least = np.partition(scores, len(scores) - k)[len(scores) - k]
    above, equal = np.flatnonzero(scores > least), np.flatnonzero(scores == least)
    chosen = np.concatenate([above, equal[: k - len(above)]])
    return chosen[np.lexsort((chosen, -scores[chosen]))]


def check_k(k: int) -> None:
    """Raises UserError."""
    if not 1 <= k <= MAX_K:
        raise UserError(f"k must be from 1 to {MAX_K:,}, got {k}")


def validate_queries(
    store: EmbeddingStore, queries: Float[np.ndarray, "q e"]
) -> Float[np.ndarray, "q e"]:
    """Unit vectors as the store holds them. Raises UserError where they do not fit it."""
    if queries.shape[1] != store.note.width:
        raise UserError(
            f"a query of {queries.shape[1]} numbers, and {store.folder} holds vectors of {store.note.width}"
        )
    length = np.linalg.norm(queries.astype(np.float32), axis=-1, keepdims=True)
    if not (np.isfinite(length) & (length > 0)).all():
        raise UserError("a query is zero, or not finite")
    return (queries / length).astype(np.float32)
