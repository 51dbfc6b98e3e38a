"""Evaluation during training: into the same metrics, without changing the run."""

import dataclasses
import multiprocessing
import pathlib
import shutil
import time

import numpy as np
import pytest
from test_fit import BATCH, Field, Toy, assert_same_bits, make_config, quiet

from imagebind_jax.distributed import sharding
from imagebind_jax.errors import UserError
from imagebind_jax.evaluation.benchmark import Benchmark, EvalConfig
from imagebind_jax.evaluation.model_embedder import ModelEmbedder
from imagebind_jax.evaluation.tasks.retrieval import Retrieval
from imagebind_jax.inputs.pipeline.batches import ModalityPair
from imagebind_jax.models.imagebind import ImageBind
from imagebind_jax.runtime import metrics_log
from imagebind_jax.training import fit
from imagebind_jax.training.periodic_eval import PeriodicEval

pytestmark = [pytest.mark.jax, pytest.mark.usefixtures("two_devices", "compiled_once")]
STEPS, EVERY = 12, 5
RECORDS = 40


@dataclasses.dataclass(frozen=True)
class Held:
    """Toy records that are not trained on."""

    name: str = "held-out"

    def open(self):
        return [{"id": i, **record} for i, record in enumerate(Toy(64, RECORDS).open())]


def evaluation(modality="audio"):
    inputs = {name: Field(name) for name in ("vision", modality)}
    found = Retrieval(Held(), {"vision": 1.0}, {modality: 1.0}, inputs)
    return EvalConfig((Benchmark("pairs", found),), batch_size=BATCH, resamples=0)


def config(**changes):
    pairs = (ModalityPair(("vision", "audio"), Toy(0)),)
    whole = make_config(steps=STEPS, checkpoint_every=10, evaluate_every=EVERY, pairs=pairs)
    return dataclasses.replace(whole, **{"evaluation": evaluation(), **changes})


def lines(folder):
    """(of steps, of evaluations) in the metrics, without what depends on the clock."""
    found = [
        {name: value for name, value in line.items() if name != "steps_per_second"}
        for line in metrics_log.read_metrics(folder / "metrics.jsonl")
    ]
    return [x for x in found if "loss" in x], [x for x in found if "loss" not in x]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    return folder, fit.fit(config(evaluation=None), folder, say=quiet)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated")
    return folder, fit.fit(config(), folder, say=quiet)


def test_the_run_is_bitwise_the_same_with_and_without_it(plain, evaluated):
    assert_same_bits(plain[1], evaluated[1])
    assert lines(plain[0])[0] == lines(evaluated[0])[0]
    assert lines(plain[0])[1] == []


def test_numbers_stand_in_the_metrics_every_so_many_steps_and_at_the_end(evaluated):
    folder, params = evaluated
    found = lines(folder)[1]
    assert [line["step"] for line in found] == [EVERY - 1, 2 * EVERY - 1, STEPS - 1]
    settings = evaluation()
    bench = ModelEmbedder(settings, ImageBind(config().model), params)
    measured = settings.benchmarks[0].evaluation.measure(bench)
    wanted = {f"evaluation/pairs/{name}": n.value for name, n in measured.numbers.items()}
    last = {name: value for name, value in found[-1].items() if name != "step"}
    assert last == pytest.approx(wanted)
    values = [line["evaluation/pairs/r10"] for line in found]
    assert len(set(values)) > 1  # of the parameters of their step
    assert values[-1] > 10 / RECORDS


def test_a_run_that_goes_on_has_the_same_numbers(evaluated, tmp_path):
    shutil.copytree(evaluated[0], tmp_path / "half")
    shutil.rmtree(tmp_path / "half" / "checkpoints" / str(STEPS))
    params = fit.fit(config(), tmp_path / "half", say=quiet)
    assert_same_bits(params, evaluated[1])
    assert lines(tmp_path / "half") == lines(evaluated[0])


def test_replicas_measure_what_shards_do(evaluated):
    folder, params = evaluated
    place = sharding.PmapStrategy()
    measuring = PeriodicEval(config(), place, quiet)
    found = measuring.measure(place.place(params))
    last = {name: value for name, value in lines(folder)[1][-1].items() if name != "step"}
    assert found == pytest.approx(last)


def test_an_evaluation_that_fails_does_not_end_the_run(plain, tmp_path):
    wide = Retrieval(
        Held(), {"vision": 1.0}, {"audio": 1.0}, {m: Wide(m) for m in ("vision", "audio")}
    )
    good = evaluation().benchmarks[0]
    both = EvalConfig((Benchmark("wide", wide), good), batch_size=BATCH, resamples=0)
    said = []
    params = fit.fit(config(evaluation=both), tmp_path / "run", say=said.append)
    assert_same_bits(params, plain[1])
    failed = [line for line in said if line.startswith("evaluation of wide failed, training goes")]
    assert len(failed) == 3 and "[8, 4]" in failed[0]
    names = {name for line in lines(tmp_path / "run")[1] for name in line}
    assert "evaluation/pairs/r1" in names and not [name for name in names if "wide" in name]


def test_an_evaluation_that_breaks_does_not_end_the_run(plain, tmp_path):
    """What nobody has foreseen; its kind and place are said."""
    broken = Retrieval(
        Held(), {"vision": 1.0}, {"audio": 1.0}, {m: Broken() for m in ("vision", "audio")}
    )
    settings = EvalConfig((Benchmark("broken", broken),), batch_size=BATCH, resamples=0)
    said = []
    params = fit.fit(config(evaluation=settings), tmp_path / "run", say=said.append)
    assert_same_bits(params, plain[1])
    start = "evaluation of broken failed, training goes on: "
    assert [line for line in said if line.startswith(start)] == [f"{start}KeyError: 'none'"] * 3


@pytest.mark.processes
def test_an_evaluation_whose_worker_hangs_leaves_training_its_own(tmp_path):
    """Its file is named, its worker is gone, and those of training make all batches."""
    hangs = {name: Hangs(name, str(tmp_path / "mark")) for name in ("vision", "audio")}
    found = Retrieval(Held(), {"vision": 1.0}, {"audio": 1.0}, hangs)
    settings = EvalConfig((Benchmark("pairs", found),), batch_size=BATCH, resamples=0, workers=1, patience=1.0)  # fmt: skip
    of_run, said, children = config(evaluation=settings, workers=1, evaluate_every=8), [], []

    def say(line):
        said.append(line)
        if line.startswith("evaluation of pairs failed"):
            time.sleep(1)
            children.extend(multiprocessing.active_children())

    fit.fit(of_run, tmp_path / "run", say=say)
    failed = [line for line in said if "failed" in line]
    assert (
        len(failed) == 1 and "stuck for" in failed[0] and "held-out.audio, record 20" in failed[0]
    )
    assert len(children) == 1  # training's
    steps, measured = lines(tmp_path / "run")
    assert [line["step"] for line in steps] == list(range(STEPS))
    assert [line["step"] for line in measured] == [STEPS - 1]  # which went well
    assert not multiprocessing.active_children()


@dataclasses.dataclass(frozen=True)
class Broken:
    """A mistake in a transform."""

    def __call__(self, record, rng):
        return record["none"]


@dataclasses.dataclass(frozen=True)
class Hangs:
    """One modality of a record; one of them hangs, if the file `mark` is not there yet."""

    name: str
    mark: str

    def __call__(self, record, rng):
        if self.name == "audio" and record["id"] == 20 and not pathlib.Path(self.mark).exists():
            pathlib.Path(self.mark).touch()
            time.sleep(600)
        return record[self.name]


@dataclasses.dataclass(frozen=True)
class Wide:
    """An input that the model does not take."""

    name: str

    def __call__(self, record, rng):
        return np.zeros((9, 4), np.float32)


def test_what_cannot_be_measured_is_said_before_the_first_step(tmp_path):
    wrong = config(evaluation=evaluation("depth"))
    with pytest.raises(UserError, match="evaluation of pairs: no depth encoder in the model"):
        fit.preflight_check(wrong, tmp_path / "run")
