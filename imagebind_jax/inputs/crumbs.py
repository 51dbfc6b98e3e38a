"""What each thread is reading right now, told before it is read: whoever is stuck or dead left a crumb."""

import os
import pathlib
import threading
import time

_reading: dict[int, tuple[float, str]] = {}  # thread -> (since when, what), in this process
_folder: pathlib.Path | None = None  # where other processes look for ours
_files = threading.local()
LENGTH = 1024  # bytes of a crumb in its file: one write, never half of two


def note(what: str) -> None:
    """This thread begins to read `what`; "" when it is done with it."""
    thread = threading.get_ident()
    if what:
        _reading[thread] = time.monotonic(), what
    else:
        _reading.pop(thread, None)
    if _folder is not None:
        if not hasattr(_files, "descriptor"):
            path = _folder / f"{os.getpid()}-{thread}"
            _files.descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        line = f"{time.monotonic():.3f} {what}" if what else ""
        text = line.encode(errors="replace")[:LENGTH].ljust(LENGTH)
        os.pwrite(_files.descriptor, text, 0)


def detail(what: str) -> None:
    """The same, of a part of what this thread has noted: a file. Nothing where nothing is noted."""
    if threading.get_ident() in _reading:
        note(what)


def share(folder: str | os.PathLike) -> None:
    """From here on this process also leaves its crumbs as files in `folder`."""
    global _folder
    _folder = pathlib.Path(folder)


def found(folder: str | os.PathLike | None = None) -> dict[tuple[int, int], tuple[float, str]]:
    """(process, thread) -> (since when, what) of all that is being read; of `folder`'s processes too."""
    crumbs = {(os.getpid(), thread): mark for thread, mark in list(_reading.items())}
    for path in pathlib.Path(folder).iterdir() if folder is not None else ():
        since, _, what = path.read_bytes().decode(errors="replace").strip().partition(" ")
        if what:
            process, _, thread = path.name.partition("-")
            crumbs[int(process), int(thread)] = float(since), what
    return crumbs
