"""The demo over several seeds: its table with the spread, its time and its peak memory.

    python benchmarks/demo.py --seeds 0 1 2 [--out demo-seeds]

Each seed is another world, another initialisation, another order; each runs in its own process
with an empty cache. Prints the tables that stand in README.md and BENCHMARKS.md.
"""

import argparse
import json
import os
import pathlib
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time


def run(seed: int, folder: pathlib.Path) -> dict:
    """One `imagebind-jax demo` from nothing; its results with wall seconds and peak memory."""
    shutil.rmtree(folder, ignore_errors=True)  # a finished run would only be evaluated again
    with tempfile.TemporaryDirectory() as cache:
        begun = time.monotonic()
        command = [sys.executable, "-m", "imagebind_jax.cli", "demo", "--out", str(folder)]
        subprocess.run([*command, "--seed", str(seed), "--cache", cache], check=True)
        seconds = time.monotonic() - begun
    results = json.loads((folder / "results.json").read_text())
    # The largest process so far: the trainer. (The renderers before it take 0.2 GiB each.)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    return results | {"wall_seconds": seconds, "peak_gib": peak}


def spread(values: list[float], scale: float = 100) -> str:
    """mean (smallest to largest), scaled."""
    values = [scale * value for value in values]
    return f"{statistics.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("demo-seeds"))
    options = parser.parse_args()
    runs = [run(seed, options.out / str(seed)) for seed in options.seeds]
    (options.out / "seeds.json").write_text(json.dumps(runs, indent=1))

    print(
        "\n| hears, sees or feels | asked for | by sentences, % | chance, % | probe, % | of probe |"
    )
    print("|---|---|---|---|---|---|")
    for modality, rows in runs[0]["zero_shot"].items():
        for i, row in enumerate(rows):
            same = [r["zero_shot"][modality][i] for r in runs]
            top1, probe = [r["top1"] for r in same], [r["probe"] for r in same]
            share = f"{statistics.mean(a / b for a, b in zip(top1, probe)):.2f}"
            name = f"{modality} (trained with text)" if modality == "vision" else modality
            print(
                f"| {name} | {row['task']} | {spread(top1)} | {100 * row['chance']:.1f} "
                f"| {spread(probe)} | {share} |"
            )
    summary = {name: [r["summary"][name] for r in runs] for name in runs[0]["summary"]}
    print(f"\nmean emergent accuracy, %: {spread(summary['emergent_top1'])}")
    print(f"of the probe's, %: {spread(summary['fraction_of_probe'])}")
    print(f"the worst, times chance: {spread(summary['least_times_chance'], 1)}")
    mixed = {k: [r["arithmetic"][k] for r in runs] for k in ("top1", "image_alone", "chance")}
    print("clip + sound, %: " + ", ".join(f"{k} {spread(v)}" for k, v in mixed.items()))
    print(f"wall seconds: {spread([r['wall_seconds'] for r in runs], 1)}")
    print(f"peak of the largest process, GiB: {max(r['peak_gib'] for r in runs):.2f}")
    print(f"cores: {os.cpu_count()}")


if __name__ == "__main__":
    main()
