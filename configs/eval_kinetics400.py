"""K400: the pictures of Kinetics' videos by the names of actions, with vision and text alone.

    imagebind-jax prepare kinetics400 --source k400 --out records/kinetics400 --splits val
    imagebind-jax evaluate configs/eval_kinetics400.py --checkpoint imagebind_huge.pth

Data: the CVD Foundation's mirror, github.com/cvdfoundation/kinetics-dataset, with annotations
(data/kinetics400/README.md). Videos are decoded with PyAV: pip install 'imagebind-jax[video]'.
Protocol: the validation videos that there are (19,881 in the mirror), 5 clips of 2 s by 3 crops,
2 frames a clip, the 15 embeddings averaged; 400 names; top-1.
Reported: 50.0 by the paper (table 2).
Not settled: the prompts. The paper says that CLIP's 80 for ImageNet are used for all modalities:
that is K400. CLIP itself has 28 for Kinetics ("a video of a person {}."): that is
K400-kinetics-prompts, to which nobody's number is known to belong. The same embeddings serve both.
"""

from imagebind_jax.data import reading
from imagebind_jax.evaluation.benchmark import Benchmark, EvalConfig, EvalInputs
from imagebind_jax.evaluation.tasks.zero_shot import ZeroShot
from imagebind_jax.inputs.sources import Prepared
from imagebind_jax.inputs.transforms import vision

REPORTED = {"paper": {"top1": 50.0}, "paper's best supervised": {"top1": 89.9}}


def get_config() -> EvalConfig:
    videos = (EvalInputs(Prepared("kinetics400", "val"), "vision", vision.EvalViews()),)
    imagenets = ZeroShot(videos, prompts=reading.templates())
    kinetics = ZeroShot(videos, name="kinetics400-own-prompts")
    return EvalConfig(
        (Benchmark("K400", imagenets, REPORTED), Benchmark("K400-kinetics-prompts", kinetics))
    )
