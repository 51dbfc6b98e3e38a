"""Detection by sound and by sentence on scenes of the built-in world.

    imagebind-jax train configs/world_detection.py --out detection
    imagebind-jax evaluate configs/eval_world_detection.py --checkpoint detection

Data: 135 scenes of two to four objects, whose shapes never came in these materials in training;
405 objects, rendered into the cache where they are not there.
Protocol: each object is asked for by the sound of it alone, and by a sentence; the best box of the
heat map is scored against the box around its visible pixels. Windows, reach and threshold were
chosen on the "probe" split, of which the benchmarks "probe-..." are.
Reported: nothing. The paper's own detector (Detic with audio for classes) has no number.
"""

import dataclasses
from collections.abc import Sequence

from imagebind_jax.demo import run
from imagebind_jax.evaluation.benchmark import Benchmark, EvalConfig, EvalInputs
from imagebind_jax.evaluation.tasks.detection import Detection
from imagebind_jax.inputs.sources import CachedSource, Record
from imagebind_jax.inputs.transforms.tiles import Tiles
from imagebind_jax.inputs.world.multi_object import MultiObjectWorld, multi_object_sources

SCENES = 135
WINDOWS = Tiles(size=run.SIZE, picture=384, stride=32)


@dataclasses.dataclass(frozen=True)
class Named:
    """A source with a name."""

    name: str
    records: CachedSource

    def open(self) -> Sequence[Record]:
        return self.records.open()


def get_config(seed: int = 0) -> EvalConfig:
    benchmarks = []
    for split, prefix in (("test", ""), ("probe", "probe-")):
        pictures, objects = multi_object_sources(MultiObjectWorld(seed), split, SCENES)
        seen = EvalInputs(Named(f"world-scenes-{split}", pictures), "vision", WINDOWS)
        for modality in ("audio", "text"):
            source = Named(f"world-objects-{split}", objects)
            asked = EvalInputs(source, modality, run.INPUTS[modality])
            benchmarks.append(Benchmark(f"{prefix}{modality}", Detection(asked, seen)))
    return EvalConfig(tuple(benchmarks))
