"""Worker processes change no byte of the stream, name what they die of, and never outlive the run."""

import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from feeding import Noisy, batches

from imagebind_jax.errors import Stopped, UserError
from imagebind_jax.inputs import crumbs
from imagebind_jax.inputs import workers as workers_module

HERE = pathlib.Path(__file__).parent
STEPS = 16


def equal(found, wanted):
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted):
        assert a.keys() == b.keys()
        for name in b:
            assert a[name].dtype == b[name].dtype
            assert a[name].tobytes() == b[name].tobytes(), name


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
def test_any_number_of_workers_hosts_and_restarts_gives_the_same_bytes(workers):
    """With random augmentation, a draw the pair shares, mixing, replication and bad records."""
    broken = Noisy(bad=(3, 105))
    options = {"second": broken, "replication": 1.25}
    reference = batches(**options)
    wanted = [reference[step] for step in range(STEPS)]
    assert sum((batch["weight"] == 0).sum() for batch in wanted) >= 4
    hosts, start = {0: (1, 0), 1: (2, 11), 2: (4, 5), 3: (1, 0)}[workers]
    shares = []
    for host in range(hosts if workers != 2 else 1):
        stream = batches(host=host, hosts=hosts, **options).stream(start, workers=workers)
        shares.append(list(stream))
    if workers == 2:  # the other three hosts without processes: they only have to fit
        shares += [list(batches(host=h, hosts=4, **options).stream(start)) for h in (1, 2, 3)]
    joined = [
        {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        for parts in zip(*shares)
    ]
    equal(joined, wanted[start:])
    assert not multiprocessing.active_children()


def test_a_worker_that_dies_ends_the_run_and_its_file_is_named():
    stream = batches(Noisy(deadly=7)).stream(workers=1)
    begun = time.monotonic()
    with pytest.raises(Stopped, match=r"exit code -11\) while reading /media/deadly.mp4"):
        list(stream)
    assert time.monotonic() - begun < 20  # most of it is the worker's start
    assert not multiprocessing.active_children()


def test_a_worker_that_is_stuck_ends_the_run_and_its_file_is_named():
    stream = batches(Noisy(endless=7)).stream(workers=1, patience=1.0)
    with pytest.raises(Stopped, match=r"stuck for \d+ s reading /media/endless.mp4"):
        list(stream)
    for process in multiprocessing.active_children():
        process.join(3)
    assert not multiprocessing.active_children()


def test_a_worker_that_hangs_while_it_reads_nothing_ends_the_run(monkeypatch):
    stream = batches(Noisy(50_000), steps=100).stream(workers=1, patience=2.0)
    next(stream)
    monkeypatch.setattr(workers_module, "START", 1.0)  # not while the process is being started
    time.sleep(1)  # it has read ahead as far as it may
    (process,) = multiprocessing.active_children()
    os.kill(process.pid, signal.SIGSTOP)
    with pytest.raises(Stopped, match="no batch for .* nothing is being read|stuck for"):
        list(stream)


def test_a_pause_of_everything_is_no_hang(monkeypatch):
    """As with Ctrl-Z and `fg`: the clock goes on, and nobody had a chance to read."""
    watch = workers_module._Watch(2.0, None)
    clock = iter(range(0, 10_000, 100))
    monkeypatch.setattr(workers_module.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(crumbs, "found", lambda folder: {(1, 1): (0.0, "a.mp4")})
    watch.look()
    watch.look()
    watch.look()  # 200 s have passed, of which two looks of 1 s count
    with pytest.raises(Stopped, match="stuck for 3 s reading a.mp4"):
        watch.look()


def test_a_thread_that_is_stuck_ends_the_run_too():
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from imagebind_jax import cli\n"
        "import feeding\n"
        "def run(arguments):\n"
        "    list(feeding.batches(feeding.Noisy(endless=7)).stream(patience=1.0))\n"
        "cli._run = run\n"
        "sys.exit(cli.main(['train']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(HERE)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("imagebind-jax: error: stuck for 1 s reading")


def test_in_memory_goes_without_workers():
    with pytest.raises(UserError, match="in_memory"):
        next(batches(in_memory=True).stream(workers=1))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and /dev/shm")
def test_a_run_that_ends_in_any_way_leaves_no_process_and_no_shared_memory(tmp_path):
    before = _unmapped_blocks()
    runs = {}
    for end in ("KILL", "TERM", "INT", "raise"):
        command = [sys.executable, HERE / "feeding.py", tmp_path / end, end]
        runs[end] = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    while not all((tmp_path / end).exists() for end in runs):
        assert time.monotonic() < deadline, "the runs did not start"
        time.sleep(0.1)
    for end, run in runs.items():
        if end != "raise":
            run.send_signal(getattr(signal, f"SIG{end}"))
    codes = {end: run.wait(20) for end, run in runs.items()}
    assert codes == {"KILL": -9, "TERM": -15, "INT": codes["INT"], "raise": 7}
    deadline = time.monotonic() + 10
    while (left := _session_members(runs.values())) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left
    while (left := _unmapped_blocks() - before) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left


def _session_members(runs):
    """Processes that are still there of those sessions, zombies apart."""
    sessions, found = {run.pid for run in runs}, []
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) in sessions and fields[0] != "Z":
            found.append(stat.parent.name)
    return found


def _unmapped_blocks():
    """Shared memory that no process holds any more."""
    blocks = {name for name in os.listdir("/dev/shm") if name.startswith("psm_")}
    for maps in pathlib.Path("/proc").glob("[0-9]*/maps"):
        try:
            text = maps.read_text()
        except OSError:
            continue
        blocks -= {name for name in blocks if name in text}
    return blocks
