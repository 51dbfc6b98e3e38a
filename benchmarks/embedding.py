"""Files a second of `imagebind-jax embed` beside the bare model on ready batches: what the host loses.

    python benchmarks/embedding.py [--files 2000] [--rounds 2] [--out embedding.json]

Small JPEGs (160 x 120) and a vision tower of ViT-S/16's size with random weights. "whole" is the
command from its start to its end, imports, compilation and the store included, as a process of its
own; "bare" the compiled model alone, over as many images in batches that are in memory already, in a
process of its own, compilation not counted. They take turns; a ratio is of one turn, the number told
the median. On two cores, model and host work share them: whatever the host does, the model waits.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
from PIL import Image

GOAL = 0.85


def write_checkpoint(path: pathlib.Path) -> None:
    import jax

    from imagebind_jax.models.encoder import EncoderConfig
    from imagebind_jax.models.imagebind import ImageBindConfig, init
    from imagebind_jax.porting.files import own_checkpoint, provenance
    from imagebind_jax.porting.files.parameter_source import InMemoryParams

    encoder = EncoderConfig(
        (2, 224, 224, 3), patch=(2, 16, 16), width=384, depth=12, heads=6, pre_norm=True
    )
    config = ImageBindConfig({"vision": encoder}, embed_dim=1024)
    weights = InMemoryParams(config, jax.device_get(init(config, jax.random.key(0))))
    own_checkpoint.write_checkpoint(
        path, weights, lambda d: provenance.WeightsMetadata(config, {"licence": ""}, dict(d))
    )


def write_files(root: pathlib.Path, count: int) -> None:
    root.mkdir()
    rng = np.random.default_rng(0)
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        coarse.resize((160, 120), Image.Resampling.BICUBIC).save(root / f"{i:05d}.jpg", quality=88)


def bare(checkpoint: str, count: int) -> float:
    """Seconds of the model alone."""
    from imagebind_jax.search.encoders import CheckpointEncoders

    bench = CheckpointEncoders(checkpoint).bench("vision")
    run, size = bench.runner("bare", "vision", {}), bench.batch_size
    ready = np.random.default_rng(0).standard_normal((size, 1, 224, 224, 3), np.float32)
    rows = list(range(size))
    np.asarray(run(rows, ready))
    begun, flying = time.perf_counter(), []
    for _ in range(-(-count // size)):
        flying.append(run(rows, ready))
        if len(flying) > 2:
            np.asarray(flying.pop(0))
    for each in flying:
        np.asarray(each)
    return (time.perf_counter() - begun) * count / (-(-count // size) * size)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", default="")
    parser.add_argument("--bare", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare:
        print(bare(options.bare, options.files))
        return
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        write_checkpoint(root / "checkpoint")
        write_files(root / "files", options.files)
        rounds = []
        for i in range(options.rounds):
            alone = subprocess.run(
                [sys.executable, __file__, "--bare", root / "checkpoint", "--files", str(options.files)],
                check=True, capture_output=True, text=True,
            )  # fmt: skip
            model = float(alone.stdout.split()[-1])
            begun = time.perf_counter()
            command = [sys.executable, "-m", "imagebind_jax.cli", "embed", root / "files"]
            command += ["--checkpoint", root / "checkpoint", "--out", root / f"store{i}"]
            subprocess.run(command, check=True, capture_output=True, text=True)
            whole = time.perf_counter() - begun
            rounds.append({"bare": options.files / model, "whole": options.files / whole})
            said = rounds[-1]
            print(f"round {i + 1}: bare {said['bare']:.1f}/s, whole {said['whole']:.1f}/s, "
                  f"{said['whole'] / said['bare']:.3f}")  # fmt: skip
    ratio = statistics.median(each["whole"] / each["bare"] for each in rounds)
    print(
        f"{ratio:.3f} of the bare model's speed (goal {GOAL}): {'reached' if ratio >= GOAL else 'missed'}"
    )
    if options.out:
        pathlib.Path(options.out).write_text(
            json.dumps({"rounds": rounds, "ratio": ratio}, indent=1)
        )


if __name__ == "__main__":
    main()
