"""All six encoders of the released sizes, each of them trained, at a batch of 8,192.

    imagebind-jax plan configs/imagebind_huge_all.py --topology v5e:16x16
    imagebind-jax prepare NAME --source DOWNLOAD --out records/NAME
    imagebind-jax train configs/imagebind_huge_all.py

NAME: audioset, sunrgbd, llvip, ego4d, and captions, which is any folder of captioned images
(data/*/README.md). It goes on from the released weights, which are for non-commercial use only.
Recipe: inputs, drawn moments and replications of Table 9 of the paper; the rates are nobody's, as the
paper froze vision and text. A step is of one pair, drawn by the weights: those of depth and thermal
are small, for they have few records.
Time and memory: BENCHMARKS.md has what is estimated for TPUs. Nobody has run it: no accuracy is known.
"""

import dataclasses

from imagebind_jax.config import TrainConfig
from imagebind_jax.inputs.pipeline.batches import ModalityPair
from imagebind_jax.inputs.sources import Prepared
from imagebind_jax.inputs.transforms import audio, augment, depth, imu, text, thermal, vision
from imagebind_jax.models.imagebind import HUGE
from imagebind_jax.optimizer import OptimizerConfig


def get_config() -> TrainConfig:
    moving = {"vision": vision.FramesTransform(augment=augment.VIDEO)}  # a crop alone
    captions, sounds = (
        Prepared("records/captions", "train"),
        Prepared("records/audioset", "unbalanced_train"),
    )
    rooms, streets = Prepared("records/sunrgbd", "train"), Prepared("records/llvip", "train")
    motion = Prepared("records/ego4d", "train")
    return TrainConfig(
        model=dataclasses.replace(HUGE, dtype="bfloat16", remat="products"),
        inputs={
            "vision": vision.FramesTransform(augment=augment.IMAGES),
            "text": text.Tokenize(),
            "audio": audio.LogMel(mask_bands=12),
            "depth": depth.Disparity.sun_toolbox(augment=augment.IMAGES),
            "thermal": thermal.Thermal(augment=augment.IMAGES),
            "imu": imu.ImuWindow(),
        },
        pairs=(
            ModalityPair(("vision", "text"), captions, weight=4.0, inputs=moving),
            ModalityPair(("vision", "audio"), sounds, weight=4.0, replication=1.25, inputs=moving),
            ModalityPair(("vision", "depth"), rooms, replication=50.0),
            ModalityPair(("vision", "thermal"), streets, replication=25.0),
            ModalityPair(("vision", "imu"), motion, inputs=moving),
        ),
        steps=20_000,
        batch_size=8_192,
        # As compiled for TPUs (BENCHMARKS.md): over 256 devices parts would be smaller than a tile.
        fsdp=16,
        optimizer=OptimizerConfig(learning_rate=1e-4, weight_decay=0.2, warmup_steps=1_000),
        initial=("imagebind_huge.pth",),
        workers=32,
        threads=1,
    )
