"""ESC few-shot: sounds by 1, 2, 4 or 8 labelled ones of each class (figure 3, left).

    imagebind-jax prepare esc50 --source ESC-50-master --out records/esc50
    imagebind-jax evaluate configs/eval_esc50_few_shot.py --checkpoint imagebind_huge.pth --only ESC-few-shot

Data: as for eval_esc50.py; the masked baseline needs AudioSet's unbalanced_train, too.
Protocol: k recordings a class of four folds, tested on the fifth, the mean over the five and 5
draws. Embeddings are frozen (3 clips of 2 s, averaged), the classifier is linear: AdamW, rate
1.6e-3, weight decay 0.05, 50 epochs (appendix). Numbers shot1 ... shot8; shot1_ridge and so on are
a ridge regression on the same samples, which has no rate to choose.
Baselines, that need no checkpoint: ESC-few-shot-scratch trains the audio encoder anew on the k
samples alone; ESC-few-shot-masked pretrains a masked autoencoder on AudioSet, 129,000 steps of 512,
in place of AudioMAE (figure 3), whose weights are not read here.
Reported: nothing. The figure has curves and no numbers; the text says about 40 % above
self-supervised AudioMAE at 4 shots and fewer, and above supervised AudioMAE up to 4 shots.
Not settled: draws, batches, schedule and which features (see evaluation/tasks/few_shot.py).
"""

from imagebind_jax.evaluation.benchmark import Benchmark, EvalConfig, EvalInputs
from imagebind_jax.evaluation.tasks.few_shot import FewShot
from imagebind_jax.evaluation.trained.from_scratch import FromScratch
from imagebind_jax.evaluation.trained.mae_pretraining import MaePretraining
from imagebind_jax.evaluation.trained.masked_autoencoder import MaskedAutoencoderBaseline
from imagebind_jax.inputs.sources import Prepared
from imagebind_jax.inputs.transforms import audio
from imagebind_jax.models.imagebind import HUGE

FITTED = {"learning_rate": 1.6e-3, "weight_decay": 0.05, "epochs": 50}


def get_config() -> EvalConfig:
    folds = tuple(
        EvalInputs(Prepared("esc50", f"fold{fold}"), "audio", audio.LogMelClips(None))
        for fold in range(1, 6)
    )
    probed = FewShot(folds, **FITTED, scale=20.0)  # of audio in the released model
    scratch = FromScratch(folds, HUGE.encoders["audio"])
    unlabelled = EvalInputs(Prepared("audioset", "unbalanced_train"), "audio", audio.LogMel())
    masked = MaskedAutoencoderBaseline(MaePretraining(unlabelled, steps=129_000), probed)
    return EvalConfig(
        (
            Benchmark("ESC-few-shot", probed),
            Benchmark("ESC-few-shot-scratch", scratch),
            Benchmark("ESC-few-shot-masked", masked),
        )
    )
