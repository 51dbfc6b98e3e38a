"""Runs on one host, in real processes, and what they leave: fixtures (`pytest_plugins = ["one_host"]`)."""

import dataclasses
import re

import jax
import pytest
from test_fit import make_config

from imagebind_jax.checkpointing import checkpointer
from imagebind_jax.distributed import sharding
from imagebind_jax.runtime import metrics_log
from imagebind_jax.training import step as training_step

STEPS, EVERY = 12, 4
ERROR = "imagebind-jax: error: "


def get_config():
    config = make_config(steps=STEPS, checkpoint_every=EVERY)
    encoders = {name: config.model.encoders[name] for name in ("vision", "audio")}
    model = dataclasses.replace(config.model, encoders=encoders)
    return dataclasses.replace(config, model=model, pairs=config.pairs[:1])


@pytest.fixture(scope="session")
def config(made_once):
    def write(folder):
        (folder / "toy.py").write_text("from one_host import get_config\n")

    return made_once("one_host", write) / "toy.py"


@pytest.fixture
def train(zygote, config, tmp_path):
    """train("--seed", 3, fault=...) runs a training command in the test's folder: (code, out, err)."""

    def start(*options, config=config, run="run", devices=2, **about):
        arguments = ["train", config, "--out", tmp_path / run, *options]
        return zygote.start(arguments, devices=devices, **about)

    def ended(*options, seconds=120, **about):
        child = start(*options, **about)
        return child.wait(seconds), child.out, child.err

    ended.start = start
    ended.folder = tmp_path / "run"
    return ended


@pytest.fixture(scope="session")
def whole_folder(zygote, config, made_once):
    """Of a run that nothing happened to; it stays as it is."""

    def run(folder):
        code, out, err = zygote.run(["train", config, "--out", folder / "run"], devices=2)
        assert code == 0, err

    return made_once("whole_run", run) / "run"


@pytest.fixture(scope="session")
def whole(whole_folder):
    """(losses, digests of the last checkpoint) of that run."""
    return losses(whole_folder), digests(whole_folder)


def losses(folder):
    """{step: its loss, bit for bit}"""
    return {
        line["step"]: float(line["loss"]).hex()
        for line in metrics_log.read_metrics(folder / "metrics.jsonl")
    }


def digests(folder, step=STEPS):
    checkpoints = checkpointer.Checkpointer(folder / "checkpoints")
    try:
        return checkpoints.meta(step)["digest"]
    finally:
        checkpoints.close()


def restored(folder, config):
    """(step, state) of the newest checkpoint, which is whole."""
    like = jax.eval_shape(lambda: training_step.create_state(config))
    like = jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
        like,
        sharding.ShardedStrategy().state_shardings(like),
    )
    checkpoints = checkpointer.Checkpointer(folder / "checkpoints")
    try:
        return checkpoints.restore_newest(like, pytest.fail)
    finally:
        checkpoints.close()


def last_line(err, starts=ERROR):
    """The one error line, which is the last; and no traceback."""
    lines = err.strip().splitlines()
    assert lines[-1].startswith(starts), err
    assert sum(line.startswith(ERROR) for line in lines) == 1, err
    assert "Traceback" not in err
    return lines[-1]


def committed(out):
    return [int(step) for step in re.findall(r"^committed step (\d+)$", out, re.MULTILINE)]


def preempted(out):
    (step,) = re.findall(r"^preempted at step (\d+), saved", out, re.MULTILINE)
    return int(step)
