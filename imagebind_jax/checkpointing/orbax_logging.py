"""Pages that orbax prints of what fails: left out, as it is told in one line."""

import contextlib
import gc
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator

# Of reads and writes under way when another one of theirs failed.
BENIGN_MESSAGES = ("Event loop is closed", "Encountered error while reading array index")
ORBAX = os.path.join("orbax", "checkpoint")  # in the paths of its sources

_others = sys.unraisablehook


def silence_orbax_tracebacks() -> None:
    """From now on, in this process."""
    global _others
    logging.getLogger("absl").addFilter(_told_elsewhere)
    if sys.unraisablehook is not _unraised:
        _others, sys.unraisablehook = sys.unraisablehook, _unraised


@contextlib.contextmanager
def drop_pending_coroutines() -> Iterator[None]:
    """Around reads: orbax drops those that it has not begun when another one fails."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        try:
            yield
        except Exception as error:
            # They hang on what the error's frames hold, also on those of errors before it.
            before: BaseException | None = error
            while before is not None:
                traceback.clear_frames(before.__traceback__)
                before = before.__cause__ or before.__context__
            gc.collect()
            raise


def _told_elsewhere(record: logging.LogRecord) -> bool:
    return record.levelno < logging.ERROR or ORBAX not in record.pathname


def _unraised(unraisable) -> None:
    if not any(words in str(unraisable.exc_value) for words in BENIGN_MESSAGES):
        _others(unraisable)
