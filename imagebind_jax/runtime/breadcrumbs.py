"""What each thread is reading right now, told before it is read: whoever is stuck or dead left a crumb."""

import contextlib
import os
import pathlib
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any

from imagebind_jax.errors import FatalRunError, UserError
from imagebind_jax.storage import lock

_here = threading.local()  # trail: of this thread, if any; descriptor: of its file
_folder: pathlib.Path | None = None  # where another process looks for ours
PREFIX, LOCK = "imagebind_jax_", "lock"
GRACE_SECONDS = 60  # seconds in which a folder may not be locked yet
LENGTH = 1024  # bytes of a crumb in its file: one write, never half of two


@contextlib.contextmanager
def breadcrumb_dir() -> Iterator[str]:
    """For the crumbs of worker processes. Those whose owner was killed, so that nobody holds their
    locks, are removed."""
    for left in pathlib.Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError, UserError):
            if time.time() - left.stat().st_mtime > GRACE_SECONDS:
                with lock.file_lock(left / LOCK, "its owner lives"):
                    shutil.rmtree(left)
    with (
        tempfile.TemporaryDirectory(prefix=PREFIX) as folder,
        lock.file_lock(pathlib.Path(folder, LOCK)),
    ):
        yield folder


class ReadTracker:
    """The crumbs of one stream, whose readers are threads of this process or worker processes.

    Streams beside each other, as training's and an evaluation's, have a trail each: what one is
    stuck with, even after it was given up, says nothing of the others.
    """

    def __init__(self, folder: str | os.PathLike | None = None):
        """folder: where worker processes leave theirs, if there are any."""
        self.folder = pathlib.Path(folder) if folder is not None else None
        self.threads: set[int] = set()  # that ever read for it, in this process
        self.over = False  # nobody waits for what is read any more
        self._reading: dict[int, tuple[float, str]] = {}  # thread -> (since when, what)

    @contextlib.contextmanager
    def followed(self) -> Iterator[None]:
        """What this thread notes in the block belongs to this trail."""
        before = getattr(_here, "trail", _nobodys)
        _here.trail = self
        self.threads.add(threading.get_ident())
        try:
            yield
        finally:
            _here.trail = before

    def found(self) -> dict[tuple[int, int], tuple[float, str]]:
        """(process, thread) -> (since when, what) of all that is being read."""
        crumbs = {(os.getpid(), thread): mark for thread, mark in list(self._reading.items())}
        for path in self._files():
            since, _, what = path.read_bytes().decode(errors="replace").strip().partition(" ")
            if what:
                process, _, thread = path.name.partition("-")
                crumbs[int(process), int(thread)] = float(since), what
        return crumbs

    @property
    def begun(self) -> bool:
        """Whether a worker process, where there are any, has come to its first record."""
        return self.folder is None or bool(self._files())

    def processes(self) -> set[int]:
        """The worker processes that have begun, however they are now."""
        return {int(path.name) for path in self._files("*[0-9]") if path.name.isdecimal()}

    def _files(self, pattern: str = "*-*") -> list[pathlib.Path]:
        return list(self.folder.glob(pattern)) if self.folder is not None else []

    def _note(self, thread: int, what: str) -> None:
        if what:
            self._reading[thread] = time.monotonic(), what
        else:
            self._reading.pop(thread, None)


class TrackedSource:
    """A source of elements, read by threads of this process, whose crumbs are on a trail."""

    def __init__(self, elements: Any, trail: ReadTracker):
        self._elements, self._trail = elements, trail

    def __len__(self) -> int:
        return len(self._elements)

    def __getitem__(self, index: int) -> Any:
        if self._trail.over:  # what was to be read ahead, behind a record that is stuck
            raise FatalRunError("nobody waits for this any more")
        with self._trail.followed():
            return self._elements[index]


_nobodys = ReadTracker()  # of threads that read for no stream, and of worker processes


def set_current_read(what: str) -> None:
    """This thread begins to read `what`; "" when it is done with it."""
    thread = threading.get_ident()
    getattr(_here, "trail", _nobodys)._note(thread, what)
    if _folder is not None:
        if not hasattr(_here, "descriptor"):
            path = _folder / f"{os.getpid()}-{thread}"
            _here.descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        line = f"{time.monotonic():.3f} {what}" if what else ""
        text = line.encode(errors="replace")[:LENGTH].ljust(LENGTH)
        os.pwrite(_here.descriptor, text, 0)


def set_current_file(what: str) -> None:
    """The same, of a part of what this thread has noted: a file. Nothing where nothing is noted."""
    if threading.get_ident() in getattr(_here, "trail", _nobodys)._reading:
        set_current_read(what)


def share_reads_via(folder: str | os.PathLike) -> None:
    """From here on this process also leaves its crumbs as files in `folder`, of a `ReadTracker`."""
    global _folder
    _folder = pathlib.Path(folder)
    (_folder / str(os.getpid())).touch()
