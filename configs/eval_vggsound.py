"""VGGS: the sound of VGGSound's clips by the names of its 309 classes.

    imagebind-jax prepare vggsound --source vggsound --out records/vggsound --splits test
    imagebind-jax evaluate configs/eval_vggsound.py --checkpoint imagebind_huge.pth

Data: vggsound.csv of www.robots.ox.ac.uk/~vgg/data/vggsound; the clips you get yourself, or from
the authors (data/vggsound/README.md).
Protocol: the sound of the test clips, 5 clips of 2 s of each, embeddings averaged; CLIP's 80
prompts; top-1.
Reported: 27.8 by the paper (table 2).
Not settled: which clips. The table lists 15,496 and the paper could get 14,073. Give your number of
records beside the accuracy.
"""

from imagebind_jax.evaluation.benchmark import Benchmark, EvalConfig, EvalInputs
from imagebind_jax.evaluation.tasks.zero_shot import ZeroShot
from imagebind_jax.inputs.sources import Prepared
from imagebind_jax.inputs.transforms import audio

REPORTED = {"paper": {"top1": 27.8}, "paper's best supervised": {"top1": 52.5}}


def get_config() -> EvalConfig:
    sounds = EvalInputs(Prepared("vggsound", "test"), "audio", audio.LogMelClips(None))
    return EvalConfig((Benchmark("VGGS", ZeroShot((sounds,)), REPORTED),))
