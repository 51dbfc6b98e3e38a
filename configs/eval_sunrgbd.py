"""SUN-D: depth maps of four sensors by the names of 19 scenes, without any picture.

    imagebind-jax prepare sunrgbd --source DOWNLOAD --out records/sunrgbd
    imagebind-jax evaluate configs/eval_sunrgbd.py --checkpoint imagebind_huge.pth

Data: SUNRGBD.zip and SUNRGBDtoolbox.zip of rgbd.cs.princeton.edu (data/sunrgbd/README.md).
Protocol: the 4,659 test frames with one of the 19 scenes (the paper says 4,660), in-filled depth
as disparity; CLIP's 80 prompts; top-1.
Reported: 35.1 by the paper (table 2), about 35 by ImageBind's issue 134, with its own reading. The
paper's text-paired baseline is OpenCLIP on depth maps drawn in grey.
Not settled: how the files are to be read. SUN-D is issue 134's reading, SUN-D-omnivore that of
omnivore, to which ImageBind's authors point: nearly one map (docs/data.md). Measure both.
"""

from imagebind_jax.evaluation.benchmark import Benchmark, EvalConfig, EvalInputs
from imagebind_jax.evaluation.tasks.zero_shot import ZeroShot
from imagebind_jax.inputs.sources import Prepared
from imagebind_jax.inputs.transforms import depth

PAPER = {
    "paper": {"top1": 35.1},
    "paper's text-paired": {"top1": 25.4},
    "paper's best supervised": {"top1": 64.9},
}
ISSUE_134 = {"issue 134, about": {"top1": 35.0}}


def get_config() -> EvalConfig:
    rooms = Prepared("sunrgbd", "test")
    toolbox = EvalInputs(rooms, "depth", depth.Disparity.sun_toolbox())
    omnivore = EvalInputs(
        rooms, "depth", depth.Disparity.sun_omnivore(), name="sunrgbd-test.depth-omnivore"
    )
    return EvalConfig(
        (
            Benchmark("SUN-D", ZeroShot((toolbox,)), PAPER | ISSUE_134),
            Benchmark("SUN-D-omnivore", ZeroShot((omnivore,)), PAPER),
        )
    )
