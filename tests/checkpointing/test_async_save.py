"""Saves that fail: the run goes on, no committed step is lost, nothing half-written stays."""

import contextlib
import os
import pathlib
import shutil
import subprocess
import sys
import threading
import time

import jax.numpy as jnp
import pytest
from saver import bits, facts, state

from imagebind_jax.checkpointing import async_save, step_dir
from imagebind_jax.checkpointing.checkpointer import (
    Checkpointer,
    CheckpointError,
    CorruptCheckpointError,
    abstract_state,
)
from imagebind_jax.errors import CheckpointWriteError
from imagebind_jax.runtime import fault_injection


@pytest.fixture
def run(tmp_path):
    """(checkpoints, lines): with step 1 committed, and the lines of those that failed."""
    lines = []
    checkpoints = Checkpointer(tmp_path / "run", failed=lines.append)
    save(checkpoints, 1)
    assert checkpoints.steps() == [1]
    yield checkpoints, lines
    checkpoints.abandon()


def save(checkpoints, *steps):
    for step in steps:
        checkpoints.save(step, state(step), facts(step))


def whole(checkpoints):
    """The committed steps, all bit for bit; nothing else is in the folder, but marks of what failed."""
    until = time.monotonic() + 5  # threads of a save that failed may still write
    while True:
        steps = checkpoints.steps()
        found = [name for name in os.listdir(checkpoints.folder) if not name.startswith(".saving-")]
        if sorted(map(int, found)) == sorted(steps):
            break
        assert time.monotonic() < until, found
        time.sleep(0.1)
    for step in steps:
        assert bits(checkpoints.restore(step, abstract_state(state(0)))) == bits(state(step))
    return steps


# ---- G6: the disk is full


@contextlib.contextmanager
def small_disk(folder, size):
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system of a chosen size may be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def filled(folder, spare=0):
    """A file that takes all the space there is, but for `spare` bytes."""
    path = folder / "ballast"
    with path.open("wb", buffering=0) as file:
        with contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        file.truncate(file.tell() - spare)
    return path


@pytest.mark.goal("G6")
def test_a_full_disk_is_one_line_each_and_the_run_goes_on(tmp_path, monkeypatch, capfd, measured):
    # What is said to be free is not, as under a quota: only writing finds out.
    usage = shutil.disk_usage("/")
    lines = []
    with small_disk(tmp_path / "disk", "4m") as disk:
        checkpoints = Checkpointer(disk / "run", failed=lines.append)
        save(checkpoints, 1, 2)
        assert whole(checkpoints) == [2, 1]
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2**40))
            ballast = filled(disk, spare=100_000)
            save(checkpoints, 3)
            assert whole(checkpoints) == [2, 1]
            assert lines == [
                "checkpoint of step 3 failed (no space left on device): the run goes on; "
                "last committed step 2"
            ]
            ballast.unlink()
            save(checkpoints, 4)
            assert whole(checkpoints) == [4, 2]
            ballast = filled(disk)
            save(checkpoints, 5, 6, 7)
            with pytest.raises(
                CheckpointWriteError, match="3 checkpoints in a row .* last committed step 4"
            ) as stop:
                save(checkpoints, 8)
            assert stop.value.code == 5
        assert (len(lines), checkpoints.failures) == (4, 4)
        ballast.unlink()
        assert whole(checkpoints) == [4, 2]
        checkpoints.abandon()
        assert whole(Checkpointer(disk / "run")) == [4, 2]
        assert sorted(os.listdir(disk / "run")) == ["2", "4"]
    assert capfd.readouterr() == ("", "")  # none of orbax's pages
    measured(
        "4 failed saves: one line each, remains gone, the next save with room commits; "
        "3 in a row: code 5"
    )


def test_too_little_room_is_found_before_anything_is_written(run, monkeypatch):
    checkpoints, lines = run
    checkpoints.check_space(state(1))
    usage = shutil.disk_usage("/")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
        with pytest.raises(CheckpointError, match="no space left on device") as refused:
            checkpoints.check_space(state(1))
        assert refused.value.code == 2
        save(checkpoints, 2)
        assert len(lines) == 1
        assert "(no space left on device: a checkpoint takes 262 kB and" in lines[0]
        assert "has 1 kB free" in lines[0]
        with pytest.raises(CheckpointWriteError, match="the last checkpoint could not be written"):
            checkpoints.close()
    save_again = Checkpointer(checkpoints.folder)
    save(save_again, 2)
    assert whole(save_again) == [2, 1]
    save_again.close()


def test_a_fault_on_purpose_fails_while_the_step_is_written(run, monkeypatch):
    checkpoints, lines = run
    monkeypatch.setenv(fault_injection.ENV_VAR, "kind=disk_full,step=2,steps=2")
    save(checkpoints, 2, 3, 4)
    assert whole(checkpoints) == [4, 1]
    assert [line.split(" failed ")[0] for line in lines] == [
        "checkpoint of step 2", "checkpoint of step 3"
    ]  # fmt: skip
    assert checkpoints.failures == 2
    monkeypatch.setenv(fault_injection.ENV_VAR, "kind=disk_full,step=5,steps=9")
    save(checkpoints, 5, 6)  # not the third in a row: step 4 was committed
    with pytest.raises(CheckpointWriteError, match="last committed step 4"):
        save(checkpoints, 7)
        checkpoints.close()


def test_a_folder_that_is_gone_is_a_save_that_failed(run):
    checkpoints, lines = run
    shutil.rmtree(checkpoints.folder)
    save(checkpoints, 2)
    assert len(lines) == 1
    assert "no such file or directory" in lines[0]
    checkpoints.folder.mkdir()
    save(checkpoints, 3)
    assert whole(checkpoints) == [3]


# ---- what is told


def test_a_step_is_told_when_all_of_it_is_durable(tmp_path, monkeypatch):
    events, fsync = [], os.fsync

    def synced(descriptor):
        fsync(descriptor)
        events.append(pathlib.Path(os.readlink(f"/proc/self/fd/{descriptor}")))

    monkeypatch.setattr(os, "fsync", synced)
    checkpoints = Checkpointer(tmp_path / "run", committed=events.append)
    save(checkpoints, 1)
    checkpoints.close()
    step = tmp_path / "run" / "1"
    mark, told = events.index(step / "commit_success.txt"), events.index(1)
    every = {step.parent, step, *step.rglob("*")}
    assert {*events[:told]} == every
    # Everything else before the file that makes it count.
    assert {*events[:mark]} >= every - {step / "commit_success.txt"}
    assert step.parent in events[mark:told]


def test_what_committed_raises_is_raised_at_the_next_call(tmp_path, capfd):
    def committed(step):
        raise BrokenPipeError("nobody listens")

    checkpoints = Checkpointer(tmp_path / "run", committed=committed)
    save(checkpoints, 1)
    with pytest.raises(BrokenPipeError):
        checkpoints.close()
    checkpoints.close()
    assert checkpoints.steps() == [1]
    assert capfd.readouterr().err == ""


def test_a_step_that_is_saved_stays_as_it_is(run):
    checkpoints, lines = run
    before = (checkpoints.folder / "1" / "commit_success.txt").stat().st_mtime_ns
    save(checkpoints, 1)
    assert whole(checkpoints) == [1]
    assert (checkpoints.folder / "1" / "commit_success.txt").stat().st_mtime_ns == before


def test_remains_are_gone_at_the_start_and_nothing_else(run):
    checkpoints, _ = run
    save(checkpoints, 2)
    checkpoints.close()
    folder = checkpoints.folder
    step_dir.mark_in_progress(
        folder / "1", "removing"
    )  # and killed: the commit file may still be there
    shutil.copytree(folder / "2", folder / "3")
    step_dir.mark_in_progress(folder / "3")
    (folder / "3" / "commit_success.txt").unlink()
    step_dir.mark_in_progress(folder / "2")  # killed between its commit and the end of the mark
    shutil.copytree(folder / "2", folder / "4.orbax-checkpoint-tmp-0")
    (folder / "notes").mkdir()
    (folder / "007").mkdir()
    again = Checkpointer(folder)
    assert sorted(os.listdir(folder)) == ["007", "2", "notes"]
    again.close()


@pytest.mark.parametrize("other", ["folder", "file", "link"])
def test_what_is_no_checkpoint_of_ours_is_refused_and_stays(other, run, tmp_path):
    checkpoints, _ = run
    checkpoints.close()
    theirs = checkpoints.folder / "1000"
    real = theirs if other == "folder" else tmp_path / "elsewhere"
    (real / "default").mkdir(parents=True)
    (real / "default" / "weights").write_text("of years")
    if other == "file":
        theirs.write_text("of years")
    elif other == "link":
        theirs.symlink_to(real)
    with pytest.raises(
        CheckpointError, match="1000 is named as a checkpoint of this run and is none"
    ):
        Checkpointer(checkpoints.folder)
    assert (real / "default" / "weights").read_text() == "of years"
    assert sorted(os.listdir(checkpoints.folder)) == ["1", "1000"]


def test_steps_that_lost_their_commit_file_are_told_and_kept_and_nothing_begins_anew(run):
    checkpoints, _ = run
    save(checkpoints, 2)
    checkpoints.close()
    folder, lines = checkpoints.folder, []
    for step in "12":
        (folder / step / "commit_success.txt").unlink()
    (folder / "1.damaged").write_text("somebody's")
    again = Checkpointer(folder, failed=lines.append)
    assert [line.partition(":")[0] for line in lines] == [
        f"checkpoint {step} has lost its commit file" for step in (1, 2)
    ]
    assert sorted(os.listdir(folder)) == ["1.damaged", "1.damaged.2", "2.damaged"]
    assert (folder / "1.damaged").read_text() == "somebody's"
    with pytest.raises(CorruptCheckpointError, match="no whole checkpoint is left"):
        again.check_begun()
    (folder / "2.damaged" / "commit_success.txt").touch()
    (folder / "2.damaged").rename(folder / "2")
    again.check_begun()
    assert bits(again.restore_newest(abstract_state(state(0)))[1]) == bits(state(2))
    again.close()


# ---- the end


def test_a_save_in_flight_is_committed_when_an_error_ends_the_run(zygote, tmp_path):
    code, out, err = zygote.run([tmp_path / "run"], call="saver:fail", devices=2)
    assert (code, out) == (1, "1\n")
    assert err.splitlines()[-1] == "ZeroDivisionError: division by zero"
    assert "schedule" not in err
    checkpoints = Checkpointer(tmp_path / "run")
    assert whole(checkpoints) == [1]
    checkpoints.close()


def abandoned_is_over(folder):
    committed = (folder / "2" / step_dir.COMMITTED).is_file()
    return committed and not [
        each for each in folder.iterdir() if step_dir._MARK.fullmatch(each.name)
    ]


def test_abandoning_takes_no_longer_than_it_may(run, monkeypatch):
    checkpoints, lines = run
    free = threading.Event()
    monkeypatch.setattr(async_save.step_dir, "fsync_tree", lambda folder: free.wait(30))
    save(checkpoints, 2)
    begun = time.monotonic()
    checkpoints.abandon(patience=0.3)
    assert 0.25 < time.monotonic() - begun < 5
    free.set()
    late = time.monotonic() + 30  # as long as the abandoned save still writes, nobody else may
    while not abandoned_is_over(checkpoints.folder) and time.monotonic() < late:
        time.sleep(0.05)
    monkeypatch.setenv(fault_injection.ENV_VAR, "kind=disk_full,step=3")
    again = Checkpointer(checkpoints.folder, failed=lines.append)
    again.save(3, state(3) | {"extra": jnp.ones(2)}, {})
    again.abandon()
    again.abandon()
    assert len(lines) == 1
