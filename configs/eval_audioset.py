"""AS-A: 10 s of sound by the names of all that is heard in it, several at once.

    imagebind-jax prepare audioset --source audioset --out records/audioset --splits eval
    imagebind-jax evaluate configs/eval_audioset.py --checkpoint imagebind_huge.pth

Data: Google's tables; the segments you get yourself, cut to their 10 s (data/audioset/README.md).
Protocol: the sound of the segments of `eval`, 5 clips of 2 s, embeddings averaged; 527 names in
CLIP's 80 prompts; mean average precision over the classes (macro).
Reported: 17.6 by the paper (tables 1 and 2; its appendix calls the metric top-1), 13.96 by FreeBind
with the released weights. The paper's text-paired baseline, AudioCLIP, was trained with the names.
Not settled: nobody has all segments any more; the paper had 19,048 of 20,383. Give your number of
records beside mAP.
"""

from imagebind_jax.evaluation.benchmark import Benchmark, EvalConfig, EvalInputs
from imagebind_jax.evaluation.tasks.zero_shot import ZeroShot
from imagebind_jax.inputs.sources import Prepared
from imagebind_jax.inputs.transforms import audio

REPORTED = {
    "paper": {"mAP": 17.6},
    "FreeBind": {"mAP": 13.96},
    "paper's text-paired": {"mAP": 28.4},
    "paper's best supervised": {"mAP": 49.6},
}


def get_config() -> EvalConfig:
    sounds = EvalInputs(Prepared("audioset", "eval"), "audio", audio.LogMelClips(None))
    return EvalConfig((Benchmark("AS-A", ZeroShot((sounds,), ("mAP",)), REPORTED),))
