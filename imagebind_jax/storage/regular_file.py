"""Open files of others: regular ones alone, of a bounded size, without waiting for anything."""

import io
import os
import stat

from imagebind_jax.errors import UserError


class RefusedFileError(UserError):
    """A file that is not opened; the message is the reason, without the file's name."""


def open_regular_file(path: str | os.PathLike, max_bytes: int) -> io.BufferedReader:
    """Open a regular file of 1 to `max_bytes` bytes for reading.

    Raises RefusedFileError on a folder, FIFO or device, and on an empty or too large file; OSError.
    """
    # Without O_NONBLOCK the mere opening of a FIFO hangs.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise RefusedFileError("a folder, not a regular file: give its files")
        if not stat.S_ISREG(status.st_mode):
            raise RefusedFileError("not a regular file")
        if status.st_size == 0:
            raise RefusedFileError("empty: 0 bytes")
        if status.st_size > max_bytes:
            raise RefusedFileError(f"{status.st_size} bytes are more than {max_bytes}")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise
