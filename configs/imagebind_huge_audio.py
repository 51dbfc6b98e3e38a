"""Audio learned against a frozen ViT-H, at the released model's sizes and the paper's batch of 2,048.

    imagebind-jax plan configs/imagebind_huge_audio.py --topology v5e:4x4
    imagebind-jax prepare audioset --source audioset --out records/audioset
    imagebind-jax convert open_clip_pytorch_model.bin clip
    imagebind-jax train configs/imagebind_huge_audio.py

Data: AudioSet's videos, which you get yourself (data/audioset/README.md). The vision tower: OpenCLIP's
ViT-H/14 (docs/porting.md), stored in bfloat16 and never trained.
Recipe: Table 9 of the paper, AudioSet's column; 64 epochs of 2 million clips, each 1.25 times.
Time and memory: BENCHMARKS.md has what is estimated for TPUs. Nobody has run it: no accuracy is known.
"""

import dataclasses

from imagebind_jax.config import TrainConfig
from imagebind_jax.inputs import audio, augment, vision
from imagebind_jax.inputs.pipeline import Pair
from imagebind_jax.inputs.sources import Prepared
from imagebind_jax.model import HUGE
from imagebind_jax.optimizer import OptimizerConfig


def get_config() -> TrainConfig:
    encoders = {
        "vision": dataclasses.replace(HUGE.encoders["vision"], norm_eps=1e-5),  # as CLIP's are
        "audio": HUGE.encoders["audio"],
    }
    return TrainConfig(
        model=dataclasses.replace(HUGE, encoders=encoders, dtype="bfloat16", remat="products"),
        inputs={
            "vision": vision.Clip(augment=augment.VIDEO),
            "audio": audio.LogMel(mask_bands=12),
        },
        pairs=(
            Pair(
                ("vision", "audio"),
                Prepared("records/audioset", "unbalanced_train"),
                replication=1.25,
            ),
        ),
        steps=80_000,
        batch_size=2_048,
        # As compiled for TPUs (BENCHMARKS.md): a frozen tower is fastest on few rows at once, and
        # whole on every device, as its weights would be gathered for each of these parts.
        frozen_rows=32,
        fsdp=1,
        optimizer=OptimizerConfig(
            learning_rate=1.6e-3, weight_decay=0.2, warmup_steps=2_000, frozen=("vision/",)
        ),
        initial=("clip",),
        workers=32,
        threads=1,
    )
