"""The demo's world on a small scale: what several of these notebooks train, about a minute on two cores."""

import dataclasses

from imagebind_jax.config import TrainConfig
from imagebind_jax.demo import run
from imagebind_jax.evaluation.benchmark import Benchmark, EvalConfig, EvalInputs
from imagebind_jax.evaluation.tasks.zero_shot import ZeroShot
from imagebind_jax.inputs import world
from imagebind_jax.inputs.pipeline import batches
from imagebind_jax.inputs.world.world import world_source

RUN = "runs/world"  # where it is trained, beside the notebooks
PAIRS, STEPS, EVERY = 512, 600, 75
HELD_OUT = 256
ASKED = {"audio": "material", "thermal": "material", "depth": "shape", "imu": "motion"}


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """Samples of combinations that training never sees, with one attribute as their label."""

    task: str
    count: int = 128
    name: str = "held-out"

    def open(self):
        records = world_source(run.demo_world(0), "test", HELD_OUT).open()
        chosen = [records[index] for index in range(self.count)]
        return [{**record, "label": record["labels"][self.task]} for record in chosen]


def asked(modality: str, task: str) -> Benchmark:
    """Which class is it? The one whose sentences lie closest."""
    items = EvalInputs(HeldOut(task), modality, run.INPUTS[modality], f"{modality}-{task}")
    classes, prompts = world.CLASS_NAMES[task], world.PROMPTS[task]
    question = ZeroShot((items,), ("top1",), classes=classes, prompts=prompts, name=task)
    return Benchmark(f"{modality}-{task}", question)


def get_config() -> TrainConfig:
    full = run.demo_config(seed=0)
    pairs = tuple(
        batches.ModalityPair(
            (run.ANCHOR_MODALITY, other),
            world_source(
                run.demo_world(0), "train", PAIRS, i * PAIRS, (run.ANCHOR_MODALITY, other)
            ),
        )
        for i, other in enumerate(run.OTHERS)
    )
    optimizer = dataclasses.replace(full.optimizer, warmup_steps=STEPS // 10)
    return dataclasses.replace(
        full,
        pairs=pairs,
        steps=STEPS,
        batch_size=64,
        optimizer=optimizer,
        checkpoint_every=STEPS,
        log_every=5,
        evaluation=EvalConfig(
            tuple(asked(*each) for each in ASKED.items()), batch_size=128, resamples=0
        ),
        evaluate_every=EVERY,
    )
