"""IN1K: images of ImageNet by their class names, with vision and text alone.

    imagebind-jax prepare imagenet --source DOWNLOAD --out records/imagenet --splits val
    imagebind-jax evaluate configs/eval_imagenet.py --checkpoint imagebind_huge.pth

Data: image-net.org's ILSVRC2012_img_val.tar with the devkit, or Kaggle's (data/imagenet/README.md).
Protocol: the 50,000 validation images, one view each (short side 224, bicubic, centre crop);
CLIP's 1000 names in CLIP's 80 prompts; top-1.
Reported: 77.7 by the paper (table 2), 76.31 by FreeBind with the released weights.
Not settled: nothing that we know of. Both towers are OpenCLIP's ViT-H, frozen.
"""

from imagebind_jax.evaluation.benchmark import Benchmark, EvalConfig, EvalInputs
from imagebind_jax.evaluation.tasks.zero_shot import ZeroShot
from imagebind_jax.inputs.sources import Prepared
from imagebind_jax.inputs.transforms import vision

REPORTED = {
    "paper": {"top1": 77.7},
    "FreeBind": {"top1": 76.31},
    "paper's best supervised": {"top1": 91.0},
}


def get_config() -> EvalConfig:
    images = EvalInputs(Prepared("imagenet", "val"), "vision", vision.FramesTransform())
    return EvalConfig((Benchmark("IN1K", ZeroShot((images,)), REPORTED),))
