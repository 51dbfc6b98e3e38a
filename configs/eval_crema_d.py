"""CREMA-D: four emotions by face and voice, each alone, both fused, and two classic networks.

    imagebind-jax prepare crema_d --source CREMA-D --out records/crema_d
    imagebind-jax evaluate configs/eval_crema_d.py --checkpoint imagebind_huge.pth

Data: the repository, cloned with git lfs (data/crema_d/README.md): 4,900 recordings.
Videos are decoded with PyAV: pip install 'imagebind-jax[video]'. How long it takes is not measured.
Protocol: angry, happy, sad, neutral, as asked of the actors; learnt from actors 1001 to 1063,
stopped by 1064 to 1077, tested on 1078 to 1091. Numbers are
means over 3 seeds: fusion, gain (over the better modality alone), audio, vision.
CREMA-D-concatenation, CREMA-D-attention, CREMA-D-transformer: heads on frozen embeddings, of pictures
5 clips x 3 crops, of sound ceil(s / 2) clips of 2 s. CREMA-D-tuned: both encoders learn, from one clip.
Baselines, that need no checkpoint: CREMA-D-mfcc is a convolutional network on MFCC of 3 s,
CREMA-D-images one on two frames of 64 pixels.
Reported: nothing by the paper, which has no emotions.
Not settled: classes and split, which are ours (data/crema_d/README.md); every setting of the heads.
"""

from imagebind_jax.evaluation.benchmark import Benchmark, EvalConfig, EvalInputs
from imagebind_jax.evaluation.trained.cnn import CnnBaseline
from imagebind_jax.evaluation.trained.fit_classifier import TrainingSchedule
from imagebind_jax.evaluation.trained.fusion import Fusion
from imagebind_jax.evaluation.trained.fusion_heads import HEADS
from imagebind_jax.inputs.pipeline.batches import Transform
from imagebind_jax.inputs.sources import Prepared
from imagebind_jax.inputs.transforms import audio, mfcc, vision

FOLDER, NAME = "crema_d", "CREMA-D"
SPLITS = {"train": "train", "validation": "val", "test": "test"}
TUNED = TrainingSchedule(learning_rate=1e-4, epochs=20, patience=5, batch_size=16)


def get_config() -> EvalConfig:
    def items(transforms: dict[str, Transform], tag: str = "") -> dict[str, tuple[EvalInputs, ...]]:
        return {
            part: tuple(
                EvalInputs(Prepared(FOLDER, split), m, each, f"{FOLDER}-{split}{tag}.{m}")
                for m, each in transforms.items()
            )
            for part, split in SPLITS.items()
        }

    def network(modality: str, transform: Transform, tag: str) -> CnnBaseline:
        own = items({modality: transform}, tag)
        return CnnBaseline(**{part: of for part, (of,) in own.items()}, group="actor")

    whole = items({"audio": audio.LogMelClips(None), "vision": vision.EvalViews()})
    short = items({"audio": audio.LogMel(), "vision": vision.FramesTransform()}, "-short")
    tuned = Fusion(**short, group="actor", learning=TUNED, fine_tune=True)
    return EvalConfig(
        (
            *(
                Benchmark(f"{NAME}-{head}", Fusion(**whole, head=head, group="actor"))
                for head in HEADS
            ),
            Benchmark(f"{NAME}-tuned", tuned),
            Benchmark(f"{NAME}-mfcc", network("audio", mfcc.Mfcc(), "-mfcc")),
            Benchmark(f"{NAME}-images", network("vision", vision.FramesTransform(64), "-64")),
        )
    )
