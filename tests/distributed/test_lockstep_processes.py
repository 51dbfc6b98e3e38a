"""Two hosts of which one reads worse than the other: an evaluation that fails ends no run, slow data hang none."""

import dataclasses
import json
import os
import re
import time

import pytest
from test_fit import BATCH
from test_initialize import free_port
from test_periodic_eval import Held, config

from imagebind_jax import cli
from imagebind_jax.evaluation.benchmark import Benchmark, EvalConfig
from imagebind_jax.evaluation.tasks.retrieval import Retrieval
from imagebind_jax.inputs.decoders.media import MediaError
from imagebind_jax.runtime import metrics_log

STEPS, EVERY = 12, 2
AT = 20  # the record, in the middle of batches, that fails
FAILS, SEED = "HOSTS_FAIL", "HOSTS_SEED"  # what fails in each evaluation, of the evaluation's seed
pytestmark = pytest.mark.processes
SLOW, SLOW_AFTER = "HOSTS_SLOW", 10 * BATCH  # inputs of one host: ten batches of two modalities
evaluations, calls = [-1], []  # of this process, counted


@dataclasses.dataclass(frozen=True)
class Failing:
    """One modality of a record, unless HOSTS_FAIL says for this host and evaluation what goes wrong."""

    name: str

    def __call__(self, record, rng):
        if record["id"] == 0 and self.name == "vision":
            evaluations[0] += 1
        kinds = dict(enumerate(os.environ.get(FAILS, "").split(",")))
        kind = kinds.get(evaluations[0], "")
        if self.name == "audio" and record["id"] >= AT:
            if kind == "all" or (kind == "one" and record["id"] == AT):
                raise MediaError(f"{record['id']}.wav", "no permission")
            if kind == "raise":
                raise ZeroDivisionError("in a decoder")
            while kind == "hang":
                time.sleep(60)
        return record[self.name]


def get_config():
    inputs = {name: Failing(name) for name in ("vision", "audio")}
    found = Retrieval(Held(), {"vision": 1.0}, {"audio": 1.0}, inputs)
    evaluation = EvalConfig(
        (Benchmark("pairs", found),),
        batch_size=BATCH, resamples=0, unusable=0.1, patience=2.0, seed=int(os.environ.get(SEED, 0)),
    )  # fmt: skip
    return config(steps=STEPS, evaluation=evaluation, evaluate_every=EVERY, checkpoint_every=STEPS)


def train_often(arguments):
    """For `zygote`: three starts that hosts which were asked differently are refused, and a run."""
    folder, host, *asked = arguments
    starts = (("every", "0", ["--evaluate-every", str(3 + int(host))]), ("seed", host, []),
              ("fallback", "0", ["--no-fallback"][: int(host)]), ("run", "0", []))  # fmt: skip
    for name, seed, options in starts:
        os.environ[SEED] = seed
        command = ["train", f"{folder}/config.py", "--out", f"{folder}/{name}", *options, *asked]
        os.write(1, f"\ncode {cli.main([*command, '--host', host])}\n".encode())  # at once, whole


@dataclasses.dataclass(frozen=True)
class Slow:
    """One modality of a record; HOSTS_SLOW: seconds that one of them takes, after so many batches that
    steps of other hosts are known to be quick."""

    name: str

    def __call__(self, record, rng):
        calls.append(self.name)
        if len(calls) == SLOW_AFTER:
            time.sleep(float(os.environ.get(SLOW, 0)))
        return record[self.name]


def slow_config():
    found = config(evaluation=None, steps=16, checkpoint_every=16, patience_of_step=1.0)
    return dataclasses.replace(found, inputs={name: Slow(name) for name in found.inputs})


@pytest.fixture
def both(zygote):
    """both(call, of_0, of_1): the processes of two hosts, each of (arguments, environment), at their end."""
    children = []

    def run(call, *hosts):
        for arguments, environment in hosts:
            children.append(zygote.start(arguments, devices=2, call=call, **environment))
        codes = [child.wait(180) for child in children]
        assert codes == [0, 0], [child.err[-3000:] for child in children]
        return children

    yield run
    for child in children:
        child.kill()


def test_an_evaluation_that_fails_on_one_host_ends_on_both_and_no_run(both, tmp_path):
    (tmp_path / "config.py").write_text("from test_lockstep_processes import get_config\n")
    asked = ["--coordinator", f"127.0.0.1:{free_port()}", "--hosts", 2, "--wait", 60]
    first, second = both(
        "test_lockstep_processes:train_often",
        ([tmp_path, 0, *asked], {FAILS: ",,,,raise,"}),
        ([tmp_path, 1, *asked], {FAILS: "one,all,raise,hang,,"}),
    )
    for child in (first, second):
        errors = [line for line in child.err.splitlines() if "error:" in line]
        assert len(errors) == 3, errors
        assert "host 1: not host 0's evaluate_every: every host needs the same" in errors[0]
        assert "host 1: not host 0's evaluation: every host needs the same" in errors[1]
        assert "host 1: not host 0's --no-fallback: every host needs the same" in errors[2]
        assert re.findall(r"^code (\d)$", child.out, re.MULTILINE) == ["2", "2", "2", "0"]
    start = "evaluation of pairs failed, training goes on: "
    said = [line.removeprefix(start) for line in first.out.splitlines() if line.startswith(start)]
    wanted = (
        r"hosts read other records, or fewer: host 0 is at held-out.audio, record 31; "
        r"host 1 at held-out.audio, record 32 \(1 unusable, the last record 20: 20.wav: no permission\)",
        r"host 1: held-out.audio: 5 of 40 records cannot be used, more than 10.0%: 20.wav: .*",
        r"host 1: ZeroDivisionError: in a decoder",
        r"host 1: stuck for \d s reading held-out.audio, record 20 .*",
        r"ZeroDivisionError: in a decoder",
    )
    assert len(said) == len(wanted), said
    for line, words in zip(said, wanted):
        assert re.fullmatch(words, line), line
    assert start not in second.out
    lines = metrics_log.read_metrics(tmp_path / "run" / "metrics.jsonl")
    measured = [line for line in lines if "evaluation/pairs/r1" in line]
    assert [line["step"] for line in measured] == [STEPS - 1]  # the last one alone
    assert [line["step"] for line in lines if "loss" in line] == list(range(STEPS))


def test_data_that_are_slow_on_one_host_end_no_run(both, tmp_path):
    """The other one waits for them in its step, for longer than one may take on a single host."""
    (tmp_path / "config.py").write_text(
        "from test_lockstep_processes import slow_config as get_config\n"
    )
    pause = 5.0
    command = ["train", tmp_path / "config.py", "--out", tmp_path / "run",
               "--coordinator", f"127.0.0.1:{free_port()}", "--hosts", 2]  # fmt: skip
    first, _ = both(
        "imagebind_jax.cli:main",
        ([*command, "--host", 0], {}),
        ([*command, "--host", 1], {SLOW: str(pause)}),
    )
    assert "committed step 16" in first.out
    spent = json.loads((tmp_path / "run" / "goodput.json").read_text())["seconds"]
    assert spent["steps"] > 0.8 * pause  # of host 0
