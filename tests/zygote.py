"""Real processes at a tenth of their price: each is forked from one that has imported everything.

What takes seconds at a process's start is importing; nothing of JAX runs before the fork, so that each
has devices, threads and files of its own.
"""

import contextlib
import importlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time
import traceback

from imagebind_jax.runtime import worker_process

HERE = pathlib.Path(__file__).parent
# Where tests, and what they share, are imported from: by pytest (conftest.py) and by children.
FOLDERS = sorted({str(path.parent) for path in HERE.rglob("*.py") if "golden" not in path.parts})
DEVICES = re.compile(r"--xla_force_host_platform_device_count=\d+")


class Child:
    """One process: what it said so far, how it ended."""

    def __init__(self, folder: pathlib.Path):
        self.folder, self.begun = folder, time.monotonic()
        self.pid = int(_wait_for(folder / "pid", 180))

    @property
    def out(self) -> str:
        return (self.folder / "out").read_text(errors="replace")

    @property
    def err(self) -> str:
        return (self.folder / "err").read_text(errors="replace")

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """-9, if it still runs."""
        if not (self.folder / "code").exists():
            with contextlib.suppress(ProcessLookupError):
                self.signal(signal.SIGKILL)

    def until(self, words: str, seconds: float = 60) -> None:
        """Waits until it has said these words. They are looked for often, but on a busy machine."""
        end = time.monotonic() + seconds
        while words not in self.out + self.err:
            assert not (self.folder / "code").exists(), (words, self.out, self.err[-3000:])
            assert time.monotonic() < end, (words, self.out, self.err[-3000:])
            time.sleep(0.002)

    def wait(self, seconds: float = 120) -> int:
        """Its exit code, as subprocess has it: -9 for a kill. Kills it after so many seconds."""
        try:
            return int(_wait_for(self.folder / "code", seconds))
        except TimeoutError:
            self.kill()
            raise


class Zygote:
    """start(["train", ...]) runs a command in a process of its own."""

    def __init__(self, folder: pathlib.Path, **about: str):
        """about: environment variables of all of them."""
        self.folder, self._count, self._one = folder, 0, threading.Lock()
        # As a job's, whose log is a file: what is not flushed is not seen.
        inherited = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
        paths = os.pathsep.join([*FOLDERS, str(HERE.parent)])
        environment = inherited | {"PYTHONPATH": paths} | about
        self._process = subprocess.Popen(
            [sys.executable, "-c", "import zygote; zygote.serve()"],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment,
        )  # fmt: skip

    def start(
        self, arguments: list, *, fault: str = "", devices: int = 8, call: str = "imagebind_jax.cli:main", **environment
    ) -> Child:  # fmt: skip
        """call: module:function that is given the arguments, and returns an exit code."""
        with self._one:
            self._count += 1
            folder = self.folder / str(self._count)
        folder.mkdir()
        for name in ("out", "err"):
            (folder / name).touch()
        environment = {"XLA_FLAGS": flags(devices), "IBJ_FAULT": fault, **environment}
        asked = {
            "folder": str(folder),
            "arguments": [str(each) for each in arguments],
            "environment": environment,
            "call": call,
        }
        assert self._process.stdin is not None
        with self._one:
            self._process.stdin.write(json.dumps(asked) + "\n")
            self._process.stdin.flush()
        return Child(folder)

    def run(self, arguments: list, seconds: float = 120, **options) -> tuple[int, str, str]:
        """(exit code, stdout, stderr)"""
        child = self.start(arguments, **options)
        return child.wait(seconds), child.out, child.err

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def flags(devices: int) -> str:
    """XLA_FLAGS of a process with so many devices."""
    others = DEVICES.sub("", os.environ.get("XLA_FLAGS", ""))
    return f"{others} --xla_force_host_platform_device_count={devices}"


def serve() -> None:
    """What the one process does: a fork for each line."""
    for module in ("imagebind_jax.cli", "imagebind_jax.training.fit", "imagebind_jax.demo.run", "grain",
                   "tensorboardX.event_file_writer", "tensorboardX.summary", "test_fit"):  # fmt: skip
        importlib.import_module(module)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = os.getpid()
    for line in sys.stdin:
        asked = json.loads(line)
        if os.fork() == 0:
            _watch(asked, parent)
        _reap()


def _reap() -> None:
    """What has ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def _watch(asked: dict, parent: int) -> None:
    """Forks the process itself, and tells how it ends."""
    worker_process.kill_when_parent_dies(parent)  # a test that is stopped leaves nothing behind
    folder, this = pathlib.Path(asked["folder"]), os.getpid()
    pid = os.fork()
    if pid == 0:
        worker_process.kill_when_parent_dies(this)
        _become(asked, folder)
    _write(folder / "pid", str(pid))
    _, status = os.waitpid(pid, 0)
    _write(folder / "code", str(os.waitstatus_to_exitcode(status)))
    os._exit(0)


def _become(asked: dict, folder: pathlib.Path) -> None:
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, name in enumerate(("/dev/null", folder / "out", folder / "err")):
        flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_APPEND
        descriptor = os.open(name, flags, 0o600)
        os.dup2(descriptor, number)
    os.environ.update(asked["environment"])
    module, _, name = asked["call"].partition(":")
    code = 1
    try:
        code = getattr(importlib.import_module(module), name)(asked["arguments"]) or 0
    except SystemExit as stop:
        code = stop.code or 0
    except BaseException:
        traceback.print_exc()
    sys.exit(code)  # as an ordinary process ends


def _write(path: pathlib.Path, text: str) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(text)
    partial.rename(path)


def _wait_for(path: pathlib.Path, seconds: float) -> str:
    end = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() > end:
            raise TimeoutError(f"no {path.name} within {seconds} s")
        time.sleep(0.005)
    return path.read_text()
