"""Fusion on the built-in world: what neither a depth map nor a sound tells alone.

    imagebind-jax demo --out demo
    imagebind-jax evaluate configs/eval_world_fusion.py --checkpoint demo/run

Data: samples of the demo's world, rendered into the cache where they are not there (a demo of
another --seed knows another world: change SEED): 3,072 to learn from, 512 to stop by, and 1,024 of
combinations of shape, material and motion that no training ever saw.
Protocol: four classes, (shape + material) modulo 4. A depth map shows the shape alone, a sound
tells the material and little of the shape: of either, all four classes are about equally likely.
Heads on frozen embeddings; numbers are means over 3 seeds, gain is over the better modality alone.
Baselines: mfcc, a convolutional network on MFCC, and images, one on depth maps, both from scratch on
the same task, of 768 samples, to save time; mfcc-material and images-shape are the same networks on
what they can tell.
Reported: nothing. Expect fusion of 89 to 98, and 24 to 40 of each modality alone (BENCHMARKS.md).
The heads took 5 minutes on two busy cores, with embeddings that were there already.
"""

import dataclasses
from collections.abc import Sequence

from imagebind_jax.demo import run
from imagebind_jax.evaluation.benchmark import Benchmark, EvalConfig, EvalInputs
from imagebind_jax.evaluation.trained.cnn import CnnBaseline
from imagebind_jax.evaluation.trained.fit_classifier import TrainingSchedule
from imagebind_jax.evaluation.trained.fusion import Fusion
from imagebind_jax.evaluation.trained.fusion_heads import HEADS
from imagebind_jax.inputs import world
from imagebind_jax.inputs.pipeline.batches import Transform
from imagebind_jax.inputs.sources import Record
from imagebind_jax.inputs.transforms import mfcc
from imagebind_jax.inputs.world.world import world_source

SEED = 0  # of the demo
CLASSES = 4
# Split of the world, samples, the first of them.
SPLITS = {
    "train": ("probe", 3072, 0),
    "validation": ("probe", 512, 3072),
    "test": ("test", 1024, 0),
}
TRANSFORMS: dict[str, Transform] = {m: run.INPUTS[m] for m in ("audio", "depth")}
NETWORK = TrainingSchedule(epochs=10, patience=3, batch_size=32)
FEWER = {**SPLITS, "train": ("probe", 768, 0), "validation": ("probe", 256, 3072)}  # of networks


@dataclasses.dataclass(frozen=True)
class Scenes:
    """Samples of the world with their depth maps and sounds; `task` says what is their label."""

    name: str
    split: str
    count: int
    first: int = 0
    task: str = "both"
    seed: int = SEED

    def open(self) -> Sequence[Record]:
        made = world_source(
            run.demo_world(self.seed), self.split, self.count, self.first, ("depth", "audio")
        )
        return Labelled(made.open(), self.task)


@dataclasses.dataclass(frozen=True)
class Labelled(Sequence[Record]):
    """Records with "label": an attribute or, of "both", the sum of shape and material modulo 4.

    Each pair of shape and material is as frequent as any other, also among what is held out, so
    that either alone leaves all four sums equally likely.
    """

    records: Sequence[Record]
    task: str

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Record:
        record = self.records[index]
        known = record["labels"]
        both = (known["shape"] + known["material"]) % CLASSES
        return {**record, "label": both if self.task == "both" else known[self.task]}


def get_config(seed: int = SEED) -> EvalConfig:
    def items(task: str, transforms: dict[str, Transform], splits=SPLITS, tag: str = "") -> dict:
        return {
            part: tuple(
                EvalInputs(
                    Scenes(f"fusion-{task}-{part}{tag}", *of, task, seed), m, each,
                    f"fusion-{task}-{part}{tag}.{m}",
                )
                for m, each in transforms.items()
            )
            for part, of in splits.items()
        }  # fmt: skip

    def network(modality: str, task: str) -> CnnBaseline:
        transform = mfcc.Mfcc(2.0, 20) if modality == "audio" else run.INPUTS[modality]
        own = {p: of for p, (of,) in items(task, {modality: transform}, FEWER, "-few").items()}
        names = () if task == "both" else world.CLASS_NAMES[task]
        return CnnBaseline(**own, channels=(8, 16, 32), learning=NETWORK, classes=tuple(names))

    both = items("both", TRANSFORMS)
    return EvalConfig(
        (
            *(Benchmark(head, Fusion(**both, head=head)) for head in HEADS),
            Benchmark("mfcc", network("audio", "both")),
            Benchmark("images", network("depth", "both")),
            Benchmark("mfcc-material", network("audio", "material")),
            Benchmark("images-shape", network("depth", "shape")),
        )
    )
