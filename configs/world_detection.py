"""A small model whose patches can be searched by sound and by sentence, on the built-in world.

    imagebind-jax train configs/world_detection.py --out detection
    imagebind-jax evaluate configs/eval_world_detection.py --checkpoint detection

Some 4 minutes on two cores. Single objects only, vision with text and vision with audio; no box and
no outline is ever seen. Expect a mean IoU of 0.6, five times that of a centred box (BENCHMARKS.md).
"""

import dataclasses

from imagebind_jax.config import TrainConfig
from imagebind_jax.demo import run
from imagebind_jax.inputs.pipeline import batches
from imagebind_jax.inputs.world.multi_object import SingleObjectWorld
from imagebind_jax.inputs.world.world import world_source
from imagebind_jax.models.imagebind import TINY, ImageBindConfig
from imagebind_jax.optimizer import OptimizerConfig

SAMPLES = 2400  # of each pair
STEPS = 700


def get_config(seed: int = 0) -> TrainConfig:
    others = ("text", "audio")
    # Patches of 8 pixels, and one block: with more of them every token knows of all others, and
    # nothing in the training makes it tell of its own place (see BENCHMARKS.md).
    vision = dataclasses.replace(TINY.encoders["vision"], patch=(2, 8, 8), width=96, depth=1)
    encoders = {"vision": vision, **{m: TINY.encoders[m] for m in others}}
    return TrainConfig(
        model=ImageBindConfig(encoders, embed_dim=TINY.embed_dim),
        inputs={m: run.INPUTS[m] for m in encoders},
        pairs=tuple(
            batches.ModalityPair(
                ("vision", m),
                world_source(
                    SingleObjectWorld(seed, run.SIZE, antialias=False),
                    "train",
                    SAMPLES,
                    i * SAMPLES,
                    ("vision", m),
                ),
            )
            for i, m in enumerate(others)
        ),
        steps=STEPS,
        batch_size=96,
        optimizer=OptimizerConfig(
            learning_rate=1e-3, warmup_steps=STEPS // 10, weight_decay=0.05, beta2=0.98
        ),
        seed=seed,
        in_memory=True,
        checkpoint_every=STEPS,
    )
