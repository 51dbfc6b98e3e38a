"""One question to a store of a million vectors: exact, and by the index, beside a pass over the memory.

    python benchmarks/search.py [--rows 1000000] [--index-rows 1000000] [--out search.json]

Vectors of 1,024 numbers that lie as embeddings do: 2,000 groups on a curved sheet of 64 dimensions,
with noise in all of them (independent ones, which no data are, have no neighbours to find). Questions
are other vectors of the same kind. "pass" sums all of the vectors' memory once with NumPy; it and the
exact search take turns, and the ratio is the median. The first search, which also checks the bytes,
is told apart. `--index-rows 0` leaves the index out, which takes most of the time.
"""

import argparse
import json
import pathlib
import statistics
import tempfile
import time

import numpy as np

from imagebind_jax.search import approximate, store_writer
from imagebind_jax.search import exact as exact_search
from imagebind_jax.search.exact import exact_top_k
from imagebind_jax.search.store import EmbeddingStore

WIDTH, INNER, GROUPS, PIECE = 1024, 64, 2000, 20_000
ROUNDS, ASKED = 15, 300


def drawn(count: int, seed: int):
    """Unit vectors, a piece at a time."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((GROUPS, INNER), np.float32)
    first, second = (rng.standard_normal((INNER, WIDTH), np.float32) / 8 for _ in range(2))
    rng = np.random.default_rng([1, seed])
    for start in range(0, count, PIECE):
        n = min(PIECE, count - start)
        inner = centres[rng.integers(GROUPS, size=n)] + 0.7 * rng.standard_normal(
            (n, INNER), np.float32
        )
        x = np.tanh(inner @ first) + np.sin(inner) @ second
        x += 0.3 * rng.standard_normal((n, WIDTH), np.float32)
        yield x / np.linalg.norm(x, axis=-1, keepdims=True)


def make(folder: pathlib.Path, count: int) -> float:
    """Seconds to write a store of so many rows."""
    begun = time.perf_counter()
    with store_writer.open_writer(folder, WIDTH, "c", "family") as writer:
        writer.describe("vision", {})
        row = 0
        for piece in drawn(count, 0):
            for vector in piece:
                item = {"key": f"k{row}", "modality": "vision", "file": f"/f/{row}.jpg", "stamp": 0}
                writer.add(vector, item, b"")
                row += 1
    return time.perf_counter() - begun


def timed(f) -> float:
    begun = time.perf_counter()
    f()
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--index-rows", type=int, default=1_000_000)
    parser.add_argument("--folder", default="", help="where the stores are made and kept")
    parser.add_argument("--out", default="")
    options = parser.parse_args()
    found: dict = {}
    with tempfile.TemporaryDirectory() as temporary:
        root = pathlib.Path(options.folder or temporary)
        questions = next(drawn(ASKED, 7))
        if not (root / "exact" / "store.json").exists():
            print(f"{options.rows:,} rows written in {make(root / 'exact', options.rows):.0f} s")
        store = EmbeddingStore(root / "exact")
        found["open"] = timed(lambda: EmbeddingStore(root / "exact"))
        found["first"] = timed(lambda: exact_search.search_store(store, questions[0]))
        passes, exact = [], []
        for i in range(ROUNDS):
            passes.append(timed(lambda: store.vectors.sum()))
            exact.append(timed(lambda i=i: exact_search.search_store(store, questions[i])))
        found |= {"pass": statistics.median(passes), "exact": statistics.median(exact)}
        found["ratio"] = statistics.median(b / a for a, b in zip(passes, exact))
        print(f"opening {found['open']:.3f} s, first search {found['first']:.3f} s, then "
              f"{found['exact']:.3f} s (goal 0.5), a pass {found['pass']:.3f} s: {found['ratio']:.2f} x (goal 1.5)")  # fmt: skip
        if options.index_rows:
            found["index"] = index(root, options, questions)
    if options.out:
        pathlib.Path(options.out).write_text(json.dumps(found, indent=1))


def index(root: pathlib.Path, options: argparse.Namespace, questions: np.ndarray) -> dict:
    folder = root / ("exact" if options.index_rows == options.rows else "indexed")
    if not (folder / "store.json").exists():
        make(folder, options.index_rows)
    store = EmbeddingStore(folder)
    seconds = timed(lambda: approximate.build_index(store))
    opened = approximate.ApproximateIndex(store)
    truth, _ = exact_top_k(store, questions, 10)
    for question in questions[:20]:
        opened.nearest(question, 10)
    times, right = [], 0
    for question, wanted in zip(questions, truth.tolist()):
        begun = time.perf_counter()
        rows, _ = opened.nearest(question, 10)
        times.append(time.perf_counter() - begun)
        right += len(set(rows.tolist()) & set(wanted))
    said = {
        "rows": len(store),
        "build": seconds,
        "median_ms": 1000 * statistics.median(times),
        "p95_ms": 1000 * sorted(times)[int(0.95 * len(times))],
        "recall": right / (10 * len(questions)),
        "built_recall": opened.note.recall,
        "bytes": opened.note.bytes,
    }
    print(f"index of {said['rows']:,}: built in {seconds:.0f} s, {said['bytes'] / 1e9:.2f} GB; a question "
          f"{said['median_ms']:.2f} ms (95 %: {said['p95_ms']:.2f}; goal 5), recall {said['recall']:.3f} "
          f"(goal 0.95; told when built {said['built_recall']:.3f})")  # fmt: skip
    return said


if __name__ == "__main__":
    main()
