"""First light: six small encoders trained only against vision, and what then binds by itself."""

import functools
import json
import math
import os
import pathlib
import platform
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax

import imagebind_jax
from imagebind_jax import binding, metrics, report, train
from imagebind_jax.encoders import EncoderConfig
from imagebind_jax.errors import UserError
from imagebind_jax.inputs import audio, depth, imu, pipeline, text, thermal, vision, world
from imagebind_jax.inputs.sources import Cached
from imagebind_jax.inputs.world.samples import samples
from imagebind_jax.model import ImageBindConfig
from imagebind_jax.optimizer import OptimizerConfig

HUB = "vision"
OTHERS = tuple(m for m in world.ALL if m != HUB)
PAIRS = 1600  # training samples of each pair
PROBE, TEST = 768, 384  # samples with all modalities: to fit linear probes, to test on
CONTEXT = 32  # tokens; the longest caption has 22 words
SIZE = 60  # pixels of vision, depth and thermal inputs


def config(seed: int = 0, *, steps: int = 600, pairs: int = PAIRS) -> train.TrainConfig:
    """The demo's training run: vision with each other modality, from disjoint samples."""
    shared: dict[str, Any] = {"width": 128, "depth": 3, "heads": 4, "logit_scale": 10.0}
    image: dict[str, Any] = {"patch": (12, 12), "stem_norm": True, "bias_kv": True, **shared}
    encoders = {
        "vision": EncoderConfig(
            (2, SIZE, SIZE, 3), patch=(2, 12, 12), pre_norm=True, **shared | {"logit_scale": None}
        ),
        "text": EncoderConfig((CONTEXT,), vocab_size=49408, position_std=0.01, **shared),
        "audio": EncoderConfig((128, 204, 1), **image | {"patch": (64, 12)}),
        "depth": EncoderConfig((SIZE, SIZE, 1), **image),
        "thermal": EncoderConfig((SIZE, SIZE, 1), **image),
        "imu": EncoderConfig((2000, 6), **image | {"patch": (80,)}),
    }
    return train.TrainConfig(
        model=ImageBindConfig(encoders, embed_dim=64),
        inputs={
            "vision": vision.Clip(SIZE),
            "text": text.Tokens(CONTEXT),
            "audio": audio.LogMel(),
            "depth": depth.Disparity(SIZE, "metric", mean=2.0, std=1.5),
            "thermal": thermal.Thermal(SIZE),
            "imu": imu.Window(),
        },
        # No sample is in two pairs, so none is ever seen in two modalities other than vision.
        pairs=tuple(
            pipeline.Pair(
                (HUB, modality),
                samples(world.World(seed), "train", pairs, i * pairs, (HUB, modality)),
            )
            for i, modality in enumerate(OTHERS)
        ),
        steps=steps,
        batch_size=128,
        optimizer=OptimizerConfig(
            learning_rate=1e-3, warmup_steps=50, weight_decay=0.05, beta2=0.98
        ),
        seed=seed,
        checkpoint_every=steps,
    )


def run(
    out: str | os.PathLike,
    *,
    seed: int = 0,
    config: Callable[..., train.TrainConfig] = config,
    probe: int = PROBE,
    test: int = TEST,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Renders the world, trains, evaluates; writes results.json and report.html into `out`.

    Returns the results (see `binding.evaluate`). A demo that was interrupted goes on.
    """
    begun = time.monotonic()
    folder = pathlib.Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".writable").touch()
        (folder / ".writable").unlink()
    except OSError as error:
        raise UserError(
            f"cannot write to {folder}: {error.strerror}; choose another --out"
        ) from error
    settings = config(seed)
    held_out = samples(world.World(seed), "test", test)
    labelled = samples(world.World(seed), "probe", probe)
    say(f"imagebind_jax demo: six modalities, one space, seed {seed} -> {folder}/report.html")
    render([*train.cached(settings), labelled, held_out])
    params = train.fit(settings, folder / "run", say=say)
    say("evaluating on combinations that were held out")
    space = binding.embed_all(settings, params, probe=labelled.open(), test=held_out.open())
    results = binding.evaluate(space) | {
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
    partial = folder / "results.json.partial"
    partial.write_text(json.dumps(results, indent=1))
    partial.replace(folder / "results.json")
    report.write_report(
        folder / "report.html",
        results=results,
        history=metrics.read(folder / "run" / "metrics.jsonl"),
        similarity=binding.similarities(space),
        gallery=binding.gallery(space),
    )
    for line in binding.table(results):
        say(line)
    say(f"{folder / 'report.html'}: open it in a browser ({results['seconds']:.0f} s in all)")
    return results


def render(sources: Sequence[Cached]) -> None:
    """Makes every record that is not in the cache, with one progress bar."""
    total, done = sum(source.count for source in sources), 0
    with metrics.Progress("render", total) as progress:
        for source in sources:
            source.open(functools.partial(_advance, progress, done))
            done += source.count
        progress.update(done)


def _advance(progress: metrics.Progress, before: int, done: int) -> None:
    progress.update(before + done)
