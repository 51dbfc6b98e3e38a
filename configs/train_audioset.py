"""Audio learned against a frozen ViT-H from AudioSet: the paper's Table 9, column AudioSet.

    imagebind-jax plan configs/train_audioset.py --topology v5e:4x4
    imagebind-jax prepare audioset --source audioset --out records/audioset --splits unbalanced_train
    imagebind-jax convert open_clip_pytorch_model.bin clip
    imagebind-jax train configs/train_audioset.py

Data: the videos of AudioSet's unbalanced split, which you get yourself (data/audioset/README.md).
Vision tower: OpenCLIP's ViT-H/14 (docs/porting.md), stored in bfloat16 and never trained.
Reported: by the paper, zero-shot, AS-A 17.6 mAP and ESC-50 66.9 % (`eval_audioset.py`,
`eval_esc50.py`). Nobody has run this: no accuracy is known. They ask by text: put CLIP's tower into
`encoders`, as vision is, and "text/" into `frozen`, and the run has it.
Time and memory: BENCHMARKS.md has what is estimated for TPUs.
Not settled: epochs (64 here, by Table 9; section 5 says 32); how many videos the paper had ("~2M":
RECORDS is the table's 2,041,789 rows, of which some are gone for everybody; put there what `prepare`
counts); the rate's way after warm-up (a cosine to 0 here), epsilon, and which weights decay
(kernels, and no norms, biases or positions); the crop's area and its interpolation (torchvision's
0.08 to 1, bilinear); precision; the number of GPUs. An epoch's last batch goes on with the next
epoch. Another batch is changed here, in BATCH_SIZE, as steps are counted by it.
"""

import dataclasses

from imagebind_jax.config import TrainConfig
from imagebind_jax.inputs.pipeline.batches import ModalityPair
from imagebind_jax.inputs.sources import Prepared
from imagebind_jax.inputs.transforms import audio, augment, vision
from imagebind_jax.models.imagebind import HUGE
from imagebind_jax.optimizer import OptimizerConfig

# Table 9, column AudioSet, row by row (arXiv:2305.05665v2).
VISION = HUGE.encoders["vision"]  # vision encoder, frozen: ViT-Huge
WIDTH = 768  # modality encoder: embed dim
HEADS = 12
LAYERS = 12
# Optimizer: AdamW, as of every OptimizerConfig.
BETAS = (0.9, 0.95)
PEAK_RATE = 1.6e-3
WEIGHT_DECAY = 0.2
BATCH_SIZE = 2_048
CLIP_NORM = 1.0
WARMUP_EPOCHS = 2
REPLICATION = 1.25
EPOCHS = 64
STOCHASTIC_DEPTH = 0.1  # of the last block; blocks before it by a ramp from 0
TEMPERATURE = 0.05
CROP = 224  # pixels
FLIP = 0.0  # none
ERASE = 0.0  # none
RAND_AUGMENT = {"operations": 0}  # none
JITTER = 0.0  # none
MASKED_BANDS = 12

RECORDS = 2_041_789  # rows of unbalanced_train_segments.csv
EPOCH = round(REPLICATION * RECORDS)  # pairs that are seen in one


def get_config() -> TrainConfig:
    spatial = augment.SpatialAugmentation(flip=FLIP, erase=ERASE, jitter=JITTER, **RAND_AUGMENT)
    encoders = {
        "vision": dataclasses.replace(VISION, norm_eps=1e-5),  # as CLIP's are
        "audio": dataclasses.replace(
            HUGE.encoders["audio"],
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
            "audio": audio.LogMel(mask_bands=MASKED_BANDS),
        },
        pairs=(
            ModalityPair(
                ("vision", "audio"),
                Prepared("records/audioset", "unbalanced_train"),
                replication=REPLICATION,
                aligned=True,  # in time: table 5g
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
