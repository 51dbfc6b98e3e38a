"""`imagebind-jax launch COMMAND ...`: runs a command, says in one line how it ended, and starts it again."""

import contextlib
import os
import pathlib
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence

from imagebind_jax import errors
from imagebind_jax.checkpointing import step_dir
from imagebind_jax.errors import ProcessLostError, StepTimeoutError, UserError
from imagebind_jax.runtime import console, fault_injection, worker_process

COMMAND = [sys.executable, "-m", "imagebind_jax.cli"]
RESTART_DELAY = 3.0  # seconds before a command is started again
STDERR_HOLD_SECONDS = 5.0  # seconds that lines which may be JAX's last ones are held back
# JAX ends a process whose coordinator or fellow is gone with pages of this kind.
JAX_ABORT_LINE = re.compile(rb"[EF]\d{4} [\d:.]+ +\d+ \S*(coordination_|client\.h|preemption_)")
LOST_HEARTBEAT = re.compile(
    r"stopped sending heartbeats\):\s*(\d+(?:[,\s]+\d+)*)|[Tt]ask (\d+) heartbeat"
)
COORDINATOR = re.compile(r"Socket closed|RPC: /xla\S*/Heartbeat|[Cc]onnection (reset|refused)")
RESTARTABLE_CODES = (1, ProcessLostError.code, StepTimeoutError.code)


def supervise(arguments: Sequence[str], restarts: int = 0, *, pause: float = RESTART_DELAY) -> int:
    """The exit code of `imagebind-jax ARGUMENTS`, which is run as a child and ends with this process.

    restarts: how often it is tried again where a host was lost, hung or failed, not where the same
    would happen again (codes 0, 2 to 6). pause: seconds in between. Raises UserError.
    """
    if restarts < 0:
        raise UserError(f"--restarts must not be negative, got {restarts}")
    environment = dict(os.environ)
    for tried in range(restarts + 1):
        code, signalled = _Child(arguments, environment).run()
        if signalled or code not in RESTARTABLE_CODES or tried == restarts:
            return code
        console.print_line(f"restarting ({tried + 1} of {restarts}) in {pause:g} s", to_stderr=True)
        time.sleep(pause)
        environment.pop(fault_injection.ENV_VAR, None)  # a fault on purpose happens once
    return code


class _Child:
    """One try: what it says on stderr goes through this process, stdout is left to it."""

    def __init__(self, arguments: Sequence[str], environment: dict[str, str]):
        self._arguments, self._environment = list(arguments), environment
        self._debug = "--debug" in arguments
        self._signals: list[int] = []
        self._page = b""

    def run(self) -> tuple[int, bool]:
        """(exit code, whether it was this process that was told to end)."""
        parent = os.getpid()
        self._child = subprocess.Popen(
            [*COMMAND, *self._arguments],
            stderr=subprocess.PIPE,
            env=self._environment,
            process_group=0,  # a terminal's Ctrl-C comes through this process, once
            preexec_fn=lambda: worker_process.kill_when_parent_dies(parent),
        )
        with self._forwarded(signal.SIGTERM, signal.SIGINT):
            self._pass_on()
            code = self._child.wait()
        if code >= 0:
            self._release()
            return code, bool(self._signals)
        lost = self._lost(code)
        if self._debug or not lost:
            self._release()
        if -code in self._signals:  # before the command could heed it
            return self._fail(f"stopped by {signal.Signals(-code).name}", 128 - code), True
        line = lost or f"{self._own()} was killed by {_name(-code)}"
        words = [line, *_committed(self._arguments), errors.RESTART_HINT]
        return self._fail("; ".join(words), ProcessLostError.code), bool(self._signals)

    @contextlib.contextmanager
    def _forwarded(self, *numbers: int) -> Iterator[None]:
        def forward(number: int, _: object) -> None:
            self._signals.append(number)
            with contextlib.suppress(ProcessLookupError):
                self._child.send_signal(number)

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, forward) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _pass_on(self) -> None:
        """Until the child's stderr ends. What may be JAX's page waits for whether it is the last."""
        assert self._child.stderr is not None
        pipe, rest, since = self._child.stderr.fileno(), b"", time.monotonic()
        while True:
            if not select.select([pipe], [], [], 0.2)[0]:
                if self._page and time.monotonic() - since > STDERR_HOLD_SECONDS:
                    self._release()
                if not self._page and not rest.startswith((b"E", b"F")):
                    rest = _write(rest)  # half a line, say of a bar
                if self._child.poll() is not None:
                    break  # a grandchild may hold the pipe
                continue
            got = os.read(pipe, 1 << 16)
            if not got:
                break
            *lines, rest = (rest + got).split(b"\n")
            for line in lines:
                if not self._page and JAX_ABORT_LINE.match(line):
                    since = time.monotonic()
                if (self._page or JAX_ABORT_LINE.match(line)) and not line.startswith(
                    b"imagebind-jax: "
                ):
                    self._page += line + b"\n"
                else:
                    self._release()  # it was not the last: the command has one of its own
                    _write(line + b"\n")
        self._page += rest if self._page else _write(rest)

    def _release(self) -> None:
        self._page = _write(self._page)

    def _lost(self, code: int) -> str:
        """Which host JAX's page says is gone."""
        text = self._page.decode(errors="replace")
        if code != -signal.SIGABRT or not text:
            return ""
        if match := LOST_HEARTBEAT.search(text):
            hosts = ", ".join(re.findall(r"\d+", match[1] or match[2]))
            return f"host {hosts} stopped answering"
        return f"{'host 0' if COORDINATOR.search(text) else 'another host'} stopped answering"

    def _own(self) -> str:
        given = _option(self._arguments, "--host") or os.environ.get("SLURM_PROCID", "")
        return f"host {given} (this one)" if given.isdecimal() else "the command"

    def _fail(self, line: str, code: int) -> int:
        console.print_error(line)
        return code


def _write(text: bytes) -> bytes:
    """To stderr, as it is; nothing is left of it."""
    with contextlib.suppress(OSError):
        while text:
            text = text[os.write(2, text) :]
    return b""


def _name(number: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"


def _option(arguments: Sequence[str], name: str) -> str:
    for index, each in enumerate(arguments):
        if each == name and index + 1 < len(arguments):
            return arguments[index + 1]
        if each.startswith(f"{name}="):
            return each.partition("=")[2]
    return ""


def _committed(arguments: Sequence[str]) -> list[str]:
    """What is to be known of the run folder that a command writes to."""
    if arguments[:1] != ["train"]:
        return []
    configs = [each for each in arguments if each.endswith(".py")]
    default = pathlib.Path("runs") / pathlib.Path(configs[0]).stem if configs else ""
    folder = pathlib.Path(_option(arguments, "--out") or default) / "checkpoints"
    steps = step_dir.committed_steps(folder) if folder.is_dir() else []
    return [f"last committed step {max(steps, default='none')}"]
