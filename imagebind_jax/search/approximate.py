"""An index for stores of millions of rows: approximate neighbours in milliseconds, their recall measured.

The extra `index` (usearch) makes and reads the graph, over vectors of 8 bits: a quarter of the memory
and a third of the time of 16. Cosines are computed from the store's own vectors, so that only which
rows are looked at is approximate.
"""

import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
from jaxtyping import Float, Int

from imagebind_jax.errors import UserError, first_line
from imagebind_jax.runtime import console
from imagebind_jax.runtime.progress import Progress
from imagebind_jax.search.exact import check_k, exact_top_k, validate_queries
from imagebind_jax.search.store import ROWS_PER_BLOCK, EmbeddingStore
from imagebind_jax.storage import lock
from imagebind_jax.storage.row_file import read_checksummed, write_checksummed

METADATA_FILE = "index.json"
CONNECTIVITY, EF_CONSTRUCTION = 16, 64  # edges of a node; candidates while it is placed
EF_SEARCH_CANDIDATES = (
    32,
    64,
    128,
    256,
    512,
    1024,
)  # candidates of a search, the fewest that reach the recall
OVERFETCH = 4  # times as many neighbours as are wanted are compared by their exact cosines
RECALL_QUERIES = 500  # rows by which recall is measured
ADD_BATCH = 1 << 14  # rows that are added at once; ROWS_PER_BLOCK is a multiple of it


class IndexMetadata(msgspec.Struct):
    """index.json: which file the index is, of which rows, how it is searched, and what that finds."""

    file: str
    rows: int
    rows_crc: int  # the store's, of just these rows
    candidates: int
    recall: float  # of the k nearest, measured when it was built
    k: int
    asked: int  # queries by which it was measured
    scale: float  # that brings numbers of unit vectors to [-1, 1], in 8 bits
    bytes: int
    sum: int
    format: int = 1
    seal: str = ""


def import_usearch() -> Any:
    """The module, imported where it is needed. Raises UserError where it is not installed."""
    try:
        import usearch.index
    except ImportError:
        remedy = "pip install 'imagebind-jax[index]', or search without --approximate"
        raise UserError(f"an approximate index needs usearch, which is missing: {remedy}") from None
    return usearch.index


def build_index(
    store: EmbeddingStore,
    *,
    recall: float = 0.95,
    k: int = 10,
    seed: int = 0,
    say: Callable[[str], None] = console.print_line,
) -> IndexMetadata:
    """Makes the index of all rows, and measures it; it takes an older one's place at once.

    recall: the share of the k nearest rows that a search shall find, on average over vectors between
    stored ones (`_questions`); as many candidates are looked at as that takes. Raises UserError on a
    full disk, an empty store, or where the recall is not reached.
    """
    if not 0 < recall <= 1:
        raise UserError(f"recall must be in (0, 1], got {recall}")
    if not len(store):
        raise UserError(f"{store.folder} has no rows to index")
    with lock.file_lock(store.folder / ".lock-index", f"an index of {store.folder} is being built"):
        return _built(store, recall, k, seed, say)


def _built(
    store: EmbeddingStore, recall: float, k: int, seed: int, say: Callable[[str], None]
) -> IndexMetadata:
    index = import_usearch().Index(
        ndim=store.note.width,
        metric="ip",
        dtype="i8",
        connectivity=CONNECTIVITY,
        expansion_add=EF_CONSTRUCTION,
    )
    begun, scale = time.monotonic(), _scale(store)
    with Progress("index", len(store)) as progress:
        for start in range(0, len(store), ADD_BATCH):
            store.block(start // ROWS_PER_BLOCK)  # its bytes are checked
            rows = np.arange(start, min(start + ADD_BATCH, len(store)))
            index.add(rows, _scaled(store.vectors[rows[0] : rows[-1] + 1], scale))
            progress.update(int(rows[-1]) + 1)
    questions = _questions(store, seed)
    k = min(k, store.count)
    truth, _ = exact_top_k(store, questions, k)
    found = 0.0
    for candidates in EF_SEARCH_CANDIDATES:
        index.expansion_search = candidates
        mine = [_nearest(store, index, scale, query, k)[0] for query in questions]
        found = float(np.mean([len(set(a) & set(b)) / k for a, b in zip(mine, truth.tolist())]))
        if found >= recall:
            break
    else:
        raise UserError(
            f"the index finds {found:.1%} of the {k} nearest, not {recall:.1%}: search exactly, or ask for "
            "less with --recall"
        )
    note = _write(store, index, candidates, found, k, len(questions), scale)
    say(
        f"index of {len(store):,} rows in {time.monotonic() - begun:.0f} s: {found:.1%} of the {k} nearest, "
        f"measured by {len(questions):,} queries"
    )
    return note


def _scale(store: EmbeddingStore) -> float:
    """So that all but one in ten thousand numbers fit into 8 bits; the others are cut."""
    some = store.vectors[:: max(1, len(store) // 2000)]
    return 1 / max(float(np.quantile(np.abs(some), 0.9999)), 1e-6)


def _scaled(x: Float[np.ndarray, "*n e"], scale: float) -> Float[np.ndarray, "*n e"]:
    return np.clip(x * np.float32(scale), -1, 1)


def _questions(store: EmbeddingStore, seed: int) -> Float[np.ndarray, "q e"]:
    """Sums of two stored vectors each: what is asked lies near the rows, and is none of them."""
    rng = np.random.default_rng(seed)
    usable = np.flatnonzero(~store.replaced)
    pairs = rng.choice(usable, (min(RECALL_QUERIES, len(usable)), 2))
    pairs.sort()
    made = store.vectors[pairs[:, 0]] + store.vectors[pairs[:, 1]]
    made += 1e-3 * rng.standard_normal(made.shape, np.float32)  # two that are opposite
    return validate_queries(store, made)


def _write(
    store: EmbeddingStore,
    index: Any,
    candidates: int,
    found: float,
    k: int,
    asked: int,
    scale: float,
) -> IndexMetadata:
    """A file of its own name, then the note that names it, at once: until then the old one answers."""
    partial = store.folder / "index.partial"
    try:
        index.save(str(partial))
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        size, total = _sum(partial)
        path = store.folder / f"index-{total:016x}.usearch"
        partial.replace(path)
        rows, crc = len(store), store.note.rows_crc
        note = IndexMetadata(path.name, rows, crc, candidates, found, k, asked, scale, size, total)
        write_checksummed(store.folder / METADATA_FILE, note)
        for other in store.folder.glob("index-*.usearch"):
            if other != path:
                other.unlink(missing_ok=True)
        return note
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"cannot write an index into {store.folder}: {first_line(error)}; search is exact without it"
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def _sum(path: pathlib.Path) -> tuple[int, int]:
    """(bytes, a checksum of them at the speed of memory)."""
    size = path.stat().st_size
    words = np.memmap(path, "<u8", "r", shape=(size // 8,)) if size >= 8 else np.zeros(0, "<u8")
    total = int(words.sum(dtype=np.uint64))
    with path.open("rb") as file:
        file.seek(size // 8 * 8)
        rest = int.from_bytes(file.read(), "little")
    return size, (total + 31 * rest + size) % 2**63


class ApproximateIndex:
    """A store's index, opened for searching: mapped into memory, and not read as a whole."""

    def __init__(self, store: EmbeddingStore):
        """Raises UserError where there is none, it is of other rows, or it is damaged."""
        again = f"imagebind-jax search --index {store.folder} --build makes it anew"
        path = store.folder / METADATA_FILE
        if not path.is_file():
            raise UserError(f"{store.folder} has no index: {again}")
        try:
            note = read_checksummed(path, IndexMetadata)
            path = store.folder / pathlib.PurePath(note.file).name
            if _sum(path) != (note.bytes, note.sum):
                raise ValueError("its bytes are not those that were written")
        except (OSError, ValueError) as error:
            raise UserError(f"{path} is damaged ({first_line(error)}): {again}") from error
        if (note.rows, note.rows_crc) != (len(store), store.note.rows_crc):
            raise UserError(
                f"the index is of {note.rows:,} rows, and {store.folder} has {len(store):,} now: {again}"
            )
        self.store, self.note = store, note
        self._index = import_usearch().Index.restore(str(path), view=True)
        self._index.expansion_search = note.candidates

    def nearest(
        self, query: Float[np.ndarray, "e"], k: int
    ) -> tuple[Int[np.ndarray, "k"], Float[np.ndarray, "k"]]:
        """(rows, cosines), best first. Raises UserError on a query that does not fit."""
        check_k(k)
        unit = validate_queries(self.store, query[None])[0]
        return _nearest(self.store, self._index, self.note.scale, unit, k)


def _nearest(
    store: EmbeddingStore, index: Any, scale: float, query: Float[np.ndarray, "e"], k: int
) -> tuple[Int[np.ndarray, "k"], Float[np.ndarray, "k"]]:
    wanted = OVERFETCH * k
    while True:
        keys = np.sort(np.asarray(index.search(_scaled(query, scale), wanted).keys, np.int64))
        keys = keys[~store.replaced[keys]]
        if len(keys) >= min(k, store.count) or wanted >= len(store):
            break
        wanted *= 4
    store.check(keys)
    cosines = store.vectors[keys] @ query
    best = np.lexsort((keys, -cosines))[:k]
    return keys[best], cosines[best]
