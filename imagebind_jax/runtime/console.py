"""Lines for whoever watches a command: each is out at once, and none costs the run that says it."""

import atexit
import contextlib
import os
import sys
from typing import TextIO


def print_line(line: str, *, to_stderr: bool = False) -> None:
    """Prints the line. Where it cannot be (the disk of a log is full, the reader of a pipe is gone)
    it is lost; where there is no such stream, there is nobody to tell."""
    stream = sys.stderr if to_stderr else sys.stdout
    if stream is None:
        return
    try:
        print(line, file=stream, flush=True)
    except OSError:
        atexit.unregister(flush_streams)
        atexit.register(flush_streams)


def print_error(line: str) -> None:
    """The line with which a command ends where it fails, on stderr."""
    print_line(f"imagebind-jax: error: {line}", to_stderr=True)


def flush_streams() -> None:
    """What was printed, by whomever, goes out; or nowhere, as a stream that still holds what it cannot
    get rid of would make Python's end exit code 120."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            _to_nowhere(stream)


def _to_nowhere(stream: TextIO) -> None:
    with contextlib.suppress(OSError):  # a stream that is no file
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
