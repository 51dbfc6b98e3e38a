"""Pages that orbax prints of what fails: left out, as it is told in one line."""

import contextlib
import gc
import logging
import os
import sys
import warnings
from collections.abc import Iterator

# Of reads and writes under way when another one of theirs failed.
LEFT_OVER = ("Event loop is closed", "Encountered error while reading array index")
ORBAX = os.path.join("orbax", "checkpoint")  # in the paths of its sources

_others = sys.unraisablehook


def leave_out() -> None:
    """From now on, in this process."""
    global _others
    logging.getLogger("absl").addFilter(_told_elsewhere)
    if sys.unraisablehook is not _unraised:
        _others, sys.unraisablehook = sys.unraisablehook, _unraised


@contextlib.contextmanager
def awaited_or_not() -> Iterator[None]:
    """Around reads: orbax drops those that it has not begun when another one fails."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        try:
            yield
        except Exception:
            gc.collect()
            raise


def _told_elsewhere(record: logging.LogRecord) -> bool:
    return record.levelno < logging.ERROR or ORBAX not in record.pathname


def _unraised(unraisable) -> None:
    if not any(words in str(unraisable.exc_value) for words in LEFT_OVER):
        _others(unraisable)
