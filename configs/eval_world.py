"""The built-in world's own benchmarks: no download, and no weights but those of a demo.

    imagebind-jax demo --out demo
    imagebind-jax evaluate configs/eval_world.py --checkpoint demo/run

Data: the samples that the demo holds out, rendered into the cache where they are not there (a demo
of another --seed knows another world: change SEED).
Protocol: each modality by sentences, on combinations of shape, material and motion that training
never saw: the zero-shot numbers of the demo's results.json. Retrieval between modalities that never
met; few-shot on frozen embeddings; and a clip plus a sound that finds that shape in that material.
Reported: nothing. The README's table has the zero-shot numbers' means over three seeds.
"""

import dataclasses
from collections.abc import Sequence

from imagebind_jax.demo import run
from imagebind_jax.evaluation.benchmark import Benchmark, EvalConfig, EvalInputs
from imagebind_jax.evaluation.tasks.arithmetic import Arithmetic
from imagebind_jax.evaluation.tasks.few_shot import FewShot
from imagebind_jax.evaluation.tasks.retrieval import Retrieval
from imagebind_jax.evaluation.tasks.zero_shot import ZeroShot
from imagebind_jax.inputs import world
from imagebind_jax.inputs.sources import Record
from imagebind_jax.inputs.world.world import world_source

SEED = 0  # of the demo
PAIRS = (("audio", "thermal"), ("depth", "thermal"), ("audio", "imu"), ("text", "depth"))


@dataclasses.dataclass(frozen=True)
class Scenes:
    """Samples of the world; `task` names the attribute that is their label."""

    name: str
    split: str
    count: int
    task: str = "material"
    seed: int = SEED

    def open(self) -> Sequence[Record]:
        return Labelled(
            world_source(run.demo_world(self.seed), self.split, self.count).open(), self.task
        )


@dataclasses.dataclass(frozen=True)
class Labelled(Sequence[Record]):
    """Records with "label", the index of one attribute."""

    records: Sequence[Record]
    task: str

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Record:
        record = self.records[index]
        return {**record, "label": record["labels"][self.task]}


def get_config() -> EvalConfig:
    every = Scenes("world-test", "test", run.TEST)

    def items(modality: str, task: str, split: str = "test", count: int = run.TEST) -> EvalInputs:
        scenes = Scenes(f"world-{split}-{task}", split, count, task)
        return EvalInputs(scenes, modality, run.INPUTS[modality])

    def asked(modality: str, task: str) -> ZeroShot:
        options = {"classes": world.CLASS_NAMES[task], "prompts": world.PROMPTS[task]}
        return ZeroShot((items(modality, task),), ("top1",), **options)

    def retrieved(a: str, b: str) -> Retrieval:
        return Retrieval(every, {a: 1.0}, {b: 1.0}, {m: run.INPUTS[m] for m in (a, b)})

    clip, sound = (EvalInputs(every, m, run.INPUTS[m]) for m in ("vision", "audio"))
    heard = items("audio", "material", "probe", run.PROBE), items("audio", "material")
    return EvalConfig(
        (
            *(
                Benchmark(f"{modality}-{task}", asked(modality, task))
                for modality, tasks in world.TASKS.items()
                for task in tasks
            ),
            *(Benchmark(f"{a}-to-{b}", retrieved(a, b)) for a, b in PAIRS),
            Benchmark("audio-few-shot", FewShot(heard[:1], heard[1:])),
            Benchmark("clip-plus-sound", Arithmetic(clip, sound, clip, ("shape", "material"))),
        )
    )
