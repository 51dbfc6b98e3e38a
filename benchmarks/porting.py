"""Converting and loading the released model's size: time as a ratio to copying the file, and memory.

    python benchmarks/porting.py [--out DIR] [--rounds 3]

Makes a checkpoint of 1.2 B random parameters (4.8 GB, kept for the next run), then, each in a
process of its own: copies it (`cp`, then fsync: the disk's speed), converts it to every format,
and loads one small encoder. Before each the page cache is dropped where that is allowed. Needs
25 GB of disk.
"""

import argparse
import json
import pathlib
import shutil
import statistics
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator

import numpy as np

from imagebind_jax.models.imagebind import HUGE
from imagebind_jax.porting.files import tensor_writers
from imagebind_jax.porting.files.parameter_source import ParameterSource, is_stacked
from imagebind_jax.porting.imagebind_export import imagebind_state_dict

COPY = """
import os, shutil, sys
shutil.copyfile(sys.argv[1], sys.argv[2])
with open(sys.argv[2]) as file: os.fsync(file.fileno())
"""
CONVERT = """
import os, sys
from imagebind_jax.porting.convert import convert
convert(sys.argv[1], sys.argv[2], overwrite=True)
os.sync()
"""
LOAD = """
import sys, time
import imagebind_jax, jax
begun = time.perf_counter()
model, params = imagebind_jax.load(sys.argv[1], modalities=["depth"])
jax.block_until_ready(params)
print(time.perf_counter() - begun)
"""


class Random(ParameterSource):
    """Parameters from nowhere, the same every time."""

    def pieces(self, path: str) -> Iterator[np.ndarray]:
        spec = self.specs[path]
        shape = spec.shape[1:] if is_stacked(path) else spec.shape
        rng = np.random.default_rng(zlib.crc32(path.encode()))
        for _ in range(spec.shape[0] if is_stacked(path) else 1):
            yield rng.standard_normal(shape, np.float32) / np.float32(30)


def drop_cache() -> bool:
    """Whether the next reads come from the disk."""
    subprocess.run(["sync"], check=True)
    try:
        pathlib.Path("/proc/sys/vm/drop_caches").write_text("1")
    except OSError:
        return False
    return True


def run(code: str, *arguments: object) -> dict:
    """Seconds, peak memory and output of a Python process with a cold cache."""
    cold = drop_cache()
    watched = (
        "import sys; exec(sys.argv.pop(1));"
        "lines = open('/proc/self/status').read().splitlines();"
        "print('peak', next(line.split()[1] for line in lines if line.startswith('VmHWM')))"
    )
    begun = time.monotonic()
    command = [sys.executable, "-c", watched, code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    seconds = time.monotonic() - begun
    if done.returncode:
        raise SystemExit(done.stderr)
    lines = done.stdout.splitlines()
    peak = int(lines[-1].split()[1]) / 1024
    return {"seconds": seconds, "peak_mib": peak, "lines": lines[:-1], "cold": cold}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("porting-bench"))
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    source = options.out / "huge.pth"
    if not source.exists():
        weights = Random(HUGE, "float32", {})
        specs, tensors = imagebind_state_dict(weights)
        print(f"writing {source}", flush=True)
        tensor_writers.write_torch(source, specs, tensors)
    size = source.stat().st_size

    results: dict[str, list[dict]] = {}
    for _ in range(options.rounds):  # interleaved, so that a slow minute is everybody's
        for name, code in {"copy": COPY, "orbax": CONVERT, "safetensors": CONVERT,
                           "pytorch": CONVERT}.items():  # fmt: skip
            suffix = {"safetensors": ".safetensors", "orbax": "", "copy": ".copy"}.get(name, ".pth")
            target = options.out / f"out-{name}{suffix}"
            results.setdefault(name, []).append(run(code, source, target))
            shutil.rmtree(target) if target.is_dir() else target.unlink()
        results.setdefault("depth", []).append(run(LOAD, source))
    (options.out / "results.json").write_text(json.dumps(results, indent=1))

    def median(name: str, what: str) -> float:
        return statistics.median(row[what] for row in results[name])

    cold = all(row["cold"] for rows in results.values() for row in rows)
    print(f"{size / 1e9:.2f} GB, {'cold' if cold else 'WARM'} cache, medians of {options.rounds}\n")
    print("| what | seconds | MB/s | share of the copy's speed | peak memory, MiB |")
    print("|---|---|---|---|---|")
    for name in ("copy", "orbax", "safetensors", "pytorch"):
        seconds = median(name, "seconds")
        share = median("copy", "seconds") / seconds
        peak = f"{median(name, 'peak_mib'):,.0f}"
        print(f"| {name} | {seconds:.1f} | {size / 1e6 / seconds:,.0f} | {share:.2f} | {peak} |")
    loads = [float(row["lines"][0]) for row in results["depth"]]
    print(f"\nload of the depth encoder: {statistics.median(loads):.2f} s, limit 2 s")


if __name__ == "__main__":
    main()
