"""Training against kept anchors in place of a frozen tower: how many times as fast a step is.

    python benchmarks/anchors.py [--topology v5e:4x4] [--rows 8] [--rounds 9] [--json anchors.json]

Of configs/train_audioset.py (frozen ViT-H, audio ViT-B, 2,048 pairs), compiled for a TPU slice
that is not there: seconds are the compiler's schedule, an estimate (`imagebind-jax plan`), for each
remat policy; the goal is 4 x between the fastest that fit. That part needs the `tpu` extra. Then the
same two steps, at a quarter of the width and the depth and with all tokens, timed here in turns.
The limit beside each ratio is the one of the floating-point operations that a step needs.
"""

import argparse
import dataclasses
import functools
import importlib.util
import json
import pathlib
import statistics
import time

import jax
import numpy as np

from imagebind_jax.config import TrainConfig, load_config
from imagebind_jax.distributed import sharding
from imagebind_jax.errors import UserError
from imagebind_jax.inputs.pipeline.precomputed import (
    PRECOMPUTED_PREFIX,
    FixedViews,
    PrecomputedEmbeddings,
)
from imagebind_jax.models.encoder import EncoderConfig
from imagebind_jax.plan import aot_compile, flops, step_estimate
from imagebind_jax.training import step as training_step

CONFIG = pathlib.Path(__file__).parents[1] / "configs" / "train_audioset.py"
REMAT = ("full", "products", "none")
SMALLER = 4
Numbers = dict


def anchored(config: TrainConfig) -> TrainConfig:
    """The same run against anchors of its first modality, whose encoder it then does without."""
    [pair] = config.pairs
    encoders = {m: e for m, e in config.model.encoders.items() if m != pair.modalities[0]}
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, encoders=encoders),
        pairs=(
            dataclasses.replace(
                pair, views=FixedViews(8), anchors=PrecomputedEmbeddings("anchors")
            ),
        ),
        optimizer=dataclasses.replace(config.optimizer, frozen=()),
        initial=(),
    )


def limit(config: TrainConfig) -> float:
    """Operations with the tower, as a multiple of those without."""
    a, b = (
        flops.train_step_flops(each, each.pairs[0].encoded, flops.trainable_fraction(each))
        for each in (config, anchored(config))
    )
    return a / b


# ---- as compiled for a TPU


def compiled(config: TrainConfig, topology: str) -> list[Numbers]:
    devices, rows = aot_compile.topology_devices(topology), []
    for remat in REMAT:
        for what, kind in (("frozen tower", config), ("anchors", anchored(config))):
            model = dataclasses.replace(kind.model, remat=remat)
            each = dataclasses.replace(kind, model=model)
            row = {"what": what, "remat": remat}
            try:
                found = step_estimate.plan_pair(each, each.pairs[0], topology, devices)
            except aot_compile.OutOfMemoryError as error:
                row |= {"fits": False, "gigabytes": error.wanted / 1e9}
            else:
                row |= {
                    "fits": found["fits"],
                    "gigabytes": found["memory"]["total"] / 1e9,
                    "seconds": found["seconds"],
                    "utilisation": found["utilisation"],
                }
            rows.append(row)
            print(line(row), flush=True)
    return rows


def line(row: Numbers) -> str:
    told = f"| {row['what']} | {row['remat']} | {row['gigabytes']:.1f} | "
    if "seconds" not in row:
        return f"{told} does not fit | |"
    return f"{told}{1e3 * row['seconds']:.0f} | {row['utilisation']:.2f} |"


def fastest(rows: list[Numbers], what: str) -> Numbers | None:
    there = [row for row in rows if row["what"] == what and row["fits"]]
    return min(there, key=lambda row: row["seconds"]) if there else None


# ---- timed here


def smaller(encoder: EncoderConfig) -> EncoderConfig:
    """A quarter of the width and of the depth, heads as wide, all tokens."""
    return dataclasses.replace(
        encoder,
        width=encoder.width // SMALLER,
        depth=encoder.depth // SMALLER,
        heads=encoder.heads // SMALLER,
    )


def stepper(config: TrainConfig, batch: dict[str, np.ndarray]):
    """One training step after the other on this machine's devices."""
    place = sharding.make_strategy(config.parallel)
    state = place.create(functools.partial(training_step.create_state, config))
    step = place.compile(functools.partial(training_step.train_step, config=config), state)
    placed = place.batch(batch)

    def run():
        nonlocal state
        begun = time.perf_counter()
        state, values = step(state, placed)
        jax.block_until_ready(values)
        return time.perf_counter() - begun

    run()  # compiles
    return run


def timed(config: TrainConfig, rows: int, rounds: int) -> Numbers:
    encoders = {m: smaller(e) for m, e in config.model.encoders.items()}
    model = dataclasses.replace(config.model, encoders=encoders, dtype="float32", remat="none")
    config = dataclasses.replace(config, model=model, batch_size=rows)
    rng = np.random.default_rng(0)
    first, second = config.pairs[0].modalities
    inputs = {m: rng.standard_normal((rows, *encoders[m].shape), np.float32) for m in encoders}
    weight = np.ones(rows, np.float32)
    z = rng.standard_normal((rows, model.embed_dim), np.float32)
    z /= np.linalg.norm(z, axis=-1, keepdims=True)
    tower = stepper(config, {**inputs, "weight": weight})
    kept = stepper(
        anchored(config),
        {f"{PRECOMPUTED_PREFIX}{first}": z, second: inputs[second], "weight": weight},
    )
    turns = [(tower(), kept()) for _ in range(rounds)]
    ratios = [a / b for a, b in turns]
    return {
        "rows": rows,
        "tower_seconds": statistics.median(a for a, _ in turns),
        "anchors_seconds": statistics.median(b for _, b in turns),
        "ratio": statistics.median(ratios),
        "smallest": min(ratios),
        "largest": max(ratios),
        "limit": limit(config),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--topology", default="v5e:4x4")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", default="anchors.json")
    options = parser.parse_args()
    config = load_config(CONFIG, TrainConfig)
    found: Numbers = {"jax": jax.__version__}
    if importlib.util.find_spec("libtpu") is None:
        print("compiled for a TPU: left out, it needs pip install -e '.[tpu]'\n")
    else:
        print(f"| {options.topology}, {config.batch_size:,} pairs | remat | GB a device |"
              " estimated ms | estimated MFU |\n|---|---|---|---|---|")  # fmt: skip
        rows = compiled(config, options.topology)
        found["compiled"] = {"topology": options.topology, "rows": rows, "limit": limit(config)}
        best = [fastest(rows, what) for what in ("frozen tower", "anchors")]
        if all(best):
            ratio = best[0]["seconds"] / best[1]["seconds"]
            found["compiled"]["ratio"] = ratio
            print(f"\nthe fastest that fit: {ratio:.2f} x (goal 4; by operations "
                  f"{found['compiled']['limit']:.2f})\n")  # fmt: skip
    try:
        here = found["timed"] = timed(config, options.rows, options.rounds)
    except UserError as error:
        raise SystemExit(str(error)) from None
    print("| timed here | rows | with the tower, ms | with anchors, ms | ratio | by operations |"
          "\n|---|---|---|---|---|---|")  # fmt: skip
    print(f"| a quarter of the width and depth, float32 | {here['rows']} | "
          f"{1e3 * here['tower_seconds']:.0f} | {1e3 * here['anchors_seconds']:.0f} | "
          f"{here['ratio']:.2f} ({here['smallest']:.2f} to {here['largest']:.2f}) | "
          f"{here['limit']:.2f} |")  # fmt: skip
    pathlib.Path(options.json).write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
