"""Thermal learned against a frozen ViT-H from LLVIP: the paper's Table 9, column LLVIP.

    imagebind-jax plan configs/train_llvip.py --topology v5e:4x4
    imagebind-jax prepare llvip --source LLVIP --out records/llvip --splits train
    imagebind-jax convert open_clip_pytorch_model.bin clip
    imagebind-jax train configs/train_llvip.py

Data: the 12,025 pairs of LLVIP's training split (data/llvip/README.md; non-commercial).
Vision tower: OpenCLIP's ViT-H/14 (docs/porting.md), stored in bfloat16 and never trained.
Reported: by the paper, zero-shot, LLVIP 63.4 % (`eval_llvip.py`). Nobody has run this: no accuracy,
time or memory is known. It asks by text: put CLIP's tower into `encoders`, as vision is, and
"text/" into `frozen`, and the run has it.
Not settled: replication (25 here, by Table 9; section 4 says 50, which is twice the steps) and
epochs (64 here, by Table 9; section 5 says 32); "RandAugment 9 / 0.5" (read as magnitude and its
deviation, of two operations of increasing severity, as omnivore's configuration has it);
"ColorJitter 0.4" (brightness, contrast and saturation, no hue). The thermal image gets crop, flip
and geometric operations as the visible one has them, an erased rectangle of its own, and nothing of
colour. The rate's way after warm-up (a cosine to 0 here), epsilon, and which weights decay
(kernels, and no norms, biases or positions); the crop's area (torchvision's 0.08 to 1); precision;
the number of GPUs. An epoch's last batch goes on with the next epoch. Another batch is changed
here, in BATCH_SIZE, as steps are counted by it.
"""

import dataclasses

from imagebind_jax.config import TrainConfig
from imagebind_jax.inputs.pipeline.batches import ModalityPair
from imagebind_jax.inputs.sources import Prepared
from imagebind_jax.inputs.transforms import augment, thermal, vision
from imagebind_jax.models.imagebind import HUGE
from imagebind_jax.optimizer import OptimizerConfig

# Table 9, column LLVIP, row by row (arXiv:2305.05665v2).
VISION = HUGE.encoders["vision"]  # vision encoder, frozen: ViT-Huge
WIDTH = 768  # modality encoder: embed dim
HEADS = 12
LAYERS = 12
# Optimizer: AdamW, as of every OptimizerConfig.
BETAS = (0.9, 0.95)
PEAK_RATE = 5e-4
WEIGHT_DECAY = 0.05
BATCH_SIZE = 512
CLIP_NORM = 5.0
WARMUP_EPOCHS = 2
REPLICATION = 25.0
EPOCHS = 64
STOCHASTIC_DEPTH = 0.0
TEMPERATURE = 0.1
CROP = 224  # pixels, bilinear
FLIP = 0.5
ERASE = 0.25
RAND_AUGMENT = {"operations": 2, "magnitude": 9.0, "magnitude_std": 0.5}  # 9 / 0.5
JITTER = 0.4
# Frequency masking: none, as there are no frequencies.

RECORDS = 12_025  # section 4 of the paper, and LLVIP's own
EPOCH = round(REPLICATION * RECORDS)  # pairs that are seen in one


def get_config() -> TrainConfig:
    spatial = augment.SpatialAugmentation(flip=FLIP, erase=ERASE, jitter=JITTER, **RAND_AUGMENT)
    encoders = {
        "vision": dataclasses.replace(VISION, norm_eps=1e-5),  # as CLIP's are
        "thermal": dataclasses.replace(
            HUGE.encoders["thermal"],
            width=WIDTH,
            heads=HEADS,
            depth=LAYERS,
            drop_path=STOCHASTIC_DEPTH,
            logit_scale=1 / TEMPERATURE,
        ),
    }
    return TrainConfig(
        model=dataclasses.replace(HUGE, encoders=encoders, dtype="bfloat16", remat="products"),
        inputs={
            "vision": vision.FramesTransform(size=CROP, augment=spatial),
            "thermal": thermal.Thermal(size=CROP, augment=spatial),
        },
        pairs=(
            ModalityPair(
                ("vision", "thermal"),
                Prepared("records/llvip", "train"),
                replication=REPLICATION,
                aligned=True,  # in space, as for depth: table 5e
            ),
        ),
        steps=EPOCHS * EPOCH // BATCH_SIZE,
        batch_size=BATCH_SIZE,
        # As compiled for TPUs (BENCHMARKS.md): a frozen tower is fastest on few rows at once, and
        # whole on every device, as its weights would be gathered for each of these parts.
        frozen_rows=32,
        fsdp=1,
        optimizer=OptimizerConfig(
            learning_rate=PEAK_RATE,
            warmup_steps=WARMUP_EPOCHS * EPOCH // BATCH_SIZE,
            final_fraction=0.0,  # not in the paper
            weight_decay=WEIGHT_DECAY,
            beta1=BETAS[0],
            beta2=BETAS[1],
            epsilon=1e-8,  # not in the paper
            clip_norm=CLIP_NORM,
            frozen=("vision/",),
        ),
        initial=("clip",),
        workers=32,
        threads=1,
    )
