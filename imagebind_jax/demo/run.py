"""First light: six small encoders trained only against vision, and what then binds by itself."""

import json
import math
import os
import pathlib
import platform
import time
from collections.abc import Callable
from typing import Any

import jax

import imagebind_jax
from imagebind_jax.config import TrainConfig, cached_sources
from imagebind_jax.demo import evaluate, examples, report
from imagebind_jax.inputs import world
from imagebind_jax.inputs.pipeline import batches
from imagebind_jax.inputs.sources.cached import materialize
from imagebind_jax.inputs.transforms import audio, depth, imu, text, thermal, vision
from imagebind_jax.inputs.world import export as world_files
from imagebind_jax.inputs.world.world import world_source
from imagebind_jax.models.imagebind import TINY
from imagebind_jax.optimizer import OptimizerConfig
from imagebind_jax.runtime import console, metrics_log
from imagebind_jax.runtime.progress import Progress
from imagebind_jax.storage import atomic
from imagebind_jax.training import fit

ANCHOR_MODALITY = "vision"
OTHERS = tuple(modality for modality in world.MODALITIES if modality != ANCHOR_MODALITY)
PAIRS = 1600  # training samples of each pair
SIZE = TINY.encoders["depth"].shape[0]  # pixels
PROBE, TEST = 768, 384  # samples with all modalities: to fit linear probes, to test on
STEPS = 1600
FILES = 60  # samples that are left as files, to try embed and search on

# Means and standard deviations of 1,600 training samples of the world.
INPUTS: dict[str, batches.Transform] = {
    "vision": vision.FramesTransform(SIZE),
    "text": text.Tokenize(TINY.encoders["text"].shape[0]),
    "audio": batches.Standardize(audio.LogMel(), (-0.44,), (0.44,)),
    "depth": depth.Disparity(SIZE, "metric", mean=1.66, std=0.83),
    "thermal": batches.Standardize(thermal.Thermal(SIZE), (0.34,), (0.15,)),
    "imu": batches.Standardize(
        imu.ImuWindow(),
        (-0.27, -9.6, -2.43, 0.0, 0.0, 0.011),
        (0.98, 0.37, 1.07, 0.027, 0.027, 0.072),
    ),
}


def demo_world(seed: int) -> world.World:
    """The world as the demo sees it: another seed, other samples."""
    return world.World(seed, SIZE, antialias=False)


def demo_config(seed: int = 0) -> TrainConfig:
    """The demo's training run: vision with each other modality, from disjoint samples."""
    return TrainConfig(
        model=TINY,
        inputs=INPUTS,
        # No sample is in two pairs, so none is ever seen in two modalities other than vision.
        pairs=tuple(
            batches.ModalityPair(
                (ANCHOR_MODALITY, modality),
                world_source(
                    demo_world(seed), "train", PAIRS, i * PAIRS, (ANCHOR_MODALITY, modality)
                ),
            )
            for i, modality in enumerate(OTHERS)
        ),
        steps=STEPS,
        batch_size=128,
        optimizer=OptimizerConfig(
            learning_rate=1e-3, warmup_steps=STEPS // 10, weight_decay=0.05, beta2=0.98
        ),
        seed=seed,
        in_memory=True,
        checkpoint_every=STEPS // 4,
    )


def run_demo(
    out: str | os.PathLike,
    *,
    seed: int = 0,
    config: Callable[..., TrainConfig] = demo_config,
    probe: int = PROBE,
    test: int = TEST,
    say: Callable[[str], None] = console.print_line,
) -> dict[str, Any]:
    """Renders the world, trains, evaluates; writes results.json, report.html and samples/ into `out`.

    Returns the results (see `evaluate.evaluate_world`). A demo that was interrupted goes on.
    """
    begun = time.monotonic()
    folder = pathlib.Path(out)
    settings = config(seed)
    fit.preflight_check(settings, folder / "run")
    held_out, labelled = (
        world_source(demo_world(seed), split, count)
        for split, count in (("test", test), ("probe", probe))
    )
    say(f"imagebind_jax demo: six modalities, one space, seed {seed} -> {folder}/report.html")
    materialize([*cached_sources(settings), labelled, held_out])
    params = fit.fit(settings, folder / "run", say=say)
    say("evaluating on combinations that were held out")
    with Progress("evaluate", 1) as progress:
        space = evaluate.embed_all(settings, params, labelled.open(), held_out.open(), progress.say)
        results = evaluate.evaluate_world(space, progress.say)
        progress.update(1)
    results |= {
        "trained_pairs": [pair.name for pair in settings.pairs],
        "chance_loss": 2 * math.log(settings.batch_size),
        "seed": seed,
        "versions": {
            "imagebind_jax": imagebind_jax.__version__,
            "jax": jax.__version__,
            "python": platform.python_version(),
        },
        "seconds": round(time.monotonic() - begun, 1),
    }
    atomic.write_text_atomic(folder / "results.json", json.dumps(results, indent=1))
    report.write_demo_report(
        folder / "report.html",
        results=results,
        history=metrics_log.read_metrics(folder / "run" / "metrics.jsonl"),
        similarity=examples.class_similarity_tables(space),
        gallery=examples.example_searches(space),
    )
    world_files.export_files(folder / "samples", demo_world(seed), min(FILES, test))
    for line in evaluate.format_results(results):
        say(line)
    say(f"{folder / 'report.html'}: open it in a browser ({results['seconds']:.0f} s in all)")
    say(
        f"its samples as files, to search: imagebind-jax embed {folder}/samples/all.jsonl --checkpoint {folder}/run --out mine"
    )
    return results
