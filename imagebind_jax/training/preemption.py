"""SIGTERM as what it means on machines that are lent: save, and be gone; all hosts after the same step."""

import os
import signal
import threading
import time

import jax
from jax.experimental import multihost_utils

# Seconds within which SIGTERMs are one: a cluster tells each process, and so does `launch`.
REPEAT_SIGNAL_SECONDS = 2.0


class PreemptionNotice:
    """Within the block SIGTERM is a notice, and `reached` says when to heed it; a second one, or a
    Ctrl-C after it, ends the process at once. Past the block, more of them change nothing any more:
    all is saved, and the exit code is to say so. Where none came, SIGTERM means what it did before.

    In a thread other than the main one, where signals cannot be handled, it never is. Of several
    hosts JAX handles the signal, and a second one does nothing.
    """

    def __init__(self):
        self._noticed = threading.Event()
        self._before = None

    def __enter__(self):
        # With several hosts JAX listens, and lets all agree on a step.
        asked = getattr(jax.config, "jax_enable_preemption_service")  # noqa: B009
        self._several = jax.process_count() > 1 and asked
        self._main = threading.current_thread() is threading.main_thread()
        if self._several or not self._main:
            return self
        # Python's own handlers wait until a program is compiled; what a pipe is told arrives at once.
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._before = signal.signal(signal.SIGTERM, lambda *_: None)
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        threading.Thread(target=self._listen, name="sigterm", daemon=True).start()
        return self

    def __exit__(self, *_):
        if self._main and self._noticed.is_set():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        elif self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
        if self._before is not None:
            signal.set_wakeup_fd(self._wakeup)
            os.close(self._write)  # which ends the thread

    def reached(self, step: int) -> bool:
        """Whether the run is to stop before this step. Every host asks at every step."""
        if self._several and multihost_utils.reached_preemption_sync_point(step):
            self._noticed.set()
        return self._noticed.is_set()

    def _listen(self) -> None:
        first = None
        while number := os.read(self._read, 1):
            now = time.monotonic()
            if first is None and number[0] == signal.SIGTERM:
                first = now
                self._noticed.set()
            elif first is not None and (
                number[0] == signal.SIGINT or now - first > REPEAT_SIGNAL_SECONDS
            ):
                os._exit(128 + number[0])
        os.close(self._read)
