"""SUN-D few-shot: depth maps by 1, 2, 4 or 8 labelled ones of each scene (figure 3, right).

    imagebind-jax prepare sunrgbd --source DOWNLOAD --out records/sunrgbd
    imagebind-jax evaluate configs/eval_sunrgbd_few_shot.py --checkpoint imagebind_huge.pth --only SUN-D-few-shot

Data: as for eval_sunrgbd.py, with both splits.
Protocol: k maps of each of the 19 scenes of `train` (4,845 of its 5,285 frames have one), tested on
`test`, the mean over 5 draws. Embeddings are frozen, the classifier is linear: AdamW, rate 1e-2, no
weight decay, 60 epochs (appendix). Numbers shot1 ... shot8; shot1_ridge and so on are a ridge
regression on the same samples, which has no rate to choose.
Baselines, that need no checkpoint: SUN-D-few-shot-scratch trains the depth encoder anew on the k
samples alone; SUN-D-few-shot-masked pretrains a masked autoencoder on the maps of `train`, 800
epochs with MAE's settings. The figure's baseline is MultiMAE, which has learnt from ImageNet, and
whose weights are not read here.
Reported: nothing. The figure has curves and no numbers; the text says above MultiMAE everywhere.
Not settled: draws, batches, schedule, which features, and how the files are to be read (as for
eval_sunrgbd.py; here issue 134's reading).
"""

import dataclasses

from imagebind_jax.evaluation.benchmark import Benchmark, EvalConfig, EvalInputs
from imagebind_jax.evaluation.tasks.few_shot import FewShot
from imagebind_jax.evaluation.trained.from_scratch import FromScratch
from imagebind_jax.evaluation.trained.mae_pretraining import MaePretraining
from imagebind_jax.evaluation.trained.masked_autoencoder import MaskedAutoencoderBaseline
from imagebind_jax.inputs.sources import Prepared
from imagebind_jax.inputs.transforms import augment, depth
from imagebind_jax.models.imagebind import HUGE
from imagebind_jax.models.masked_autoencoder import MaskedConfig

FITTED = {"learning_rate": 1e-2, "weight_decay": 0.0, "epochs": 60}
# He et al. 2022, table 8: 1.5e-4 for every 256 of a batch, 40 epochs of warm-up, crops and flips.
MAE = {"steps": 800 * 5285 // 512, "learning_rate": 3e-4, "weight_decay": 0.05, "warmup": 0.05}
CROPS = augment.SpatialAugmentation(operations=0, jitter=0.0, erase=0.0)


def get_config() -> EvalConfig:
    train, test = (
        EvalInputs(Prepared("sunrgbd", split), "depth", depth.Disparity.sun_toolbox())
        for split in ("train", "test")
    )
    probed = FewShot((train,), (test,), **FITTED, scale=5.0)  # of depth in the released model
    encoder = HUGE.encoders["depth"]
    scratch = FromScratch((train,), encoder, (test,))
    cropped = depth.Disparity.sun_toolbox(augment=CROPS)
    unlabelled = dataclasses.replace(train, transform=cropped, name="sunrgbd-train.depth-cropped")
    model = MaskedConfig(encoder, mask=0.75)
    masked = MaskedAutoencoderBaseline(MaePretraining(unlabelled, model=model, **MAE), probed)
    return EvalConfig(
        (
            Benchmark("SUN-D-few-shot", probed),
            Benchmark("SUN-D-few-shot-scratch", scratch),
            Benchmark("SUN-D-few-shot-masked", masked),
        )
    )
