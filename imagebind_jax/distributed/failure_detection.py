"""How one of several hosts ends: all others learn of it within seconds, and say in one line why."""

import atexit
import contextlib
import faulthandler
import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

from imagebind_jax.errors import RESTART_HINT, ProcessLostError, StepTimeoutError, one_line

KV_PREFIX = (
    "imagebind_jax"  # of what hosts tell each other, in the store that JAX's coordinator keeps
)
ERROR_GRACE_SECONDS = 1.5  # seconds for an error that all hosts meet to be each one's own
SHUTDOWN_TIMEOUT = 3600  # seconds that hosts wait for each other at an orderly end
COORDINATOR_LINGER = (
    5  # seconds that host 0, which keeps the store, stays for the others to read it
)
# What an exchange says when the host at its other end is gone: it is that host's end that counts.
COLLECTIVE_ERROR = re.compile(
    r"(?i)\bgloo\b|\bnccl\b|connection (closed|reset)|broken pipe|socket closed|\bUNAVAILABLE:"
)
# Exit codes of what would happen again, or happens to all.
COLLECTIVE_EXIT_CODES = (2, 3, 4, 5, 6, StepTimeoutError.code)


class FailureDetector:
    """This host among the others of its run.

    Threads of it see to it that none waits in an exchange for a host that is gone: JAX does so with a
    page of traces, much later.
    """

    def __init__(
        self,
        store: Any,
        host: int,
        hosts: int,
        silence: int,
        last_words: Callable[[], str] = lambda: RESTART_HINT,
    ):
        """store: JAX's client of its coordination service. silence: seconds without a sign of life
        after which a host counts as gone. last_words: what to say of the run beside its end."""
        self.host, self.hosts, self.silence = host, hosts, silence
        self._store, self._last_words = store, last_words
        self._every = min(1.0, silence / 10)
        self._answered = time.monotonic()  # by host 0
        self._ending = threading.Lock()  # held by the thread that ends the process
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=each, name=each.__name__, daemon=True)
            for each in (self._listen, self._doubt)
        ]

    def listen(self) -> None:
        """From here on other hosts' ends are this one's, and its orderly end waits for theirs."""
        for thread in self._threads:
            thread.start()
        atexit.register(self.part)  # before JAX's own, which was registered earlier

    def leave(self, line: str, code: int) -> NoReturn:
        """Ends this process at once with a line and an exit code, of which all other hosts are told.

        Where the line is of an exchange that broke, another host's end is waited for, and said.
        """
        if COLLECTIVE_ERROR.search(line):
            time.sleep(self.silence + 5 * self._every)  # the listener ends the process
        if not self._ending.acquire(blocking=False):
            time.sleep(3600)  # another thread is at it
        what = json.dumps({"line": one_line(line, 2000), "code": code})
        _run_with_timeout(2.0, lambda: self._set(f"end/{self.host}", what))
        if (
            code == StepTimeoutError.code
        ):  # the others say where they are before their exchanges break
            time.sleep(1.5 * self._every)
        self._out(line, code)

    def part(self) -> None:
        """The orderly end: returns when all hosts have come to theirs."""
        error = getattr(sys, "last_value", None)
        if error is not None and not hasattr(sys, "ps1"):  # uncaught: not an orderly one
            self.leave(f"{type(error).__name__}: {error}", 1)
        until = time.monotonic() + SHUTDOWN_TIMEOUT
        with contextlib.suppress(Exception):  # JAX tells of its own ones
            self._set(f"done/{self.host}", "")
            while len(self._dir("done")) < self.hosts and time.monotonic() < until:
                time.sleep(self._every / 5)
        self._over.set()
        for thread in self._threads:
            thread.join(timeout=5)

    # ---- threads

    def _listen(self) -> None:
        """Tells that this host lives, hears of the ends of others; host 0 looks for silent ones."""
        beats: dict[int, tuple[str, float]] = {}
        count = 0
        while not self._over.wait(self._every):
            count += 1
            try:
                self._set(f"beat/{self.host}", str(count))
                ends = self._dir("end")
                if self.host == 0 and not ends:
                    self._judge(beats)
            except Exception:
                continue  # JAX ends the process where host 0 is gone for good
            self._answered = time.monotonic()
            if ends:
                self._follow(ends)

    def _judge(self, beats: dict[int, tuple[str, float]]) -> None:
        now = time.monotonic()
        if now - self._answered > self.silence / 2:
            beats.clear()  # it was this process that was stopped
        seen = self._dir("beat")
        for host in range(1, self.hosts):
            beat = seen.get(host, "")
            if beats.get(host, (None, 0.0))[0] != beat:
                beats[host] = beat, now
        for host, (_, heard) in beats.items():
            if now - heard > self.silence:
                self._set(f"end/{host}", json.dumps({"line": "", "code": ProcessLostError.code}))

    def _doubt(self) -> None:
        """Host 0 may be alive, so that connections stay, and yet be stopped."""
        last = time.monotonic()
        while not self._over.wait(self._every):
            now = time.monotonic()
            if now - last > self.silence / 2:  # it was this process that was stopped
                self._answered = now
            last = now
            if now - self._answered > self.silence and self._ending.acquire(blocking=False):
                self._out(self._said(0, ""), ProcessLostError.code)

    def _follow(self, ends: dict[int, str]) -> None:
        """Ends this process as others have ended."""
        told = {host: json.loads(text) for host, text in ends.items()}
        # A broken exchange is what the others see of an end.
        causes = {
            h: end for h, end in told.items() if not COLLECTIVE_ERROR.search(end["line"])
        } or told
        host = min(causes)
        line, code = causes[host]["line"], causes[host]["code"]
        if code == StepTimeoutError.code:
            faulthandler.dump_traceback(file=2, all_threads=True)
        if line and self._over.wait(ERROR_GRACE_SECONDS):
            return
        if not self._ending.acquire(blocking=False):
            return  # with an end of its own
        self._out(
            self._said(host, line, code),
            code if code in COLLECTIVE_EXIT_CODES else ProcessLostError.code,
            told,
        )

    # ---- the end

    def _said(self, host: int, line: str, code: int = ProcessLostError.code) -> str:
        if code in COLLECTIVE_EXIT_CODES:
            return f"host {host}: {line}"
        name = f"host {host} (this one)" if host == self.host else f"host {host}"
        what = f"{name}: {line}" if line else f"{name} stopped answering"
        with contextlib.suppress(Exception):
            what = "; ".join(filter(None, [what, self._last_words()]))
        return what

    def _out(self, line: str, code: int, gone: Any = ()) -> NoReturn:
        _run_with_timeout(1.0, sys.stdout.flush)  # a thread that hangs may hold it
        os.write(2, f"imagebind-jax: error: {one_line(line)}\n".encode(errors="replace"))
        _silence_stderr()
        if self.host:
            _run_with_timeout(2.0, lambda: self._set(f"gone/{self.host}", ""))
        else:
            self._stay(set(gone))
        os._exit(code)

    def _stay(self, gone: set[int]) -> None:
        until = time.monotonic() + COORDINATOR_LINGER
        with contextlib.suppress(Exception):
            while time.monotonic() < until:
                if len({0, *gone, *self._dir("gone")}) == self.hosts:
                    time.sleep(0.2)  # what they say last, they say just before
                    return
                time.sleep(self._every / 5)

    def _set(self, name: str, value: str) -> None:
        self._store.key_value_set(f"{KV_PREFIX}/{name}", value, True)

    def _dir(self, name: str) -> dict[int, str]:
        found = self._store.key_value_dir_get(f"{KV_PREFIX}/{name}")
        return {int(key.rpartition("/")[2]): value for key, value in found}


def _silence_stderr() -> None:
    """Other threads still might: progress, warnings."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _run_with_timeout(seconds: float, do: Callable[[], Any]) -> None:
    """do(), without waiting for it for longer."""

    def tried() -> None:
        with contextlib.suppress(Exception):
            do()

    thread = threading.Thread(target=tried, daemon=True)
    thread.start()
    thread.join(timeout=seconds)
