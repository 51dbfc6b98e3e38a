"""The launcher, on commands that end in every way: what it passes on, holds back, says and tries again."""

import os
import pathlib
import re
import signal
import sys
import time

import pytest

from imagebind_jax import errors
from imagebind_jax.cli import launch
from imagebind_jax.errors import UserError

ERROR = "imagebind-jax: error: "
# Word for word what JAX 0.10 and 0.12 print, without the middle of long lines.
SILENT = """\
E1123 06:07:21.851301    4690 coordination_service.cc:1520] [11373] Shutdown barrier in coordination service has failed:
INTERNAL: Barrier failed because: task is set to ERROR: UNAVAILABLE: Task 3 heartbeat timeout.
E1123 06:07:21.851431    4690 coordination_service.cc:1549] [11373] Use error polling to propagate: UNAVAILABLE: The following tasks are unhealthy (stopped sending heartbeats):
3
The tasks have crashed. Check the task logs for an earlier error
F1123 06:07:06.445310    4394 client.h:80] Terminating process because the JAX distributed service detected fatal errors.
*** Check failure stack trace: ***
    @     0x7f7da0440634  absl::lts_20260107::log_internal::LogMessage::SendToLog()
"""
CLOSED = """\
E1123 06:13:27.880178    9442 coordination_service_agent.cc:288] Polled an error from coordination service.
F1123 06:13:27.880245    9442 client.h:86] Terminating process because the JAX distributed service detected fatal errors.
:UNAVAILABLE:Stream removed (Socket closed)
*** Check failure stack trace: ***
"""
STOPPED = """\
F1123 06:12:51.833247    9227 client.h:86] Terminating process because the JAX distributed service detected fatal errors. absl::Status: DEADLINE_EXCEEDED: Deadline Exceeded

RPC: /xla.coordination.CoordinationService/Heartbeat
*** Check failure stack trace: ***
"""
ABORT = "sys.stderr.flush(); os.abort()"


def says(text, then=""):
    return f"sys.stderr.write({text!r}); {then}"


def launch_it(arguments):
    """For `zygote`: FOLDER RESTARTS ...: launches the folder's fake.py in place of a command."""
    folder, restarts, *arguments = arguments
    os.chdir(folder)
    launch.STDERR_HOLD_SECONDS = 0.5
    launch.COMMAND[:] = [sys.executable, "-S", "fake.py"]
    return launch.supervise(arguments, int(restarts), pause=0.1)


@pytest.fixture
def launched(zygote, tmp_path):
    """launched(code, *arguments) launches a command that is this code; starts it only with `started`."""
    children = []

    def start(code, *arguments, restarts=0):
        (tmp_path / "fake.py").write_text(f"import os, signal, sys, time\n{code}\n")
        child = zygote.start([tmp_path, restarts, *arguments], call="test_launch:launch_it")
        children.append(child)
        return child

    def run(*arguments, **options):
        child = start(*arguments, **options)
        return child.wait(60), child.out, child.err.splitlines()

    run.started = start
    yield run
    for child in children:
        child.kill()


@pytest.mark.goal("G29")
@pytest.mark.parametrize(
    ("page", "who"), [(SILENT, "host 3"), (CLOSED, "host 0"), (STOPPED, "host 0")]
)
def test_a_page_becomes_a_line(page, who, launched):
    code, _, lines = launched(says("train 5/10\n" + page, ABORT), "train", "c.py", "--out", "run")
    said = f"{ERROR}{who} stopped answering; last committed step none; {errors.RESTART_HINT}"
    assert (code, lines) == (70, ["train 5/10", said])


def test_the_page_can_be_seen(launched):
    code, _, lines = launched(says(SILENT, ABORT), "evaluate", "c.py", "--debug")
    assert code == 70
    assert "\n".join(lines).startswith(SILENT.rstrip())
    assert lines[-1] == f"{ERROR}host 3 stopped answering; {errors.RESTART_HINT}"


def test_the_last_commit_is_found_in_the_run_folder(launched, tmp_path):
    for step, whole in ((5, True), (10, True), (15, False)):
        folder = tmp_path / "runs" / "mine" / "checkpoints" / str(step)
        folder.mkdir(parents=True)
        if whole:
            (folder / "commit_success.txt").touch()
    code, _, lines = launched("os.kill(os.getpid(), 9)", "train", "configs/mine.py", "--host=2")
    line = "host 2 (this one) was killed by SIGKILL; last committed step 10"
    assert (code, lines) == (70, [f"{ERROR}{line}; {errors.RESTART_HINT}"])


def test_a_command_that_is_killed_is_not_called_this_process(launched):
    code, _, lines = launched("os.kill(os.getpid(), 9)", "evaluate", "c.py")
    assert (code, lines) == (
        70,
        [f"{ERROR}the command was killed by SIGKILL; {errors.RESTART_HINT}"],
    )


@pytest.mark.parametrize(
    "code", [0, 2, *(pytest.param(code, marks=pytest.mark.processes) for code in (3, 4, 5, 6))]
)
def test_an_end_that_would_come_again_is_not_tried_again(code, launched):
    text = says(f"{ERROR}as it is\n", f"print('out'); sys.exit({code})")
    assert launched(text, restarts=3) == (code, "out\n", [f"{ERROR}as it is"])


@pytest.mark.parametrize(
    "code", [70, *(pytest.param(code, marks=pytest.mark.processes) for code in (1, 76))]
)
def test_another_end_is_tried_again(code, launched):
    ends, _, lines = launched(says("x\n", f"sys.exit({code})"), restarts=2)
    again = [f"restarting ({n} of 2) in 0.1 s" for n in (1, 2)]
    assert (ends, lines) == (code, ["x", again[0], "x", again[1], "x"])


def test_until_it_does_not_end_that_way(launched, tmp_path):
    text = "once = os.path.exists('once'); open('once', 'w'); sys.exit(0 if once else 76)"
    assert launched(text, restarts=5)[0] == 0


@pytest.mark.processes
def test_lines_of_libraries_that_are_no_end_are_passed_on(launched):
    text = "".join(f"{kind}1123 06:07:21.8   4690 pjrt.cc:1] note\n" for kind in "WE") + "half"
    code, _, lines = launched(says(text))
    assert (code, lines) == (0, text.splitlines())
    # What looks like a page, and is none: the process lives on.
    code, _, lines = launched(says(SILENT, "sys.exit(3)"))
    assert (code, lines) == (3, SILENT.splitlines())
    process = launched.started(f"{says(SILENT, 'sys.stderr.flush()')}; time.sleep(60)")
    process.until(SILENT)


def test_bytes_are_passed_on_as_they_are(launched):
    text = "x = b'\\x1b[2K\\r bar \\xff'; os.write(2, x); time.sleep(0.5); os.write(2, b'!')"
    process = launched.started(text)
    process.wait(60)
    assert (process.folder / "err").read_bytes() == b"\x1b[2K\r bar \xff!"


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.processes)]
)
def test_a_signal_reaches_the_command_once(number, launched):
    text = (
        "count = []; [signal.signal(n, lambda n, f: count.append(n)) for n in (2, 15)]\n"
        "print('ready', flush=True); end = time.time() + 0.7\n"
        "while time.time() < end: time.sleep(0.05)\n"
        "print(count); sys.exit(1)"
    )
    process = launched.started(text, restarts=3)
    process.until("ready\n")
    process.signal(number)
    code = process.wait(60)
    # And is not tried again: it was told to end.
    assert (code, process.out, process.err) == (1, f"ready\n[{int(number)}]\n", "")


def test_before_the_command_can_heed_it(launched):
    process = launched.started("print('ready', flush=True); time.sleep(60)", restarts=3)
    process.until("ready\n")
    process.signal(signal.SIGTERM)
    assert (process.wait(60), process.err) == (143, f"{ERROR}stopped by SIGTERM\n")


@pytest.mark.skipif(sys.platform != "linux", reason="asks the system to end a child")
def test_the_command_ends_with_its_launcher(launched):
    process = launched.started("print(os.getpid(), flush=True); time.sleep(60)")
    process.until("\n")
    child = int(process.out)
    process.signal(signal.SIGKILL)
    process.wait()
    until = time.monotonic() + 5
    while re.search(r"State:\s+[^ZX]", _status(child)):
        assert time.monotonic() < until
        time.sleep(0.02)


def _status(process):
    try:
        return pathlib.Path(f"/proc/{process}/status").read_text()
    except OSError:
        return ""


def test_mistakes_are_named():
    with pytest.raises(UserError, match="--restarts must not be negative, got -1"):
        launch.supervise(["train"], -1)
