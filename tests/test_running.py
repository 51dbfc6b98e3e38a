"""One host's run and everything that may end it: real processes, real signals, and what they say last."""

import dataclasses
import json
import os
import pathlib
import random
import re
import signal
import time

import goals
import numpy as np
import pytest
from test_train import make_config
from zygote import Zygote

from imagebind_jax import checkpoint, goodput, metrics, preemption

STEPS, EVERY = 12, 4
HERE = pathlib.Path(__file__).parent
ERROR = "imagebind-jax: error: "
pytestmark = [pytest.mark.usefixtures("quick_compilation"), pytest.mark.slow]


def get_config():
    config = make_config(steps=STEPS, checkpoint_every=EVERY)
    encoders = {name: config.model.encoders[name] for name in ("vision", "audio")}
    model = dataclasses.replace(config.model, encoders=encoders)
    return dataclasses.replace(config, model=model, pairs=config.pairs[:1])


@pytest.fixture(scope="module")
def zygote(tmp_path_factory, quick_compilation):
    zygote = Zygote(tmp_path_factory.mktemp("processes"))
    yield zygote
    zygote.close()


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "toy.py"
    path.write_text("from test_running import get_config\n")
    return path


@pytest.fixture
def train(zygote, config, tmp_path):
    """train("--seed", 3, fault=...) runs a training command in the test's folder: (code, out, err)."""

    def start(*options, run="run", devices=2, **about):
        arguments = ["train", config, "--out", tmp_path / run, *options]
        return zygote.start(arguments, devices=devices, **about)

    def ended(*options, seconds=120, **about):
        child = start(*options, **about)
        return child.wait(seconds), child.out, child.err

    ended.start = start
    ended.folder = tmp_path / "run"
    return ended


@pytest.fixture(scope="module")
def whole(zygote, config, tmp_path_factory):
    """(losses, digests of the last checkpoint, wall time) of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    begun = time.monotonic()
    code, out, err = zygote.run(["train", config, "--out", folder], devices=2)
    assert code == 0, err
    return losses(folder), digests(folder), time.monotonic() - begun


def losses(folder):
    """{step: its loss, bit for bit}"""
    return {
        line["step"]: float(line["loss"]).hex() for line in metrics.read(folder / "metrics.jsonl")
    }


def digests(folder, step=STEPS):
    checkpoints = checkpoint.Checkpoints(folder / "checkpoints")
    try:
        return checkpoints.meta(step)["digest"]
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


# ---- going on, bit for bit


@pytest.mark.goal("G7")
def test_killed_at_random_moments_a_run_ends_where_it_would_have(train, whole, measured):
    wanted, state, _ = whole
    rng, kills, runs = random.Random(0), 0, 0
    leg = 5.0  # seconds that a process took; the first one compiled
    while kills < goals.size(3, 200):
        name, told, code, tried = f"run{runs}", 0, None, 0
        runs += 1
        while code != 0:
            child = train.start(run=name)
            if tried < 8 and kills < goals.size(3, 200):
                time.sleep(rng.uniform(0.2 * leg, 1.1 * leg))
                child.kill()
            code = child.wait()
            assert code in (0, -9), child.err
            begun = re.search(r"going on from step (\d+)", child.out)
            assert begun is None or int(begun[1]) >= told  # nothing told is lost
            told = max([told, *committed(child.out)])
            tried, kills = tried + 1, kills + (code == -9)
            if code == 0:
                leg = 0.5 * leg + 0.5 * (time.monotonic() - child.begun)
        folder = train.folder.parent / name
        assert losses(folder) == wanted
        assert digests(folder) == state
    measured(
        f"{kills} of {kills} kills in {runs} runs: losses and state bitwise those of a whole run"
    )


@pytest.mark.goal("G7")
def test_in_halves_it_is_the_same_run(train, whole, measured):
    code, out, err = train(fault=f"kind=sigterm,step={EVERY + 1}")
    assert code == 0, err
    step = preempted(out)
    assert EVERY < step < STEPS
    code, out, err = train()
    assert code == 0 and f"going on from step {step}" in out, err
    assert losses(train.folder) == whole[0]
    assert digests(train.folder) == whole[1]
    measured("two halves: bitwise")


@pytest.mark.goal("G8")
def test_on_other_devices_and_in_another_mode_it_is_the_same_but_for_rounding(
    train, whole, measured
):
    legs = [(8, "sharded", 2), (4, "pmap", 4), (2, "sharded", 6), (1, "sharded", 8)]
    legs = [*legs[: 4 if goals.SOAK else 2], (8, "pmap", None)]
    for devices, mode, until in legs:
        fault = f"kind=sigterm,step={until}" if until else ""
        code, out, err = train("--parallel", mode, devices=devices, fault=fault)
        assert code == 0, err
    found, wanted = (
        {s: float.fromhex(x) for s, x in each.items()} for each in (losses(train.folder), whole[0])
    )
    assert found.keys() == wanted.keys()  # which are of the same records, or losses would differ
    worst = max(abs(found[step] / wanted[step] - 1) for step in wanted)
    assert 0 < worst <= 1e-5
    said = ", ".join(f"{devices} {mode}" for devices, mode, _ in legs)
    measured(f"{said}, {STEPS} steps: losses within {worst:.1e}")


# ---- being asked to stop


@pytest.mark.goal("G15", "G29")
def test_sigterm_saves_and_loses_nothing(train, measured):
    waits, trials = [], goals.size(2, 20)
    for trial in range(trials):
        child = train.start("--steps", 4000, "--checkpoint-every", 4000, run=f"run{trial}")
        child.until("loss")
        begun = time.monotonic()
        child.signal(signal.SIGTERM)
        assert child.wait() == 0, child.err
        waits.append(time.monotonic() - begun)
        step = preempted(child.out)
        assert committed(child.out) == [step]
        assert ERROR not in child.err
    child = train.start("--steps", 4000, "--checkpoint-every", 4000, run=f"run{trial}")
    child.until(f"going on from step {step}")
    child.signal(signal.SIGKILL)
    child.wait()
    measured(f"one host: {trials} of {trials} saved and gone within {max(waits):.1f} s")
    assert max(waits) < goals.within(5)


@pytest.mark.goal("G15")
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once(second, train, measured):
    # A step that hangs, so that the first is not heeded.
    child = train.start(fault=f"kind=sleep,step={EVERY + 2}")
    child.until(f"committed step {EVERY}")
    child.signal(signal.SIGTERM)
    time.sleep(preemption.AGAIN + 0.5)
    begun = time.monotonic()
    child.signal(second)
    assert child.wait(30) == 128 + second
    assert time.monotonic() - begun < goals.within(2)
    code, out, err = train()
    assert code == 0 and f"going on from step {EVERY}" in out, err


def test_before_the_first_step_there_is_nothing_to_save(train):
    code, out, err = train(fault="kind=sigterm,step=0")
    assert code == 0 and re.search(r"preempted at step [01]", out), err


# ---- ends that are failures


@pytest.mark.goal("G29", "G12")
def test_an_exception_is_one_line_and_loses_no_commit(train, measured):
    code, out, err = train(fault=f"kind=raise,step={EVERY}")
    assert code == 1
    line = last_line(err)
    assert "Injected: injected at step 4" in line
    trace = pathlib.Path(re.search(r"its trace: (\S+\.txt)\)", line)[1])
    assert "faults.strike" in trace.read_text()
    trace.unlink()
    assert committed(out) == [EVERY]  # it was in flight
    code, out, err = train()
    assert code == 0 and f"going on from step {EVERY}" in out


@pytest.mark.goal("G13", "G29")
def test_a_step_that_hangs_ends_the_run(train, measured):
    child = train.start("--patience-of-step", 3, fault=f"kind=sleep,step={EVERY + 1}")
    child.until(f"committed step {EVERY}")
    begun = time.monotonic()
    assert child.wait(60) == 76
    waited = time.monotonic() - begun
    line = last_line(child.err)
    assert re.search(rf"step \d has taken \d s so far: .* hangs; last committed step {EVERY}", line)
    assert "Thread 0x" in child.err and "faults.py" in child.err  # where it hangs
    measured(f"one host: out after {waited:.1f} s with T = 3 s, exit 76, with the stacks")
    assert waited < goals.within(1.25 * 3 + 3)


@pytest.mark.goal("G27", "G29")
def test_ten_steps_in_a_row_that_are_not_finite_stop_the_run(train, measured):
    code, out, err = train(
        "--steps", 30, "--checkpoint-every", 30, fault="kind=nan_grad,step=2,steps=20"
    )
    assert code == 6, err
    line = last_line(err)
    assert "step 11 " in line and "10 steps in a row were skipped" in line, line
    assert "gradient norm nan" in line and "its records: " in line
    lines = metrics.read(train.folder / "metrics.jsonl")
    assert [each["skipped_steps"] for each in lines] == [0, 0, *range(1, 11)]
    measured("10 in a row: exit 6 at the tenth, with loss, norm and records")


@pytest.mark.goal("G27")
def test_a_bad_batch_is_skipped_and_counted_and_the_run_goes_on(train, measured):
    code, out, err = train(fault="kind=nan_batch,step=3")
    assert code == 0, err
    lines = metrics.read(train.folder / "metrics.jsonl")
    assert [each["skipped"] for each in lines] == [float(step == 3) for step in range(STEPS)]
    assert np.isfinite([each["loss"] for each in lines if not each["skipped"]]).all()


@pytest.mark.goal("G28", "G29")
def test_replicas_that_differ_stop_the_run(train, measured):
    code, out, err = train("--parallel", "pmap", "--compare-every", 2, fault="kind=bitflip,step=5")
    assert code == 1, (out, err)
    line = last_line(err)
    assert "replica" in line and "host 0" in line
    measured("a flipped bit at step 5 is told at step 6 (K = 2)")


@pytest.mark.goal("G16", "G29")
def test_a_second_trainer_is_refused_and_told_by_whom(train, measured):
    child = train.start(fault="kind=sleep,step=2")
    child.until("loss")
    begun = time.monotonic()
    code, out, err = train()
    waited = time.monotonic() - begun
    assert code == 2
    assert f"held by process {child.pid} on {os.uname().nodename}" in last_line(err)
    child.signal(signal.SIGKILL)
    child.wait()
    code, out, err = train()
    assert code == 0, err
    measured(f"exit 2 after {waited:.1f} s (imports not counted), with process and host")


@pytest.mark.goal("G6", "G29")
def test_checkpoints_that_cannot_be_written(train, whole, measured):
    code, out, err = train(fault=f"kind=disk_full,step={EVERY}")
    assert code == 0, err
    (line,) = [line for line in (out + err).splitlines() if "failed" in line]
    assert line.startswith(f"checkpoint of step {EVERY} failed (") and "the run goes on" in line
    assert "Traceback" not in err and committed(out) == [2 * EVERY, STEPS]
    assert losses(train.folder) == whole[0] and digests(train.folder) == whole[1]
    failures = [
        line.get("checkpoint_failures", 0) for line in metrics.read(train.folder / "metrics.jsonl")
    ]
    assert failures[0] == 0 and failures[-1] == 1
    code, out, err = train(run="other", fault=f"kind=disk_full,steps={STEPS + 1}")
    assert code == 5
    assert "make room" in last_line(err)
    measured("one that fails is one line, the run ends bitwise the same; three: exit 5")


@pytest.mark.goal("G5", "G29")
def test_a_damaged_checkpoint_is_stepped_over_unless_told_not_to(train, whole, measured):
    code, out, err = train(fault=f"kind=sigterm,step={EVERY}")
    assert code == 0, err
    step = preempted(out)
    newest = train.folder / "checkpoints" / str(step)
    path = max((p for p in newest.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    code, out, err = train("--no-fallback")
    assert code == 4
    assert f"checkpoint {step}" in last_line(err)
    code, out, err = train()
    assert code == 0, err
    said = [line for line in out.splitlines() if "trying the one before" in line]
    assert len(said) == 1 and f"going on from step {EVERY}" in out
    assert losses(train.folder) == whole[0] and digests(train.folder) == whole[1]
    measured("one host: --no-fallback 4; else one line, and bitwise the same end")


# ---- the clock


@pytest.mark.goal("G33")
def test_the_clock_adds_up_over_a_kill(train, measured):
    begun = time.monotonic()
    child = train.start("--steps", 60, "--checkpoint-every", 20, fault="kind=kill,step=35")
    assert child.wait() == -9
    time.sleep(1)
    child = train.start("--steps", 60, "--checkpoint-every", 20)
    again = time.monotonic()
    child.until("train 2", 60)
    first = time.monotonic() - again
    assert child.wait() == 0
    wall = time.monotonic() - begun
    kept = json.loads((train.folder / "goodput.json").read_text())["seconds"]
    line = next(line for line in child.out.splitlines() if line.startswith("where the time went"))
    assert set(kept) == set(goodput.KINDS) and " down" in line
    share = sum(kept.values()) / wall
    measured(
        f"{100 * share:.1f} % of {wall:.1f} s as seen from outside; first step after {first:.1f} s (imports not counted)"
    )
    assert 0.9 < share <= 1.01
    assert kept["down"] > 1
