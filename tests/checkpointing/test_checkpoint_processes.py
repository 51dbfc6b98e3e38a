"""Processes that save: killed at any moment they leave whole steps; two hosts know the same."""

import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import time

import goals
import pytest
from test_initialize import free_port

pytestmark = pytest.mark.processes
CALL = {"call": "saver:main", "devices": 2}
STRACE = shutil.which("strace")
# Whatever changes names on a disk, and what makes it last.
CALLS = ("mkdir", "rename", "unlink", "unlinkat", "rmdir", "fsync", "renameat", "linkat")
LAST = 40  # calls of a kind by one thread: more than three saves and deletions make


@pytest.mark.goal("G1")
def test_kills_at_any_moment_lose_nothing_that_was_told(zygote, tmp_path, measured):
    kills, moments = goals.size(10, 200), random.Random(6)
    assert zygote.run([tmp_path, 3], **CALL)[0] == 0
    for _ in range(kills):
        child = started(zygote, tmp_path, 10**6)
        child.until("saving")  # having looked at all that the one before has left
        time.sleep(moments.uniform(0, 1))
        child.signal(signal.SIGKILL)
        assert child.wait() == -9, child.err
    code, out, err = zygote.run([tmp_path, 1], **CALL)
    assert code == 0, err
    told = len((tmp_path / "log").read_text().split())
    assert told > 4  # and not only those of the first and the last process
    measured(
        f"{kills} of {kills} kills: every listed step bit for bit, none of {told} told is lost, "
        "no remains"
    )


@pytest.mark.goal("G2")
@pytest.mark.skipif(STRACE is None, reason="there is no strace here")
def test_kills_at_each_system_call_leave_no_listed_step_that_cannot_be_read(
    zygote, tmp_path, measured
):
    reached = 0
    for call in CALLS if goals.SOAK else CALLS[:4]:
        for number in range(1, LAST + 1) if goals.SOAK else (1, 3, 6):
            code = traced(zygote, tmp_path, call, number)
            if code == 0:
                break  # no thread makes so many
            reached += 1
    code, out, err = zygote.run([tmp_path, 1], **CALL)
    assert code == 0, err
    assert reached >= 8
    measured(f"{reached} positions: 0 listed steps that cannot be restored")


def started(zygote, *arguments):
    child = zygote.start([*arguments], **CALL)
    while not (child.folder / "err").exists():
        time.sleep(0.002)
    return child


def traced(zygote, folder, call, number):
    """Exit code of three saves, with deletions, killed at a thread's call of that number."""
    inject = f"inject={call}:signal=SIGKILL:when={number}"
    child = started(zygote, folder, 3, "stopped")
    code = injected(child, "-o", folder / "trace", "-e", f"trace={call}", "-e", inject)
    assert code in (0, -9), child.err
    return code


@pytest.mark.goal("G5")
@pytest.mark.skipif(STRACE is None, reason="there is no strace here")
def test_a_disk_that_errs_in_any_file_of_a_step_loses_nothing(zygote, tmp_path, measured):
    assert zygote.run([tmp_path, 2], **CALL)[0] == 0
    steps = tmp_path / "checkpoints"
    files = sorted(path for path in (steps / "2").rglob("*") if path.is_file())
    needed = [
        steps / "2" / name for name in ("meta/metadata", "state/_METADATA", "state/manifest.ocdbt")
    ]
    asked, ends = files if goals.SOAK else needed, []
    for path in asked:
        child = zygote.start([steps], **CALL | {"call": "saver:look"})
        error = "inject=read,pread64,preadv,openat:error=EIO"
        assert injected(child, "-P", path, "-e", error) == 0, child.err
        ends.append(child.out.strip())
    # Some files are not needed. No other end: nothing is taken for damage, nor stepped over.
    assert set(ends) <= {"2 []", "checkpoint 2 cannot be read (input/output error)"}
    assert all(end.startswith("checkpoint 2") for path, end in zip(asked, ends) if path in needed)
    assert sorted(os.listdir(steps)) == ["1", "2"]
    refused = len(ends) - ends.count("2 []")
    measured(f"I/O errors in each of {len(asked)} files: {refused} told, 0 taken for damage")


def injected(child, *options):
    """Exit code of a process that has stopped itself and goes on with these options of strace."""
    while " T " not in pathlib.Path(f"/proc/{child.pid}/stat").read_text():
        time.sleep(0.002)  # until it has stopped itself
    command = [STRACE, "-f", *options, "-p", str(child.pid)]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        said = tracer.stderr.readline()
        if "attached" not in said:
            child.signal(signal.SIGKILL)
            pytest.skip(f"strace may not attach here: {said.strip()}")
        child.signal(signal.SIGCONT)
        return child.wait()
    finally:
        tracer.kill()
        tracer.wait()
        tracer.stderr.close()


# ---- two hosts


@pytest.mark.goal("G5", "G6")
def test_two_hosts_take_the_same_step_and_share_what_fails(zygote, tmp_path, measured):
    coordinator = f"127.0.0.1:{free_port()}"
    folder = tmp_path / "run"
    folder.mkdir()
    both = [
        zygote.start([folder, coordinator, host], call="saver:host", devices=1) for host in range(2)
    ]
    assert [each.wait() for each in both] == [0, 0], [each.err[-3000:] for each in both]
    one, two = (json.loads(each.out.splitlines()[-1]) for each in both)
    for found in (one, two):
        assert found["steps"] == [20, 10]
        assert found["exact"] == [True, True]
        assert found["newest"] == [10, True]
        assert len(found["warned"]) == 1
        assert found["after"] == [10]
        assert found["seconds"] < 30
        assert found["then"] == [40, 30]
        assert found["lines"][0].startswith("checkpoint of step 30 failed (file too large)")
        assert len(found["lines"]) == 2
        assert (found["last"], found["failures"]) == (40, 2)
        assert "last committed step 40" in found["end"]
    why = "checkpoint 20: cannot be read here"
    assert two["CorruptCheckpointError"] == ["CorruptCheckpointError", why]
    assert one["CorruptCheckpointError"] == ["CorruptCheckpointError", f"host 1: {why}"]
    for kind in ("CheckpointError", "UnreadableCheckpointError"):
        assert [each[kind][0] for each in (one, two)] == [kind, kind]
    assert one["warned"] == [f"host 1: {why}; trying the one before"]
    assert sorted(os.listdir(folder)) == [".saving-50", "20.damaged", "30", "40"]
    measured(
        "2 hosts, of which one alone cannot read or write: both take the same step, and know of "
        f"the failed save within {max(one['seconds'], two['seconds']):.0f} s"
    )
