"""A run that goes on is the run that it would have been: bit for bit, or but for rounding."""

import contextlib
import random
import re
import time
from concurrent import futures

import goals
import jax
import numpy as np
import pytest
from one_host import (
    EVERY,
    STEPS,
    committed,
    digests,
    get_config,
    losses,
    preempted,
    restored,
)

pytest_plugins = ["one_host"]
pytestmark = pytest.mark.jax


@pytest.mark.processes
@pytest.mark.goal("G7")
def test_killed_at_random_moments_a_run_ends_where_it_would_have(train, whole, measured):
    shares = (100, 100) if goals.SOAK else (3,)  # a run for each core at a time
    with futures.ThreadPoolExecutor() as pool:
        tasks = [pool.submit(kill_runs, train, whole, *share) for share in enumerate(shares)]
        runs = sum(task.result() for task in tasks)
    kills = sum(shares)
    measured(
        f"{kills} of {kills} kills in {runs} runs: losses and state bitwise those of a whole run"
    )


def kill_runs(train, whole, seed, kills):
    """Kills processes of one run after the other, and looks at how each run ends; how many runs."""
    rng, killed, runs = random.Random(seed), 0, 0
    leg = 5.0  # seconds that a process took; the first one compiled
    while killed < kills:
        name, told, code, tried = f"run{seed}-{runs}", 0, None, 0
        runs += 1
        while code != 0:
            child = train.start(run=name)
            if tried < 8 and killed < kills:
                with contextlib.suppress(TimeoutError):  # then it is killed
                    child.wait(rng.uniform(0.2 * leg, 1.1 * leg))
            code = child.wait()
            assert code in (0, -9), child.err
            begun = re.search(r"going on from step (\d+)", child.out)
            # Nothing told is lost.
            if begun is not None:
                assert int(begun[1]) >= told
            elif told:
                assert code and not committed(child.out), "begun anew"
            told = max([told, *committed(child.out)])
            tried, killed = tried + 1, killed + (code == -9)
            if code == 0:
                leg = 0.5 * leg + 0.5 * (time.monotonic() - child.begun)
        folder = train.folder.parent / name
        assert (losses(folder), digests(folder)) == whole
    return runs


@pytest.mark.processes
@pytest.mark.goal("G7")
@pytest.mark.parametrize("end", ["sigterm", "kill"])
def test_in_halves_it_is_the_same_run(end, train, whole, measured):
    at = 2 * EVERY + 1
    code, out, err = train(fault=f"kind={end},step={at}")
    if end == "sigterm":
        assert code == 0, err
        steps = [preempted(out)]
        assert at <= steps[0] < STEPS
    else:
        assert code == -9, err
        told = max(committed(out))
        steps = [step for step in (EVERY, 2 * EVERY) if step >= told]  # the second was in flight
    code, out, err = train()
    assert code == 0, err
    (begun,) = re.findall(r"going on from step (\d+)", out)
    assert int(begun) in steps
    assert losses(train.folder) == whole[0]
    assert digests(train.folder) == whole[1]
    measured(f"two halves, the first ended by {end}: bitwise")


# A process with this config splits what is as small as here, or "sharded" would split nothing.
SPLIT = """
from imagebind_jax.distributed import sharding
from one_host import get_config
sharding.MIN_SHARD_ELEMENTS = 64
assert "fsdp" in sharding.fsdp_spec((32, 128), 2)
"""
LEGS = ((8, "sharded"), (4, "pmap"), (2, "sharded"), (1, "sharded"), (8, "pmap"))


@pytest.mark.processes
@pytest.mark.goal("G8")
def test_on_other_devices_and_in_another_mode_it_is_the_same_but_for_rounding(
    train, tmp_path, measured
):
    split = tmp_path / "split.py"
    split.write_text(SPLIT)
    steps = goals.size(STEPS, 40)
    code, out, err = train("--steps", steps, run="whole")  # 2 devices, each with all parameters
    assert code == 0, err
    legs = LEGS if goals.SOAK else (*LEGS[:2], LEGS[-1])
    for number, (devices, mode) in enumerate(legs, 1):
        last = number == len(legs)
        fault = "" if last else f"kind=sigterm,step={number * steps // len(legs)}"
        options = ("--steps", steps, "--parallel", mode)
        code, out, err = train(*options, config=split, devices=devices, fault=fault)
        assert code == 0, err
        assert last or preempted(out) < steps
        assert number == 1 or "going on from step" in out
    folders = tmp_path / "run", tmp_path / "whole"
    found, wanted = (
        {step: float.fromhex(loss) for step, loss in losses(folder).items()} for folder in folders
    )
    assert list(found) == list(wanted) == list(range(steps))  # of other records losses would differ
    of_losses = max(abs(found[step] / wanted[step] - 1) for step in wanted)
    (at, state), (_, other) = (restored(folder, get_config()) for folder in folders)
    of_parameters = distance(state.params, other.params)
    said = " > ".join(f"{devices} {mode}" for devices, mode in legs)
    measured(
        f"{said}, {steps} steps: losses within {of_losses:.1e}, parameters within {of_parameters:.1e}"
    )
    assert at == steps
    assert 0 < of_losses <= 1e-5
    assert 0 < of_parameters <= 1e-6


def distance(found, wanted):
    """The relative L2 distance of two trees, all leaves together."""
    pairs = [
        (np.float64(a).ravel(), np.float64(b).ravel())
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True)
    ]
    a, b = (np.concatenate(leaves) for leaves in zip(*pairs))
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))
