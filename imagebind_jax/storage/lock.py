"""Locks between processes."""

import contextlib
import errno
import fcntl
import os
import pathlib
import socket
from collections.abc import Iterator
from typing import IO

from imagebind_jax.errors import UserError, one_line


@contextlib.contextmanager
def file_lock(path: pathlib.Path, busy: str | None = None) -> Iterator[None]:
    """Holds a lock that the system frees when its process ends, however it ends.

    Waits for another holder or, with `busy`, raises UserError saying so, and who that is.
    """
    with _lock_file(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
        except BlockingIOError as error:
            file.seek(0)
            raise UserError(
                f"{busy} ({one_line(file.read(200)) or 'by whom is not known'})"
            ) from error
        file.truncate(0)
        with contextlib.suppress(OSError):  # a full disk
            file.write(f"held by process {os.getpid()} on {socket.gethostname()}")
            file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def _lock_file(path: pathlib.Path) -> IO[str]:
    """It will be emptied: no link is followed to a file that may be another's."""
    try:
        return open(
            path, "a+", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o666)
        )
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EISDIR):
            raise
        raise UserError(
            f"{path} is a link or a folder, where a lock should be: remove it"
        ) from error
