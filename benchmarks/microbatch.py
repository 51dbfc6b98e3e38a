"""Micro-batches with the whole batch's gradient: how exact, how much memory, how much time.

    python benchmarks/microbatch.py [--json microbatch.json] [--exact]     needs the extra: tpu

1. On this machine: the gradient of a small model, with dropped paths, by 2, 8 and 16 micro-batches
   against the whole batch's, in float32 and float64; beside it what float32 itself is off.
2. As compiled for v5e:4x4 (no TPU is needed): frozen ViT-H and a trained audio ViT-B, at 128 rows a
   device, whole and in 16 parts, and at 2,048 rows a device, 16 times the batch. Times are the TPU
   compiler's own estimate; bytes are what it reserves.
--exact: the first part alone.
"""

import argparse
import dataclasses
import functools
import json
import pathlib

import jax
import numpy as np

from imagebind_jax.config import TrainConfig, load_config
from imagebind_jax.distributed.device_view import DeviceView
from imagebind_jax.inputs.pipeline.batches import ModalityPair
from imagebind_jax.models.encoder import EncoderConfig
from imagebind_jax.models.imagebind import ImageBindConfig, init
from imagebind_jax.training import gradients

TOPOLOGY = "v5e:4x4"
CONFIG = pathlib.Path(__file__).parent.parent / "configs" / "train_audioset.py"
ROWS, PARTS = 32, (2, 8, 16)


class Nothing:
    """A source of a config whose batch is made here."""

    def open(self):
        return []


def small() -> TrainConfig:
    tower = EncoderConfig((64, 8), patch=(4,), width=64, depth=4, heads=4, drop_path=0.3)
    model = ImageBindConfig({"vision": tower, "imu": dataclasses.replace(tower, bias_kv=True)}, 32)
    pairs = (ModalityPair(("vision", "imu"), Nothing()),)
    inputs = {"vision": np.asarray, "imu": np.asarray}
    return TrainConfig(model=model, inputs=inputs, pairs=pairs, steps=1, batch_size=ROWS)


def gradient(config: TrainConfig, params: dict, dtype: str) -> np.ndarray:
    """All of it as one vector, in float64."""
    rng = np.random.default_rng(0)
    batch = {m: rng.standard_normal((ROWS, 64, 8)).astype(dtype) for m in ("vision", "imu")}
    batch["weight"] = np.ones(ROWS, dtype)
    model = dataclasses.replace(config.model, dtype=dtype)
    config = dataclasses.replace(config, model=model)
    params = jax.tree.map(lambda x: np.asarray(x, dtype), params)
    of_pair = functools.partial(gradients.pair_loss_and_grad, config=config, device=DeviceView())
    _, _, found = jax.jit(of_pair)(params, {}, batch, jax.random.key(1))
    return np.concatenate([np.ravel(leaf).astype(np.float64) for leaf in jax.tree.leaves(found)])


def exact() -> list[dict[str, float]]:
    """Distances of gradients, in lengths of the gradient."""
    config = small()
    params = init(config.model, jax.random.key(0))  # for both: with 64 bits others would be drawn
    off = lambda a, b: float(np.linalg.norm(a - b) / np.linalg.norm(b))  # noqa: E731
    with jax.enable_x64(True):
        double = gradient(config, params, "float64")
        doubles = [
            gradient(dataclasses.replace(config, micro_batches=n), params, "float64") for n in PARTS
        ]
    single = gradient(config, params, "float32")
    rows = []
    for n, other in zip(PARTS, doubles):
        parts = gradient(dataclasses.replace(config, micro_batches=n), params, "float32")
        rows.append(
            {
                "parts": n,
                "float32": off(parts, single),
                "float64": off(other, double),
                "whole float32 from float64": off(single, double),
                "parts float32 from float64": off(parts, double),
            }
        )
    return rows


def compiled() -> list[dict[str, float]]:
    from imagebind_jax.plan import aot_compile, step_estimate

    devices = aot_compile.topology_devices(TOPOLOGY)
    rows = []
    for batch, parts, remat in (
        (2_048, 1, "none"),
        (2_048, 16, "none"),
        (2_048, 1, "full"),
        (2_048, 16, "full"),
        (32_768, 16, "full"),
    ):
        overrides = ["--batch-size", str(batch), "--micro-batches", str(parts)]
        config = load_config(CONFIG, TrainConfig, [*overrides, "--model.remat", remat])
        row = {"batch": batch, "parts": parts, "remat": remat}
        try:
            found = step_estimate.plan_pair(config, config.pairs[0], TOPOLOGY, devices)
            row |= {"temporaries": found["memory"]["temporaries"], "seconds": found["seconds"]}
        except aot_compile.OutOfMemoryError as error:
            row |= {"wanted": error.wanted}
        rows.append(row)
        print(row, flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--exact", action="store_true")
    options = parser.parse_args()
    found: dict[str, list] = {"exact": exact()}
    print("| parts | float32 | float64 | float32's own error: whole, parts |")
    print("|---|---|---|---|")
    for row in found["exact"]:
        parts, *numbers = row.values()
        a, b, c, d = (f"{number:.1e}" for number in numbers)
        print(f"| {parts} | {a} | {b} | {c}, {d} |")
    if not options.exact:
        found["compiled"] = compiled()
        print("| batch | parts | remat | GB of temporaries | estimated ms |")
        print("|---|---|---|---|---|")
        for row in found["compiled"]:
            start = f"| {row['batch']:,} | {row['parts']} | {row['remat']} |"
            if "wanted" in row:
                print(f"{start} does not fit: {row['wanted'] / 1e9:.1f} in all | |")
            else:
                print(f"{start} {row['temporaries'] / 1e9:.2f} | {row['seconds'] * 1e3:.0f} |")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
