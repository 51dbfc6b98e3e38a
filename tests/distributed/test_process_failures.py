"""How runs of several hosts end: processes that die, raise, hang, are told to stop, or never come."""

import dataclasses
import os
import pathlib
import random
import re
import signal
import time

import goals
import one_host
import pytest
from one_host import ERROR, committed, restored
from test_initialize import free_port

from imagebind_jax import cli
from imagebind_jax.checkpointing import checkpointer
from imagebind_jax.cli import commands
from imagebind_jax.config import TrainConfig
from imagebind_jax.distributed import agreement, initialize

SILENCE = 5  # seconds without a sign of life
EVERY = 5  # steps between checkpoints
STEPS = 100_000
AGAIN = "restart with the same command"
pytestmark = pytest.mark.jax


def get_config() -> TrainConfig:
    changes = {"steps": STEPS, "checkpoint_every": EVERY, "log_every": 1000}
    return dataclasses.replace(one_host.get_config(), **changes)


@pytest.fixture
def run(zygote, tmp_path):
    """run(...) trains with two hosts, of two devices each."""
    config = tmp_path / "config.py"
    config.write_text("from test_process_failures import get_config\n")
    started = []

    def start(*options, name="run", only=(0, 1), before=(), fault=""):
        coordinator, out = f"127.0.0.1:{free_port()}", tmp_path / name
        given = ("--out", out, "--coordinator", coordinator, "--hosts", 2, *options)
        about = {"fault": fault, "devices": 2, "IMAGEBIND_JAX_SILENCE": str(SILENCE)}
        run = Run(out)
        for host in only:
            command = [*before, "train", config, *given, "--host", host]
            run.hosts[host] = zygote.start(command, **about)
        started.append(run)
        return run

    yield start
    for each in started:
        for host in each.hosts.values():
            if not (host.folder / "code").exists():
                host.signal(signal.SIGKILL)


class Run:
    """The processes of a run, by host."""

    def __init__(self, folder):
        self.folder, self.hosts = folder, {}

    def until_committed(self, step):
        """Waits until a step as late as this is; returns the last one told."""
        limit = time.monotonic() + 120
        while (last := max(committed(self.hosts[0].out), default=0)) < step:
            ended = {h: each.err for h, each in self.hosts.items() if exit_time(each)}
            assert not ended, ended
            assert time.monotonic() < limit, self.hosts[0].err
            time.sleep(0.002)
        return last

    def until_half_a_save(self):
        """Waits until a checkpoint after the last is partly written; returns the last one told."""
        told, limit = self.until_committed(EVERY), time.monotonic() + 60
        while not any(
            int(each.name) > told and not (each / checkpointer.COMMITTED).exists()
            for each in (self.folder / "checkpoints").iterdir()
            if each.name.isdecimal()
        ):
            assert time.monotonic() < limit
            time.sleep(0.001)
        return told

    def codes(self):
        """Exit codes, when all have ended."""
        return [each.wait() for each in self.hosts.values()]

    def seconds(self, begun):
        """From then (of `time.time`) until the last had ended."""
        return max(exit_time(each) for each in self.hosts.values()) - begun

    def last_line(self, host):
        """The error that a host told, once, last, and without a trace."""
        lines = self.hosts[host].err.strip().splitlines()
        assert sum(line.startswith(ERROR) for line in lines) == 1, lines
        assert lines[-1].startswith(ERROR), lines[-5:]
        assert not any("Traceback" in line or "Check failure" in line for line in lines)
        return lines[-1].removeprefix(ERROR)


def exit_time(child):
    code = child.folder / "code"
    return code.stat().st_mtime if code.exists() else 0.0


def kill(child, number=signal.SIGKILL):
    """Of a launcher's, the command that it runs."""
    children = pathlib.Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
    of_launch = [
        int(pid)
        for pid in children
        if b"imagebind_jax.cli" in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    os.kill((of_launch or [child.pid])[0], number)


def newest(folder):
    """The step of the newest checkpoint, which is whole."""
    return restored(folder, get_config())[0]


# ---- a host dies


def exchange(arguments):
    """For `zygote`: a command of two hosts, COORDINATOR HOST, that trains nothing."""

    def run(arguments):
        coordinator, host = arguments
        initialize.initialize(coordinator, 2, int(host), wait=60)
        while True:
            agreement.allgather_text("here")
            print("together", flush=True)
            time.sleep(0.1)

    commands._run = run
    return cli.main(arguments)


@pytest.mark.goal("G11", "G29")
def test_a_host_killed_ends_the_other(zygote, measured):
    coordinator, about = f"127.0.0.1:{free_port()}", {"IMAGEBIND_JAX_SILENCE": str(SILENCE)}
    call = {"call": "test_process_failures:exchange", "devices": 1}
    run = Run(None)
    for host in (0, 1):
        run.hosts[host] = zygote.start([coordinator, host], **call, **about)
    try:
        for child in run.hosts.values():
            child.until("together\ntogether\n")
        begun = time.time()
        run.hosts[1].signal(signal.SIGKILL)
        assert run.codes() == [70, -9], run.hosts[0].err
    finally:
        for child in run.hosts.values():
            child.kill()
    assert run.last_line(0) == f"host 1 stopped answering; {AGAIN}"
    waited = run.seconds(begun)
    measured(f"a host killed between steps: the other was out within {waited:.1f} s")
    assert waited < goals.within(SILENCE + 3)


@pytest.mark.processes
@pytest.mark.goal("G3", "G11", "G29")
@pytest.mark.parametrize(("dead", "in_soak"), [(0, 5), (1, 15)])  # launchers start slowly
def test_a_host_killed_in_the_middle_of_a_save(dead, in_soak, run, measured):
    """Alone host 0 says that host 1 is gone; of host 0's own end a launcher of host 1 tells."""
    dice, waits, trials = random.Random(dead), [], goals.size(1, in_soak)
    for trial in range(trials):
        hosts = run(name=f"run{trial}", before=() if dead else ("launch",))
        told = hosts.until_half_a_save()
        time.sleep(dice.uniform(0, 0.05))
        begun = time.time()
        kill(hosts.hosts[dead])
        codes = hosts.codes()
        assert codes[1 - dead] == 70, hosts.hosts[1 - dead].err
        waits.append(exit_time(hosts.hosts[1 - dead]) - begun)
        line = hosts.last_line(1 - dead)
        found = re.fullmatch(
            rf"host {dead} stopped answering; last committed step (\d+); {AGAIN}", line
        )
        assert found, line
        if not dead:  # a launcher says it of its own command, too
            assert codes[0] == 70
            assert hosts.last_line(0).startswith("host 0 (this one) was killed by SIGKILL; last")
        assert newest(hosts.folder) >= max(told, *committed(hosts.hosts[0].out))
    measured(
        f"host {dead}: {trials} of {trials} restore; the other was out within {max(waits):.1f} s, of "
        f"which {SILENCE} s are the heartbeat"
    )
    assert max(waits) < goals.within(SILENCE + 3)


@pytest.mark.processes
@pytest.mark.goal("G11", "G29")
def test_a_launcher_starts_again_what_crashed(run, measured):
    fault = f"kind=crash,step={2 * EVERY + 2},host=0"
    hosts = run(before=("launch", "--restarts", 1), fault=fault)
    hosts.until_committed(4 * EVERY)  # well beyond
    for host in (0, 1):
        lines = hosts.hosts[host].err.splitlines()
        errors = [line.removeprefix(ERROR) for line in lines if line.startswith(ERROR)]
        what = ("host 0 (this one) was killed by SIGSEGV", "host 0 stopped answering")[host]
        assert len(errors) == 1 and errors[0].startswith(f"{what}; last committed step"), errors
        assert "restarting (1 of 1) in 3 s" in lines
        assert not any("Check failure" in line for line in lines)
    assert re.search(rf"going on from step ({EVERY}|{2 * EVERY})\n", hosts.hosts[0].out)
    for child in hosts.hosts.values():
        child.signal(signal.SIGTERM)  # once for each, as a cluster does
    assert hosts.codes() == [0, 0], hosts.hosts[0].err
    measured("after a SIGSEGV of host 0 two launchers went on from the last commit")
    assert f"committed step {newest(hosts.folder)}\n" in hosts.hosts[0].out


# ---- a host raises, hangs, or is told to stop


@pytest.mark.processes
@pytest.mark.goal("G12", "G29")
@pytest.mark.parametrize("host", [0, 1])
def test_a_host_that_raises_takes_the_others_along(host, run, measured):
    step = 2 * EVERY + 2  # the save before it has waited for the first commit
    hosts = run(fault=f"kind=raise,step={step},host={host}")
    hosts.until_committed(EVERY)
    begun = time.time()
    codes = hosts.codes()
    assert codes[host] == 1 and codes[1 - host] == 70
    own, other = hosts.last_line(host), hosts.last_line(1 - host)
    assert own.startswith(f"InjectedError: injected at step {step}")
    assert other.startswith(f"host {host}: {own}; last committed step ") and other.endswith(AGAIN)
    waited = hosts.seconds(begun)  # some steps more than it takes
    measured(f"host {host} of 2 raised: both were out within {waited:.1f} s, with its error")
    assert waited < goals.within(15)


@pytest.mark.processes
@pytest.mark.goal("G13", "G29")
def test_a_host_that_hangs(run, measured):
    least = 9
    options = ("--patience", 4, "--patience-of-step", least)
    hosts = run(*options, fault=f"kind=sleep,step={2 * EVERY + 2},host=1")
    hosts.until_committed(2 * EVERY)
    begun = time.time()
    assert hosts.codes() == [76, 76], [each.err[-3000:] for each in hosts.hosts.values()]
    for host, child in hosts.hosts.items():
        assert "hangs" in hosts.last_line(host)
        assert "thread 0x" in child.err.lower()  # stacks
    assert "fault_injection.py" in hosts.hosts[1].err
    waited = hosts.seconds(begun)
    measured(f"one of two hosts: all out after {waited:.1f} s with T = {least} s, with the stacks")
    assert waited < goals.within(1.25 * least + 3)


@pytest.mark.processes
@pytest.mark.goal("G15", "G29")
@pytest.mark.parametrize("host", [0, 1])
def test_sigterm_to_one_host_stops_all_at_the_same_step(host, run, measured):
    hosts = run("--checkpoint-every", 4 * EVERY)
    hosts.until_committed(4 * EVERY)
    begun = time.time()
    hosts.hosts[host].signal(signal.SIGTERM)
    assert hosts.codes() == [0, 0], [each.err[-3000:] for each in hosts.hosts.values()]
    steps = [re.findall(r"preempted at step (\d+)", each.out) for each in hosts.hosts.values()]
    assert steps[0] == steps[1] and len(steps[0]) == 1, steps
    assert committed(hosts.hosts[0].out)[-1] == int(steps[0][0]) == newest(hosts.folder)
    waited = hosts.seconds(begun)
    measured(f"two hosts, host {host} told: all saved and gone after {waited:.1f} s")
    assert waited < goals.within(5)


# ---- a host never comes


@pytest.mark.processes
@pytest.mark.goal("G14", "G29")
def test_a_host_that_never_comes(zygote, run, measured):
    wait = 3
    hosts = run("--wait", wait, "--hosts", 4, only=(0, 2))
    begun = time.time()
    hosts.hosts[0].signal(0)  # it runs
    assert hosts.codes() == [2, 2]
    for host in (0, 2):
        line = hosts.last_line(host)
        assert re.match(rf"2 of 4 hosts came to 127\S+ within {wait} s, and not host 1, 3: ", line)
    waited = hosts.seconds(begun)
    measured(f"out after {waited:.1f} s with a wait of {wait} s, naming the missing")
    assert waited < goals.within(wait + 6)
    assert not hosts.folder.exists()
