"""A run that ends, however, leaves none of its processes and none of their shared memory."""

import os
import pathlib
import random
import secrets
import signal
import subprocess
import sys
import time

import goals
import pytest

FEEDING = pathlib.Path(__file__).parents[1] / "feeding.py"
ENDS = {"KILL": {-9}, "TERM": {-15}, "INT": {1, 130, -2}, "raise": {7}}
LATE = 3.0  # seconds after which nothing may be left


@pytest.mark.goal("G20")
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and /dev/shm")
@pytest.mark.parametrize(
    "ends", [("KILL",), pytest.param(("TERM", "INT", "raise"), marks=pytest.mark.processes)]
)
def test_a_run_that_ends_in_any_way_leaves_no_process_and_no_shared_memory(
    ends, tmp_path, measured
):
    latest, times = 0.0, goals.size(1, 5)
    for time_ in range(times):
        latest = max(latest, seconds_of_leftovers(tmp_path / str(time_), ends))
    assert latest < LATE or not goals.SOAK
    said = ", ".join(ends).replace("raise", "exception")
    measured(f"{len(ends) * times} ends ({said}): nothing left after {latest:.1f} s")


def seconds_of_leftovers(folder, ends):
    """Ends one run in each of these ways, all at once; how long the last of what is theirs is seen."""
    folder.mkdir()
    runs, shared = {}, {end: f"{secrets.token_hex(2)}_" for end in ends}
    for end, prefix in shared.items():
        command = [sys.executable, FEEDING, folder / end, *["raise"][: end == "raise"]]
        environment = os.environ | {"FEEDING_BLOCKS": prefix}
        with (folder / f"{end}.said").open("w") as said:
            runs[end] = subprocess.Popen(
                command, stderr=said, start_new_session=True, env=environment
            )
    seen, deadline = set(), time.monotonic() + 120
    while not all((folder / end).exists() for end in runs):
        assert time.monotonic() < deadline, "the runs did not start"
        seen |= blocks(shared.values())
        time.sleep(0.02)
    assert len({name[:5] for name in seen}) == len(ends)  # else nothing could have been left
    for end, run in runs.items():
        if end != "raise":
            assert len(session_members([run])) > 1
            run.send_signal(getattr(signal, f"SIG{end}"))
    ended = time.monotonic()
    codes = {end: run.wait(20) for end, run in runs.items()}
    assert all(code in ENDS[end] for end, code in codes.items()), codes
    while left := session_members(runs.values()) or blocks(shared.values()):
        assert time.monotonic() - ended < 20, left
        time.sleep(0.05)
    latest = time.monotonic() - ended
    for end in ends:  # nobody but the run itself has the last word
        said = (folder / f"{end}.said").read_text()
        assert said == "" or (end == "INT" and "resource_tracker" not in said), said
    return latest


MAKING = """
import sys
from multiprocessing import resource_tracker, shared_memory
from imagebind_jax.runtime import worker_process
shared_memory._SHM_NAME_PREFIX = "/" + sys.argv[1]
worker_process.silence_resource_tracker()
worker_process.register_shared_memory_early()
print("begun", flush=True)
while True:
    block = shared_memory.SharedMemory(create=True, size=1 << 20)
    block.close()
    block.unlink()
"""


@pytest.mark.processes
@pytest.mark.goal("G20")
@pytest.mark.skipif(sys.platform != "linux", reason="reads /dev/shm")
def test_killed_while_it_makes_shared_memory_none_is_left(measured):
    kills, prefix, rng = goals.size(8, 60), f"{secrets.token_hex(2)}_", random.Random(0)
    for _ in range(kills):
        command = [sys.executable, "-c", MAKING, prefix]
        making = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        making.stdout.readline()
        time.sleep(rng.random() / 20)
        making.kill()
        assert making.communicate(timeout=20)[1] == b""  # its tracker has ended, too
    assert not blocks([prefix])
    measured(f"{kills} kills while shared memory was being made: 0 blocks left")


def session_members(runs):
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


def blocks(prefixes):
    """Shared memory of these names, which no other process uses."""
    return {name for name in os.listdir("/dev/shm") if name.startswith(tuple(prefixes))}
