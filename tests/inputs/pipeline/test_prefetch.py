"""Worker processes change no byte of the stream, name and name what they die of."""

import errno
import multiprocessing
import os
import pathlib
import signal
import sys
import time
from concurrent import futures

import goals
import numpy as np
import pytest
from feeding import Noisy, batches

from imagebind_jax import cli
from imagebind_jax.cli import commands
from imagebind_jax.errors import FatalRunError, UserError
from imagebind_jax.inputs.pipeline import batches as pair_batches
from imagebind_jax.inputs.pipeline import prefetch
from imagebind_jax.runtime import breadcrumbs, worker_process
from imagebind_jax.storage import lock

STEPS = 16
LATE = 3.0  # seconds after which a run with a dead or stuck worker must be over


def equal(found, wanted):
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted):
        assert a.keys() == b.keys()
        for name in b:
            assert a[name].dtype == b[name].dtype
            assert a[name].tobytes() == b[name].tobytes(), name


# (hosts, workers of each, the step that is started from); without soak the first ones alone, since
# a process takes seconds to start.
COMBINATIONS = (
    (1, 0, 0), (2, 0, 7), (4, 0, 5), (4, 0, 11), (2, 1, 11), (1, 2, 7), (1, 3, 0),
    (1, 1, 3), (4, 1, 5), (1, 1, 15), (2, 1, 0), (2, 2, 5), (4, 2, 11), (1, 2, 0), (2, 2, 3),
    (2, 3, 9), (4, 3, 5), (1, 3, 11), (2, 3, 2), (1, 3, 5),
)  # fmt: skip


@pytest.mark.goal("G9")
def test_any_number_of_workers_hosts_and_restarts_gives_the_same_bytes(measured):
    """With random augmentation, a draw the pair shares, mixing, replication and bad records."""
    options = {"second": Noisy(bad=(3, 105)), "replication": 1.25}
    reference = batches(**options)
    wanted = [reference[step] for step in range(STEPS)]
    assert sum((batch["weight"] == 0).sum() for batch in wanted) >= 4
    chosen = COMBINATIONS[: goals.size(5, 20)]
    for hosts, workers, start in chosen:
        shares = [batches(host=host, hosts=hosts, **options) for host in range(hosts)]
        streams = [share.stream(start, workers=workers) for share in shares]
        with futures.ThreadPoolExecutor(hosts) as pool:
            parts = list(pool.map(list, streams))
        joined = [
            {name: np.concatenate([each[name] for each in step]) for name in step[0]}
            for step in zip(*parts)
        ]
        equal(joined, wanted[start:])
    assert not multiprocessing.active_children()
    measured(f"{len(chosen)} of {len(chosen)} the same bytes")


# ---- G19: a decoder that crashes or hangs; no such record can be skipped


@pytest.mark.goal("G19")
def test_a_worker_that_dies_ends_the_run_and_its_file_is_named(tmp_path, measured):
    mark, seconds, times = tmp_path / "mark", [], goals.size(1, 5)
    for _ in range(times):
        stream = batches(Noisy(deadly=7, mark=str(mark))).stream(workers=1)
        with pytest.raises(FatalRunError, match=r"exit code -11\) while reading /media/deadly.mp4"):
            list(stream)
        seconds.append(time.time() - mark.stat().st_mtime)
        assert not multiprocessing.active_children()
    assert max(seconds) < LATE or not goals.SOAK
    measured(f"{times} of {times} crashes named, over within {max(seconds):.1f} s")


@pytest.mark.goal("G19")
def test_a_worker_that_is_stuck_ends_the_run_and_its_file_is_named(tmp_path, measured):
    mark, seconds, times = tmp_path / "mark", [], goals.size(1, 3)
    patience = float(goals.size(1, 3))
    for _ in range(times):
        stream = batches(Noisy(endless=7, mark=str(mark))).stream(workers=1, patience=patience)
        with pytest.raises(FatalRunError, match=r"stuck for \d+ s reading /media/endless.mp4"):
            list(stream)
        seconds.append(time.time() - mark.stat().st_mtime)
        for process in multiprocessing.active_children():
            process.join(3)
        assert not multiprocessing.active_children()
    assert max(seconds) < patience + LATE or not goals.SOAK
    measured(
        f"{times} of {times} hangs named, over within {max(seconds):.1f} s at a patience of "
        f"{patience:.0f} s"
    )


@pytest.mark.processes
def test_a_worker_that_hangs_while_it_reads_nothing_ends_the_run(monkeypatch):
    stream = batches(Noisy(50_000), steps=100).stream(workers=1, patience=2.0)
    next(stream)
    monkeypatch.setattr(prefetch, "IDLE_TIMEOUT", 1.0)  # not while the process is being started
    time.sleep(1)  # it has read ahead as far as it may
    (process,) = multiprocessing.active_children()
    os.kill(process.pid, signal.SIGSTOP)
    with pytest.raises(FatalRunError, match="no batch for .* nothing is being read|stuck for"):
        list(stream)


def terminate(workers):
    for process in workers:
        os.kill(process.pid, signal.SIGTERM)


@pytest.mark.processes
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere they would outlive their parent")
def test_sigterm_to_the_workers_changes_nothing_and_a_closed_stream_leaves_none():
    """As `timeout`, systemd and SLURM send it, to each process of a group."""
    wanted, stream = batches(steps=100), batches(steps=100).stream(workers=2)
    with futures.ThreadPoolExecutor(1) as pool:
        first = pool.submit(next, stream)
        while len(multiprocessing.active_children()) < 2:
            time.sleep(0.001)
        terminate(multiprocessing.active_children())  # before they can have handled anything
        equal([first.result()], [wanted[0]])
    terminate(multiprocessing.active_children())
    equal([next(stream) for _ in range(20)], [wanted[step] for step in range(1, 21)])
    begun = time.monotonic()
    stream.close()
    assert time.monotonic() - begun < LATE
    assert not multiprocessing.active_children()


def leave_a_worker(_):
    """For `zygote`."""
    worker_process.kill_workers_at_exit()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    start = multiprocessing.get_context("fork").Process
    start(target=time.sleep, args=(60,), name=worker_process.NAME, daemon=True).start()


def test_python_ends_though_a_worker_that_was_left_heeds_no_sigterm(zygote):
    code, _, err = zygote.run([], call="test_prefetch:leave_a_worker", seconds=20)
    assert code == 0, err


# ---- what a death means


@pytest.mark.parametrize(
    "code, reading, began, said",
    [
        (-signal.SIGBUS, ["a.mp4"], True, "shared memory (/dev/shm)"),
        (-signal.SIGBUS, ["a.mp4"], True, "--shm-size"),
        (-signal.SIGKILL, ["a.mp4"], True, "while reading a.mp4: the system killed it"),
        (-signal.SIGKILL, [], True, "as memory ran out"),
        (-signal.SIGSEGV, ["a.mp4", "b.mp4"], True, "while reading a.mp4 or b.mp4"),
        (1, [], False, "`if __name__ == '__main__':`"),
    ],
)
def test_what_is_said_of_a_dead_worker(code, reading, began, said):
    line = worker_process.describe_worker_death(str(int(code)), reading, began)
    assert f"exit code {code:d}" in line and said in line
    assert ("a.mp4" in line) == (bool(reading) and code != -signal.SIGBUS)  # the file is innocent


@pytest.mark.parametrize("path, shared", [(None, True), ("/psm_1a2b", True), ("/tmp/x", False)])
def test_a_worker_without_room_for_shared_memory_is_told_from_a_full_disk(path, shared):
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
    told = prefetch._explained(error, breadcrumbs.ReadTracker("/nowhere"))
    assert (told is not error) == shared
    if shared:
        assert isinstance(told, FatalRunError) and "/dev/shm" in str(told)


@pytest.fixture
def watch(monkeypatch):
    """A _StallDetector with a patience of 2 s whose looks are 100 s apart, of which 1 s counts each; `watch.marks`
    is what is being read."""
    watch = prefetch._StallDetector(2.0, breadcrumbs.ReadTracker())
    clock = iter(range(0, 1_000_000, 100))
    monkeypatch.setattr(prefetch.time, "monotonic", lambda: next(clock))
    watch.marks = {}
    monkeypatch.setattr(watch.trail, "found", lambda: dict(watch.marks))
    return watch


def test_a_pause_of_everything_is_no_hang(watch):
    """As with Ctrl-Z and `fg`: the clock goes on, and nobody had a chance to read."""
    watch.marks = {(1, 1): (0.0, "a.mp4")}
    watch.look()
    watch.look()
    watch.look()  # 200 s have passed, of which two looks of 1 s count
    with pytest.raises(FatalRunError, match="stuck for 3 s reading a.mp4"):
        watch.look()


def test_a_silence_ends_with_the_next_batch(watch):
    """Batches that are slow to come, each between two readings of anything, are no silence."""
    for _ in range(100):
        for _ in range(20):
            watch.look()
        watch.arrived()
    with pytest.raises(FatalRunError, match="no batch for 33 s, though nothing is being read"):
        for _ in range(34):
            watch.look()


def test_a_record_that_is_stuck_while_others_come_is_told(watch):
    watch.marks = {(1, 1): (0.0, "a.mp4"), (1, 2): (0.0, "b.mp4")}
    with pytest.raises(FatalRunError, match="reading a.mp4"):
        for count in range(5):
            watch.marks[1, 2] = float(count), "b.mp4"
            watch.look()
            watch.arrived()


# ---- streams beside each other, as training's and an evaluation's


def test_what_one_stream_was_stuck_with_says_nothing_of_another(monkeypatch):
    monkeypatch.setattr(prefetch, "JOIN_TIMEOUT", 0.5)
    with pytest.raises(FatalRunError, match="endless"):
        list(batches(Noisy(endless=7)).stream(patience=0.5))

    def slow(index):
        time.sleep(1.5)
        return {"x": np.float32([index])}, ""

    ((row, _),) = pair_batches.prefetch_each(slow, 1, 0, 1, 0, 0.5)
    assert row["x"] == 0


@pytest.mark.processes
def test_only_the_workers_of_the_stream_that_hangs_are_killed():
    other = batches(steps=100).stream(workers=1)
    wanted = batches(steps=100)
    equal([next(other)], [wanted[0]])
    (its,) = multiprocessing.active_children()
    with pytest.raises(FatalRunError, match="stuck for \\d+ s reading /media/endless.mp4"):
        list(batches(Noisy(endless=7)).stream(workers=1, patience=1.0))
    time.sleep(0.5)
    assert multiprocessing.active_children() == [its]
    equal([next(other) for _ in range(20)], [wanted[step] for step in range(1, 21)])
    other.close()


def give_up(_):
    """For `zygote`."""
    prefetch.JOIN_TIMEOUT = 0.5
    try:
        list(batches(Noisy(endless=7)).stream(patience=0.5))
    except FatalRunError as error:
        print(error)


def test_python_ends_without_a_thread_that_is_stuck(zygote):
    """Where a run has given up what is stuck, and went on."""
    code, out, err = zygote.run([], call="test_prefetch:give_up", seconds=30)
    assert code == 0 and out.startswith("stuck for"), err


def be_stuck(arguments):
    """For `zygote`: a command that is."""
    prefetch.JOIN_TIMEOUT = 0.5
    commands._run = lambda arguments: list(batches(Noisy(endless=7)).stream(patience=1.0))
    return cli.main(arguments)


@pytest.mark.goal("G19")
def test_a_thread_that_is_stuck_ends_the_run_too(zygote):
    code, _, err = zygote.run(["train"], call="test_prefetch:be_stuck", seconds=60)
    assert code == 1
    assert err.splitlines()[-1].startswith("imagebind-jax: error: stuck for 1 s reading")


def test_in_memory_goes_without_workers():
    with pytest.raises(UserError, match="in_memory"):
        next(batches(in_memory=True).stream(workers=1))


def test_what_a_killed_run_left_in_the_folder_for_temporary_files_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(breadcrumbs.tempfile, "tempdir", str(tmp_path))
    made = {name: tmp_path / f"{breadcrumbs.PREFIX}{name}" for name in ("dead", "living", "new")}
    for name, folder in made.items():
        folder.mkdir()
        (folder / "1-1").touch()
        if name != "new":
            os.utime(folder, (0, 0))
    (tmp_path / f"{breadcrumbs.PREFIX}trace.txt").touch()  # another kind of thing
    with lock.file_lock(made["living"] / breadcrumbs.LOCK):
        os.utime(made["living"], (0, 0))
        with breadcrumbs.breadcrumb_dir() as mine:
            assert not made["dead"].exists()
            assert (made["living"] / "1-1").exists() and (made["new"] / "1-1").exists()
            assert os.path.dirname(mine) == str(tmp_path)
            with (
                pytest.raises(UserError),
                lock.file_lock(pathlib.Path(mine, breadcrumbs.LOCK), "held"),
            ):
                pass
    assert not os.path.exists(mine)
    assert len(list(tmp_path.iterdir())) == 3
