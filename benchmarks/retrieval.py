"""Ranks both ways: pairs a second beside plain argsort and the bare product, and peak memory.

    python benchmarks/retrieval.py [--sizes 10000 20000] [--rounds 3] [--out retrieval.json]
    python benchmarks/retrieval.py --size 200000              ours and the bare product alone

n queries against n keys at d = 1024, float32 unit vectors (or --dtype float16). The contestants of
a size take turns in one process, so that a slow minute is everybody's; a ratio is the median over
the turns. "plain" is what people write: `q @ k.T` and an argsort of its rows, and of its columns.
"bare" is `q @ k.T` in the same blocks, and nothing else: what the hardware allows. Memory is what
the peak of a process of its own has beyond the embeddings, its libraries warm.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

from imagebind_jax.evaluation.metrics import ranking, similarity

WIDTH = 1024  # ImageBind's
SOME = 8192  # queries of which the bare product is timed where n is larger


def embeddings(n: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of unit vectors of which most, but not all, are nearest to each other."""
    query, key = (np.empty((n, WIDTH), dtype) for _ in range(2))
    rng = np.random.default_rng(0)
    for rows in similarity.chunks(n):
        z, noise = (rng.standard_normal((rows.stop - rows.start, WIDTH), np.float32) for _ in "zn")
        query[rows], key[rows] = similarity.l2_normalize(z), similarity.l2_normalize(z + 7 * noise)
    return query, key


def plain(query: np.ndarray, key: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores = query.astype(np.float32) @ key.astype(np.float32).T
    own = np.arange(len(scores))[:, None]

    def ranks(scores: np.ndarray) -> np.ndarray:
        return np.argmax(np.argsort(-scores, axis=1) == own, axis=1)

    return ranks(scores), ranks(scores.T)


def bare(query: np.ndarray, key: np.ndarray) -> None:
    """As much of it as the first SOME queries need."""
    for rows in similarity.chunks(min(len(query), SOME)):
        z = query[rows].astype(np.float32, copy=False)
        for columns in similarity.chunks(len(key)):
            z @ key[columns].astype(np.float32, copy=False).T


CONTESTANTS: dict[str, Callable] = {
    "ours": ranking.bidirectional_ranks,
    "plain": plain,
    "bare": bare,
}


def resident(field: str) -> int:
    """Bytes that this process has (VmRSS) or had at most (VmHWM)."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise SystemExit("peak memory is read from /proc/self/status: this needs Linux")


def peak(name: str, n: int, dtype: str) -> tuple[int, float]:
    """(bytes beyond the embeddings, seconds), measured in this process."""
    query, key = embeddings(n, dtype)
    CONTESTANTS[name](query[:2048], key[:2048])
    before, begun = resident("VmRSS"), time.perf_counter()
    CONTESTANTS[name](query, key)
    seconds = time.perf_counter() - begun
    return max(resident("VmHWM") - before, 0), seconds


def alone(name: str, n: int, dtype: str) -> tuple[int, float]:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--alone", name, "--size", str(n), "--dtype", dtype]
    return tuple(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))


def turn(call: Callable, query: np.ndarray, key: np.ndarray) -> float:
    """Seconds; of the bare product, those that all of it would take."""
    begun = time.perf_counter()
    call(query, key)
    seconds = time.perf_counter() - begun
    return seconds * len(query) / min(len(query), SOME) if call is bare else seconds


def measured(n: int, dtype: str, names: tuple[str, ...], rounds: int) -> dict:
    memory = {name: alone(name, n, dtype)[0] for name in names if name != "bare"}
    query, key = embeddings(n, dtype)
    times: dict[str, list[float]] = {name: [] for name in names}
    for call in CONTESTANTS.values():
        call(query[:2048], key[:2048])
    for _ in range(rounds):
        for name in names:
            times[name].append(turn(CONTESTANTS[name], query, key))
    return {"n": n, "dtype": dtype, "seconds": times, "memory": memory}


def at_size(n: int, dtype: str) -> dict:
    """Ours once, in its own process, between two of the bare product."""
    query, key = embeddings(n, dtype)
    bare(query[:2048], key[:2048])
    times = [turn(bare, query, key)]
    del query, key  # the other process needs the room
    memory, seconds = alone("ours", n, dtype)
    times.append(turn(bare, *embeddings(n, dtype)))
    row = {"ours": [seconds], "bare": [statistics.mean(times)]}
    return {"n": n, "dtype": dtype, "seconds": row, "memory": {"ours": memory}}


def line(row: dict) -> str:
    """The row's line of the table."""

    def ratio(over: str) -> str:
        if over not in row["seconds"]:
            return ""
        pairs = zip(row["seconds"][over], row["seconds"]["ours"])
        ratios = sorted(other / ours for other, ours in pairs)
        return f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"

    def gib(name: str) -> str:
        return f"{row['memory'][name] / 2**30:.2f}" if name in row["memory"] else ""

    rate = row["n"] ** 2 / statistics.median(row["seconds"]["ours"]) / 1e6
    name = f"{row['n']:,} x {row['n']:,}, {row['dtype']}"
    cells = [name, f"{rate:.0f}", ratio("plain"), ratio("bare"), gib("ours"), gib("plain")]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", type=int, default=[10_000, 20_000])
    parser.add_argument("--size", type=int, help="one size, too large for plain argsort")
    parser.add_argument("--dtype", default="float32", choices=["float32", "float16"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("retrieval.json"))
    parser.add_argument("--alone", choices=CONTESTANTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        print(json.dumps(peak(options.alone, options.size, options.dtype)))
        return
    print(
        "| ranks both ways, d = 1024 | million pairs a second | times as fast as plain "
        "| share of the bare product's speed | GiB beyond the embeddings | of plain |"
    )
    print("|---|---|---|---|---|---|")
    rows = []
    for n in [options.size] if options.size else options.sizes:
        if options.size:
            rows.append(at_size(n, options.dtype))
        else:
            rows.append(measured(n, options.dtype, tuple(CONTESTANTS), options.rounds))
        print(line(rows[-1]), flush=True)
        about = {"numpy": np.__version__, "cores": os.cpu_count(), "width": WIDTH}
        options.out.write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
