"""Every record exactly once in an epoch that is committed, whatever was killed and reshaped on the way."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys

import feeding
import goals
import numpy as np
import pytest
from feeding import batches

from imagebind_jax.runtime import fault_injection

RESHAPES, EVERY = 20, 5  # EVERY: steps from commit to commit
SIZES = {"vision+audio": 20, "vision+imu": 12}


@pytest.mark.goal("G10")
def test_of_two_sources_every_record_once_in_each_epoch_over_reshapes(measured):
    """Each leg is left at a random step after its last commit; the next has other hosts."""
    rng, steps = random.Random(0), goals.size(150, 300)
    history, lost, legs = [], 0, 0
    while len(history) < steps:
        hosts, threads = rng.choice((1, 2, 4, 8)), rng.choice((1, 2, 3))
        shares = [batches(host=h, hosts=hosts, steps=steps) for h in range(hosts)]
        streams = [share.stream(len(history), threads=threads) for share in shares]
        seen = []
        length = rng.randrange(1, 4 * EVERY) if legs < RESHAPES else steps
        for step, parts in zip(range(len(history), len(history) + length), zip(*streams)):
            numbers = np.concatenate([part["vision"][:, 0] for part in parts]).astype(int)
            seen.append((shares[0].name(step), numbers.tolist()))
        for stream in streams:
            stream.close()
        # What is after the last commit is lost, and a commit may be under way when it ends.
        kept = len(seen) if length == steps else len(seen) // EVERY * EVERY
        kept -= EVERY if kept and rng.random() < 0.2 else 0
        history += seen[:kept]
        lost += len(seen) - kept
        legs += 1
    assert lost > RESHAPES  # else nothing was ever made twice
    for pair, size in SIZES.items():
        numbers = [n for name, batch in history if name == pair for n in batch]
        epochs = [numbers[at : at + size] for at in range(0, len(numbers), size)]
        assert len(epochs) > goals.size(10, 20)
        first = 100 * (pair == "vision+imu")
        assert all(sorted(epoch) == list(range(first, first + size)) for epoch in epochs[:-1])
        assert len(set(epochs[-1])) == len(epochs[-1])
    measured(f"{legs - 1} reshapes, 0 records missing, 0 twice; {lost} batches made again")


@pytest.mark.processes
@pytest.mark.goal("G10")
def test_killed_and_gone_on_with_other_hosts_and_workers_every_record_comes_once(
    tmp_path, measured
):
    rng, path = random.Random(1), tmp_path / "history.json"
    kills, last = goals.size(2, RESHAPES), feeding.RECORDS // feeding.BATCH
    for kill in range(kills + 1):
        committed = len(json.loads(path.read_text())) if path.exists() else 0
        # So that all of the kills come before the end.
        most = max(2, (last - committed) // (kills + 1 - kill))
        at = committed + rng.randrange(most)
        workers = (0, 1, 2)[kill % 3]
        hosts = rng.choice((1, 2)) if workers else rng.choice((1, 2, 4))
        code = run(path, hosts, workers, at if kill < kills else None)
        assert code == (-signal.SIGKILL if kill < kills else 0)
    numbers = [number for batch in json.loads(path.read_text()) for number in batch]
    assert sorted(numbers) == list(range(feeding.RECORDS))
    most = min(kills - 1, 2)
    measured(f"{kills} kill -9, with 0 to {most} worker processes: 0 records missing, 0 twice")


def run(path, hosts, workers, kill_at):
    """The run's exit code."""
    environment = dict(os.environ)
    if kill_at is not None:
        environment[fault_injection.ENV_VAR] = f"kind=kill,step={kill_at}"
    script = pathlib.Path(feeding.__file__)
    command = [sys.executable, script, path, str(hosts), str(workers)]
    return subprocess.run(command, env=environment, timeout=120).returncode
