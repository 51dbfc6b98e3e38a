"""Fusion on the world: what neither modality tells alone, by head, beside two networks from scratch.

    python benchmarks/fusion.py [--demos fusion] [--seeds 0 1 2] [--out fusion.json]

Trains the demo of each seed into DEMOS/demo<seed>, where it is not there, and measures
configs/eval_world_fusion.py on it: another seed is another world, other encoders, and other heads,
of which each number is the mean of three. The networks, the slowest, are those of the first. Ends with 1 where some head's fusion is less than 10
points above the better of its modalities alone, in the mean over the seeds.
"""

import argparse
import importlib.util
import json
import pathlib
import statistics
import sys
import time

from imagebind_jax.demo import run as demo
from imagebind_jax.evaluation import run
from imagebind_jax.evaluation.trained.fusion_heads import HEADS
from imagebind_jax.storage import atomic

CONFIG = pathlib.Path(__file__).parents[1] / "configs" / "eval_world_fusion.py"
GOAL = 10.0  # points
ALONE = ("mfcc", "images", "mfcc-material", "images-shape")


def config(seed: int):
    spec = importlib.util.spec_from_file_location("eval_world_fusion", CONFIG)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # by which a benchmark's own classes are found
    spec.loader.exec_module(module)
    return module.get_config(seed)


def measure(folder: pathlib.Path, seed: int, only: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """{benchmark: {number: percent}} of one seed's world."""
    if not (folder / "results.json").exists():
        demo.run_demo(folder, seed=seed)
    found = run.run_benchmarks(
        config(seed), checkpoint=folder / "run", out=folder / "fusion", only=only
    )
    return {
        name: {number: 100 * each.value for number, each in entry.numbers.items()}
        for name, entry in found.benchmarks.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--demos", type=pathlib.Path, default=pathlib.Path("fusion"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=pathlib.Path)
    options = parser.parse_args()
    begun = time.monotonic()
    folders = [options.demos / f"demo{seed}" for seed in options.seeds]
    found = [measure(*each, tuple(HEADS)) for each in zip(folders, options.seeds)]
    networks = measure(folders[0], options.seeds[0], ALONE)

    def cell(name: str, number: str) -> str:
        values = [each[name][number] for each in found]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        return f"{statistics.mean(values):.1f} ± {spread:.1f}"

    print(f"\n{len(found)} seeds, {(time.monotonic() - begun) / 60:.1f} min\n")
    print("| head | audio alone | depth alone | fusion | gain |\n|---|---|---|---|---|")
    for head in HEADS:
        cells = [cell(head, number) for number in ("audio", "depth", "fusion", "gain")]
        print(f"| {' | '.join([head, *cells])} |")
    print("\n| network from scratch | accuracy |\n|---|---|")
    for name in ALONE:
        print(f"| {name} | {networks[name]['accuracy']:.1f} |")
    if options.out:
        found[0] |= networks
        atomic.write_text_atomic(options.out, json.dumps(dict(zip(options.seeds, found)), indent=1))
    gains = {head: statistics.mean(each[head]["gain"] for each in found) for head in HEADS}
    short = [head for head, gain in gains.items() if gain < GOAL]
    print(f"\ngoal: {GOAL:.0f} points above the better modality:", "MISSED by" if short else "reached",
          ", ".join(short))  # fmt: skip
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
