"""Ctrl-C that arrives where Python drops exceptions, and comes again where it does not."""

import _thread
import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator

RESEND_SECONDS = 0.01  # seconds after which it comes again


@contextlib.contextmanager
def deliver_keyboard_interrupts() -> Iterator[None]:
    """In the block no Ctrl-C is lost.

    Code that Python calls between others' lines, as a `__del__` or what JAX does after each garbage
    collection, has nobody to raise to: "Exception ignored in ...", and the run would go on.
    """
    before = sys.unraisablehook

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            # Not by threading, whose locks may be held by the code that was interrupted.
            _thread.start_new_thread(_resend_sigint, ())
        else:
            before(unraisable)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


def _resend_sigint() -> None:
    time.sleep(RESEND_SECONDS)
    main = threading.main_thread().ident  # which may sleep, and is to be woken
    if main is not None:
        signal.pthread_kill(main, signal.SIGINT)
