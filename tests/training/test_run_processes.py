"""One host's run and everything that may end it: real processes, real signals, and what they say last."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import goals
import numpy as np
import pytest
from one_host import (
    ERROR,
    EVERY,
    STEPS,
    committed,
    digests,
    get_config,
    last_line,
    losses,
    preempted,
    restored,
)
from zygote import FOLDERS, flags

from imagebind_jax.runtime import metrics_log
from imagebind_jax.training import goodput, preemption

pytest_plugins = ["one_host"]


# ---- being asked to stop


@pytest.mark.goal("G15", "G29")
def test_sigterm_saves_and_loses_nothing(train, measured):
    waits, trials = [], goals.size(1, 20)
    for trial in range(trials):
        child = train.start("--steps", 4000, "--checkpoint-every", 4000, run=f"run{trial}")
        child.until("loss")
        begun = time.monotonic()
        child.signal(signal.SIGTERM)
        assert child.wait() == 0, child.err
        waits.append(time.monotonic() - begun)
        step = preempted(child.out)
        assert committed(child.out) == [step]
        assert "\nwhere the time went: " in child.out
        assert ERROR not in child.err
    assert restored(train.folder.with_name(f"run{trial}"), get_config())[0] == step
    measured(
        f"one host: {trials} of {trials} saved and gone within {max(waits):.1f} s, the first of "
        f"them, which compiles what a save needs, within {waits[0]:.1f} s"
    )
    assert max(waits) < goals.within(5)


@pytest.mark.processes
def test_sigterm_to_the_whole_group_leaves_the_workers_to_the_run(train):
    """As `timeout`, systemd and SLURM send it."""
    child = train.start("--steps", 4000, "--checkpoint-every", 4000, "--workers", 2)
    child.until("loss")
    os.killpg(child.pid, signal.SIGTERM)
    assert child.wait() == 0, child.err
    assert committed(child.out) == [preempted(child.out)]


@pytest.mark.processes
def test_a_second_sigterm_after_all_is_saved_changes_no_exit_code(train):
    child = train.start("--steps", 4000, "--checkpoint-every", 4000)
    child.until("loss")
    child.signal(signal.SIGTERM)
    child.until("preempted at")
    with contextlib.suppress(ProcessLookupError):
        while not (child.folder / "code").exists():  # to the last moment of Python's end
            child.signal(signal.SIGTERM)
            time.sleep(0.001)
    assert child.wait() == 0, child.err


@pytest.mark.processes
@pytest.mark.goal("G15")
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once(second, train, measured):
    # A step that hangs, so that the first is not heeded.
    child = train.start(fault=f"kind=sleep,step={EVERY + 2}")
    child.until(f"committed step {EVERY}")
    child.signal(signal.SIGTERM)
    time.sleep(0.5 + preemption.REPEAT_SIGNAL_SECONDS * (second == signal.SIGTERM))
    begun = time.monotonic()
    child.signal(second)
    assert child.wait(30) == 128 + second
    assert time.monotonic() - begun < goals.within(2)
    assert restored(train.folder, get_config())[0] == EVERY


@pytest.mark.processes
def test_before_the_first_step_there_is_nothing_to_save(train):
    code, out, err = train(fault="kind=sigterm,step=0")
    assert code == 0 and re.search(r"preempted at step [01]", out), err


# ---- ends that are failures


@pytest.mark.processes
@pytest.mark.goal("G29", "G12")
def test_an_exception_is_one_line_and_loses_no_commit(train, measured):
    code, out, err = train(fault=f"kind=raise,step={EVERY}")
    assert code == 1
    line = last_line(err)
    assert "InjectedError: injected at step 4" in line
    trace = pathlib.Path(re.search(r"its trace: (\S+\.txt)\)", line)[1])
    assert "fault_injection.inject_process_faults" in trace.read_text()
    trace.unlink()
    assert committed(out) == [EVERY]  # it was in flight
    assert restored(train.folder, get_config())[0] == EVERY


@pytest.mark.goal("G13", "G29")
def test_a_step_that_hangs_ends_the_run(train, measured):
    child = train.start("--patience-of-step", 3, fault=f"kind=sleep,step={EVERY + 1}")
    child.until(f"committed step {EVERY}")
    begun = time.monotonic()
    assert child.wait(60) == 76
    waited = time.monotonic() - begun
    line = last_line(child.err)
    assert re.search(rf"step \d has taken \d s so far: .* hangs; last committed step {EVERY}", line)
    assert "Thread 0x" in child.err and "fault_injection.py" in child.err  # where it hangs
    measured(f"one host: out after {waited:.1f} s with T = 3 s, exit 76, with the stacks")
    assert waited < goals.within(1.25 * 3 + 3)


@pytest.mark.processes
@pytest.mark.goal("G27", "G29")
def test_ten_steps_in_a_row_that_are_not_finite_stop_the_run(train, measured):
    code, out, err = train(
        "--steps", 30, "--checkpoint-every", 30, fault="kind=nan_grad,step=2,steps=20"
    )
    assert code == 6, err
    line = last_line(err)
    assert "step 11 " in line and "10 steps in a row were skipped" in line, line
    assert "gradient norm nan" in line and "its records: " in line
    lines = metrics_log.read_metrics(train.folder / "metrics.jsonl")
    assert [each["skipped_steps"] for each in lines] == [0, 0, *range(1, 11)]
    measured("10 in a row: exit 6 at the tenth, with loss, norm and records")


@pytest.mark.processes
@pytest.mark.goal("G27")
def test_a_bad_batch_is_skipped_and_counted_and_the_run_goes_on(train, measured):
    code, out, err = train(fault="kind=nan_batch,step=3")
    assert code == 0, err
    lines = metrics_log.read_metrics(train.folder / "metrics.jsonl")
    assert [each["skipped"] for each in lines] == [float(step == 3) for step in range(STEPS)]
    assert np.isfinite([each["loss"] for each in lines if not each["skipped"]]).all()


@pytest.mark.processes
@pytest.mark.goal("G28", "G29")
def test_replicas_that_differ_stop_the_run(train, measured):
    code, out, err = train("--parallel", "pmap", "--compare-every", 2, fault="kind=bitflip,step=5")
    assert code == 1, (out, err)
    line = last_line(err)
    assert "replica" in line and "host 0" in line
    measured("a flipped bit at step 5 is told at step 6 (K = 2)")


@pytest.mark.processes
@pytest.mark.goal("G16", "G29")
def test_a_second_trainer_is_refused_and_told_by_whom(train, measured):
    child = train.start(fault="kind=sleep,step=2")
    child.until("loss")
    waits, trials = [], goals.size(1, 10)
    for _ in range(trials):
        begun = time.monotonic()
        code, out, err = train()
        waits.append(time.monotonic() - begun)
        assert code == 2
        assert f"held by process {child.pid} on {os.uname().nodename}" in last_line(err)
    child.signal(signal.SIGKILL)
    child.wait()
    code, out, err = train(fault="kind=sigterm,step=1")  # the lock of one that is dead is free
    assert code == 0 and preempted(out), err
    measured(
        f"{trials} of {trials}: exit 2, naming process and host, within {max(waits):.1f} s of the "
        "process's fork (imports not counted)"
    )
    assert max(waits) < goals.within(2)


@pytest.mark.processes
@pytest.mark.goal("G6", "G29")
def test_checkpoints_that_cannot_be_written(train, whole, measured):
    code, out, err = train(fault=f"kind=disk_full,step={EVERY}")
    assert code == 0, err
    (line,) = [line for line in (out + err).splitlines() if "failed" in line]
    assert line.startswith(f"checkpoint of step {EVERY} failed (") and "the run goes on" in line
    assert "Traceback" not in err and committed(out) == [2 * EVERY, STEPS]
    assert losses(train.folder) == whole[0] and digests(train.folder) == whole[1]
    failures = [
        line.get("checkpoint_failures", 0)
        for line in metrics_log.read_metrics(train.folder / "metrics.jsonl")
    ]
    assert failures[0] == 0 and failures[-1] == 1
    code, out, err = train(run="other", fault=f"kind=disk_full,steps={STEPS + 1}")
    assert code == 5
    assert "make room" in last_line(err)
    measured("one that fails is one line, the run ends bitwise the same; three: exit 5")


@pytest.mark.processes
@pytest.mark.goal("G5", "G29")
def test_a_damaged_checkpoint_is_stepped_over_unless_told_not_to(
    train, whole, whole_folder, measured
):
    shutil.copytree(whole_folder, train.folder)
    newest = train.folder / "checkpoints" / str(STEPS)
    path = max((p for p in newest.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    code, out, err = train("--no-fallback")
    assert code == 4
    assert f"checkpoint {STEPS}" in last_line(err)
    code, out, err = train()
    assert code == 0, err
    said = [line for line in out.splitlines() if "trying the one before" in line]
    assert len(said) == 1 and f"going on from step {2 * EVERY}" in out
    assert losses(train.folder) == whole[0] and digests(train.folder) == whole[1]
    measured("one host: --no-fallback 4; else one line, and bitwise the same end")


# ---- the clock


@pytest.mark.processes
@pytest.mark.goal("G33")
def test_the_clock_adds_up_over_kills(train, measured):
    """As seen from outside: from the first process's lock to the last one's last word."""
    kills, steps, every = goals.size(1, 3), 400, 20
    lock, kept = train.folder / ".lock", train.folder / "goodput.json"
    for kill in range(kills + 1):
        fault = f"kind=kill,step={(kill + 1) * steps // (kills + 1) - 2}" if kill < kills else ""
        child = train.start("--steps", steps, "--checkpoint-every", every, fault=fault)
        if not kill:
            while not lock.exists():
                time.sleep(0.001)
            begun = time.time()
        assert child.wait() == (-9 if kill < kills else 0), child.err
        time.sleep(0.5)
    wall = kept.stat().st_mtime - begun
    seconds = json.loads(kept.read_text())["seconds"]
    share = sum(seconds.values()) / wall
    measured(
        f"{kills + 1} processes, {kills} of them killed: kinds sum to {100 * share:.2f} % of the "
        f"{wall:.1f} s on the wall"
    )
    assert share == pytest.approx(1, abs=0.01)
    assert set(seconds) == set(goodput.TIME_CATEGORIES)
    assert min(seconds[kind] for kind in ("steps", "compiling", "starting")) > 0
    assert seconds["down"] > 0.5 * kills
    (line,) = [each for each in child.out.splitlines() if each.startswith("where the time went: ")]
    assert " steps" in line and " down" in line


@pytest.mark.processes
@pytest.mark.goal("G33")
def test_a_killed_run_is_soon_back_at_its_steps(train, config, measured):
    """A process of its own, started by its command."""
    waits, trials, log = [], goals.size(1, 5), train.folder / "metrics.jsonl"
    fault = f"kind=sleep,step={EVERY + 2}"
    child = train.start(fault=fault)  # which compiles, too
    child.until(f"committed step {EVERY}")
    child.kill()
    command = [sys.executable, "-m", "imagebind_jax.cli", "train", config, "--out", train.folder]
    environment = os.environ | {
        "XLA_FLAGS": flags(2),
        "PYTHONPATH": os.pathsep.join(FOLDERS),
        "IBJ_FAULT": fault,
    }
    for _ in range(trials):
        before, begun = log.stat().st_ino, time.monotonic()
        again = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        try:
            # A run that goes on writes the file anew, without the steps that were lost.
            while log.stat().st_ino == before or metrics_log.read_metrics(log)[-1]["step"] < EVERY:
                assert again.poll() is None and time.monotonic() - begun < 100
                time.sleep(0.01)
            waits.append(time.monotonic() - begun)
        finally:
            again.kill()
            said, _ = again.communicate()
        assert f"going on from step {EVERY}\n" in said
    measured(
        f"{trials} restarts: first step within {max(waits):.1f} s of the command (imports counted)"
    )
    assert max(waits) < goals.within(20)
