"""How many cores feed the accelerators: pairs a second of the whole host path, for each pair.

    python benchmarks/feeding.py [--only PAIR ...] [--rounds 7] [--workers N] [--json FILE]

Files as large as the paper's datasets' (footage.py) go through the stream that training uses, with
Table 9's augmentation: decoding, crop, RandAugment, log-mel, batches. One thread for each core of
this machine, or --workers processes; the pairs take turns, and each number is the median over the
rounds (smallest to largest). "Anchors cached": the picture's embedding is in the record, and only
the other modality is decoded.

What the accelerators take is not measured here. It is peak x MFU / FLOPs of a pair (HUGE; vision
frozen, the other encoder trained: forward + 3 x forward; vision+text: both trained). v5e: the MFU
that the TPU compiler's schedule of a step gives (--v5e-mfu, a vision step and one with anchors
cached); H100: the project's goal of 45 % (--h100-mfu), an assumption.
"""

import argparse
import dataclasses
import json
import math
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

# ruff: noqa: E402
import footage
import numpy as np

from imagebind_jax.inputs.pipeline.batches import ModalityPair, PairBatches, Transform
from imagebind_jax.inputs.transforms import audio, augment, depth, imu, text, thermal, vision
from imagebind_jax.models.imagebind import HUGE
from imagebind_jax.plan import flops

ROWS = 8  # of a batch: small, so that a turn is short
READY = 4  # batches that a process may have made before the first one is taken
V5E, H100 = 197e12, 989e12  # bf16 FLOP/s of a chip: Google's and NVIDIA's data sheets
V5E_CHIPS = 8  # of a host, which has 224 vCPUs (ct5lp-hightpu-8t)


@dataclasses.dataclass(frozen=True)
class InMemory:
    """A source of `count` equal records; each time one is read it gets another view."""

    record: Mapping[str, Any]
    count: int = 64

    def open(self) -> Sequence[Mapping[str, Any]]:
        return [self.record] * self.count


@dataclasses.dataclass(frozen=True)
class Anchor:
    """The kept embedding of the record's picture."""

    def __call__(self, record: Mapping[str, Any], rng: Any) -> np.ndarray:
        return record["anchor"]


MOVING, STILL = (
    vision.FramesTransform(augment=augment.VIDEO),
    vision.FramesTransform(augment=augment.IMAGES),
)
INPUTS: dict[str, dict[str, Transform]] = {
    "vision+audio": {"vision": MOVING, "audio": audio.LogMel(mask_bands=12)},
    "vision+depth": {
        "vision": STILL,
        "depth": depth.Disparity.sun_toolbox(augment=augment.IMAGES),
    },
    "vision+thermal": {"vision": STILL, "thermal": thermal.Thermal(augment=augment.IMAGES)},
    "vision+imu": {"vision": MOVING, "imu": imu.ImuWindow()},
    "vision+text": {"vision": MOVING, "text": text.Tokenize()},  # a crop alone, as CLIP has it
}


def stream(pair: str, record: Mapping[str, Any], cached: bool, batches: int) -> PairBatches:
    inputs = INPUTS[pair] | ({"vision": Anchor()} if cached else {})
    a, b = pair.split("+")
    kept = {**record, "anchor": np.zeros(HUGE.embed_dim, np.float16)}
    return PairBatches(
        (ModalityPair((a, b), InMemory(kept)),), inputs, seed=0, batch_size=ROWS, steps=batches
    )


def rate(made: PairBatches, workers: int) -> float:
    """Pairs a second. Threads: of all batches. Processes: of those that none had ready at first."""
    ready = READY * workers
    begun = last = time.perf_counter()
    for i, batch in enumerate(made.stream(threads=os.cpu_count() or 1, workers=workers), 1):
        assert batch["weight"].all()
        last = time.perf_counter()  # ending processes takes seconds, as starting them does
        begun = last if i <= ready else begun
    return (len(made) - ready) * ROWS / (last - begun)


def of_a_pair(pair: str, cached: bool) -> float:
    """FLOPs of a training step for one pair, without what is computed again."""
    hub, other = (
        flops.forward_flops(HUGE.encoders[modality], HUGE.embed_dim) for modality in pair.split("+")
    )
    if pair == "vision+text" and not cached:
        return 3 * (hub + other)
    return 3 * other + (0 if cached else hub)


def row(pair: str, cached: bool, rates: Sequence[float], options: Any) -> dict[str, Any]:
    """A line of the table: what a core makes, what the accelerators take, cores for it."""
    per_core = sorted(rate / (options.workers or os.cpu_count() or 1) for rate in rates)
    needed = of_a_pair(pair, cached)
    v5e = V5E_CHIPS * V5E * options.v5e_mfu[cached] / needed
    h100 = H100 * options.h100_mfu / needed
    middle = statistics.median(per_core)
    return {
        "pair": pair,
        "anchors_cached": cached,
        "pairs_a_second_and_core": {"median": middle, "range": [per_core[0], per_core[-1]]},
        "flops_a_pair": needed,
        "v5e_8": {"pairs_a_second": v5e, "cores": math.ceil(v5e / middle)},
        "h100": {"pairs_a_second": h100, "cores": math.ceil(h100 / middle)},
    }


def line(found: Mapping[str, Any]) -> str:
    core = found["pairs_a_second_and_core"]
    low, high = (f"{value:,.0f}" for value in core["range"])
    cells = [
        found["pair"] + (", anchors cached" if found["anchors_cached"] else ""),
        f"{core['median']:,.0f} ({low} to {high})",
        f"{found['flops_a_pair'] / 1e9:,.0f}",
    ]
    for chips in (found["v5e_8"], found["h100"]):
        cells += [f"{chips['pairs_a_second']:,.0f}", f"{chips['cores']:,}"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=INPUTS, default=list(INPUTS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batches", type=int, default=8, help=f"of {ROWS} pairs, in a turn")
    parser.add_argument("--workers", type=int, default=0, help="processes in place of threads")
    parser.add_argument(
        "--v5e-mfu",
        type=float,
        nargs=2,
        metavar=("VISION", "CACHED"),
        default=(0.55, 0.41),
        help="as compiled at 128 pairs a chip (default: of frozen ViT-H + audio ViT-B, BENCHMARKS.md)",
    )
    parser.add_argument("--h100-mfu", type=float, default=0.45, help="assumed: the goal")
    parser.add_argument("--json", help="file to write the numbers to")
    options = parser.parse_args()
    records = {pair: footage.record(pair) for pair in options.only}
    batches = options.batches + 9 * READY * options.workers
    made = {
        (pair, cached): stream(pair, record, cached, batches)
        for pair, record in records.items()
        for cached in (False, True)
    }
    for batches in made.values():
        batches[0]  # imports, and what a row holds
    rates: dict[tuple[str, bool], list[float]] = {key: [] for key in made}
    for _ in range(options.rounds):
        for key, batches in made.items():
            rates[key].append(rate(batches, options.workers))
    rows = [row(*key, each, options) for key, each in rates.items()]
    how = f"{options.workers} processes" if options.workers else f"{os.cpu_count()} threads"
    vision_mfu, cached_mfu = options.v5e_mfu
    print(f"{how}; v5e at MFU {vision_mfu:g} and {cached_mfu:g} (estimated by the TPU compiler),")
    print(f"H100 at MFU {options.h100_mfu:g} (assumed; nothing was run on either)\n")
    print("| pair | pairs a second and core (smallest to largest) | GFLOP a pair", end=" ")
    print("| a v5e-8 host takes, pairs a second | cores | an H100 takes | cores |")
    print("|---|---|---|---|---|---|---|")
    print(*map(line, rows), sep="\n")
    if options.json:
        with open(options.json, "w") as file:
            settings = {key: getattr(options, key) for key in ("v5e_mfu", "h100_mfu", "workers")}
            json.dump({"cores": os.cpu_count(), **settings, "pairs": rows}, file, indent=1)


if __name__ == "__main__":
    main()
