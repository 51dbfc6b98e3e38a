"""LLVIP: is there a person in this piece of a thermal image?

    imagebind-jax prepare llvip --source LLVIP --out records/llvip --splits person_test
    imagebind-jax evaluate configs/eval_llvip.py --checkpoint imagebind_huge.pth

Data: the registered images of bupt-ai-cz.github.io/LLVIP (data/llvip/README.md).
Protocol: the boxes of pedestrians in the test images, and as many random ones of the same sizes;
person (person, man, woman, people) against background (street, road, car, light, tree), the best
name of each counts; CLIP's 80 prompts; top-1, chance 50.
Reported: 63.4 by the paper (table 2), on 15,809 boxes of which 7,931 are persons; 62.4 by
ImageBind's pull request 73, on levels in [0, 1] as here, and 55.2 with a mean and a deviation.
Not settled: normalisation, how the paper drew background boxes, whether the annotations were those
before or after their correction of February 2023, and that the best of a class's names counts.
"""

from imagebind_jax.evaluation.benchmark import Benchmark, EvalConfig, EvalInputs
from imagebind_jax.evaluation.tasks.zero_shot import ZeroShot
from imagebind_jax.inputs.sources import Prepared
from imagebind_jax.inputs.transforms import thermal

REPORTED = {"paper": {"top1": 63.4}, "pull request 73": {"top1": 62.4}}


def get_config() -> EvalConfig:
    boxes = EvalInputs(Prepared("llvip", "person_test"), "thermal", thermal.Thermal(224))
    # The interval's samples are the images, of which boxes are parts.
    asked = ZeroShot((boxes,), ("top1",), together=r"^person_test/[^-]+")
    return EvalConfig((Benchmark("LLVIP", asked, REPORTED),))
