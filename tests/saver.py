"""Processes that save: one to be killed, and two hosts of which one alone fails."""

import contextlib
import json
import os
import pathlib
import resource
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from imagebind_jax.checkpointing import step_dir
from imagebind_jax.checkpointing.checkpointer import (
    Checkpointer,
    CheckpointError,
    CorruptCheckpointError,
    abstract_state,
)
from imagebind_jax.checkpointing.step_dir import UnreadableCheckpointError
from imagebind_jax.distributed import initialize
from imagebind_jax.errors import CheckpointWriteError

READ_META = step_dir.read_meta


def state(step):
    """256 KB that are a function of the step, on two devices."""
    made, mesh = np.random.default_rng(step), Mesh(jax.devices()[:2], ("data",))

    def put(array, *axes):
        return jax.device_put(array, NamedSharding(mesh, P(*axes)))

    return {
        "params": {"w": put(made.standard_normal((256, 128), np.float32), "data")},
        "mu": put(made.standard_normal((256, 128), np.float32), "data"),
        "half": put(made.standard_normal(33).astype(jnp.bfloat16)),
        "step": put(np.int32(step)),
    }


def facts(step):
    return {"config": {"seed": step, "pairs": ["image", "text"]}}


def save(checkpoints, *steps):
    for step in steps:
        checkpoints.save(step, state(step), facts(step))


def bits(tree):
    """Of the parts that this process has."""
    return [
        (leaf.dtype, leaf.shape, [np.asarray(shard.data).tobytes() for shard in parts])
        for leaf in jax.tree.leaves(tree)
        for parts in [leaf.addressable_shards]
    ]


def main(arguments):
    """FOLDER SAVES [stopped]: looks at what is there, then saves; `stopped`: once continued."""
    folder, saves, *stopped = arguments
    if stopped:
        os.kill(os.getpid(), signal.SIGSTOP)
    folder = pathlib.Path(folder)
    log = os.open(folder / "log", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    told = [int(line) for line in (folder / "log").read_text().split()]
    checkpoints = Checkpointer(
        folder / "checkpoints", committed=lambda step: os.write(log, f"{step}\n".encode())
    )
    steps = checkpoints.steps()
    assert sorted(map(str, steps)) == sorted(os.listdir(folder / "checkpoints")), "remains"
    newest = steps[0] if steps else 0
    assert newest >= max(told, default=0), f"{max(told)} was told, {steps} are there"
    for step in steps:
        restored = checkpoints.restore(step, abstract_state(state(0)))
        assert bits(restored) == bits(state(step)), f"step {step} is another"
        assert checkpoints.meta(step)["config"] == facts(step)["config"]
    print(f"{len(steps)} steps are whole, saving", flush=True)
    save(checkpoints, *range(newest + 1, newest + 1 + int(saves)))
    checkpoints.close()


def look(arguments):
    """FOLDER: stops itself; then the newest step, and what was said, or why there is none."""
    os.kill(os.getpid(), signal.SIGSTOP)
    checkpoints, lines = Checkpointer(arguments[0]), []
    try:
        step, found = checkpoints.restore_newest(abstract_state(state(0)), lines.append)
        assert bits(found) == bits(state(step))
        print(step, lines)
    except UnreadableCheckpointError as error:
        print(str(error).partition(":")[0])


def fail(arguments):
    """FOLDER: an error while a save is in flight."""
    checkpoints = Checkpointer(pathlib.Path(arguments[0]), committed=print)
    save(checkpoints, 1)
    try:
        raise ZeroDivisionError("division by zero")
    except ZeroDivisionError:
        checkpoints.abandon()
        raise


# ---- two hosts


def host(arguments):
    """FOLDER COORDINATOR HOST: what each of the two does; it prints what it found, as JSON."""
    folder, coordinator, number = arguments
    initialize.initialize(coordinator, 2, int(number), wait=60)
    fails = number == "1"  # alone
    lines, like = [], abstract_state(state(0))
    checkpoints = Checkpointer(folder, failed=lines.append)
    save(checkpoints, 10, 20)
    found = {"steps": checkpoints.steps()}
    assert found["steps"] == [20, 10], lines
    found["exact"] = [bits(checkpoints.restore(s, like)) == bits(state(s)) for s in (20, 10)]
    for kind in (CorruptCheckpointError, CheckpointError, UnreadableCheckpointError):
        with unreadable(20, kind if fails else None):
            try:
                checkpoints.restore_newest(like, fallback=False)
            except CheckpointError as mistake:
                found[kind.__name__] = [type(mistake).__name__, str(mistake)]
    with unreadable(20, CorruptCheckpointError if fails else None):
        found["warned"] = []
        step, newest = checkpoints.restore_newest(like, found["warned"].append)
    found["newest"] = [step, bits(newest) == bits(state(step))]
    with short_files(fails):
        save(checkpoints, 30)
        begun = time.monotonic()
        found["after"] = checkpoints.steps()
        found["seconds"] = time.monotonic() - begun
    save(checkpoints, 30, 40)
    found["then"] = checkpoints.steps()
    with short_files(fails):
        save(checkpoints, 50)
        try:
            checkpoints.close()
        except CheckpointWriteError as mistake:
            found["end"] = str(mistake)
    found |= {"lines": lines, "last": checkpoints.last, "failures": checkpoints.failures}
    print(json.dumps(found), flush=True)


@contextlib.contextmanager
def unreadable(step, kind):
    """Makes this host alone unable to read a step, for a reason of this kind."""

    def read(folder):
        if kind and folder.name == str(step):
            raise kind(f"checkpoint {step}: cannot be read here")
        return READ_META(folder)

    step_dir.read_meta = read
    yield
    step_dir.read_meta = READ_META


@contextlib.contextmanager
def short_files(asked):
    """Makes this host alone unable to write files of more than 1,000 bytes."""
    most = resource.getrlimit(resource.RLIMIT_FSIZE)
    if asked:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, most[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, most)
