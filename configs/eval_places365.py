"""P365: photographs of places by the names of their kinds, with vision and text alone.

    imagebind-jax prepare places365 --source DOWNLOAD --out records/places365
    imagebind-jax evaluate configs/eval_places365.py --checkpoint imagebind_huge.pth

Data: val_256.tar and filelist_places365-standard.tar of places2.csail.mit.edu
(data/places365/README.md).
Protocol: the 36,500 validation images, one view each; 365 names in CLIP's 80 prompts; top-1.
Reported: 45.4 by the paper (table 2).
Not settled: how the paper wrote names with a qualifier (here "outdoor apartment building"), and
whether it had the 256 x 256 images, which have lost their aspect ratio, or the large ones.
"""

from imagebind_jax.evaluation.benchmark import Benchmark, EvalConfig, EvalInputs
from imagebind_jax.evaluation.tasks.zero_shot import ZeroShot
from imagebind_jax.inputs.sources import Prepared
from imagebind_jax.inputs.transforms import vision

REPORTED = {"paper": {"top1": 45.4}, "paper's best supervised": {"top1": 60.7}}


def get_config() -> EvalConfig:
    images = EvalInputs(Prepared("places365", "val"), "vision", vision.FramesTransform())
    return EvalConfig((Benchmark("P365", ZeroShot((images,)), REPORTED),))
