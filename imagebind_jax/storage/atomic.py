"""Files that are never half-written, and folders that are checked before anything slow begins."""

import contextlib
import errno
import hashlib
import json
import os
import pathlib
import re
import shutil
from collections.abc import Iterator
from typing import IO, Any

from imagebind_jax.errors import UserError

DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_text_atomic(path: pathlib.Path, text: str) -> None:
    """Writes a file at once: a reader sees the old one or the new one."""
    with atomic_write(path) as file:
        file.write(text.encode())


def append_or_buffer(file: IO[bytes], text: bytes) -> bytes:
    """Writes to an unbuffered file; returns what a full disk had no room for, to be given again first."""
    try:
        while text:
            text = text[file.write(text) :]
    except OSError as error:
        if error.errno not in DISK_FULL_ERRNOS:
            raise
    return text


def read_jsonl_lenient(path: pathlib.Path) -> Iterator[dict[str, Any]]:
    """The JSON objects in a file, one a line; damaged lines are left out, as one cut short by a crash."""
    for text in path.read_text(errors="replace").splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError, RecursionError):  # a number of 5,000 digits; [[[[
            line = json.loads(text)
            if isinstance(line, dict):
                yield line


@contextlib.contextmanager
def atomic_write(path: pathlib.Path, *, shared: bool = False) -> Iterator[IO[bytes]]:
    """A file to write, which takes the place of `path` at once and only if all went well.

    shared: other processes may write the same one meanwhile; the last one stays.
    """
    partial = path.with_name(f"{path.name}{f'.{os.getpid()}' if shared else ''}.partial")
    try:
        with partial.open("w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        if error.errno in DISK_FULL_ERRNOS and error.filename is None:  # as of a write
            error.filename = str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_dir(folder: pathlib.Path, remedy: str) -> Iterator[pathlib.Path]:
    """A folder to fill, which takes `folder`'s place at the end of the block, or is gone.

    One process at a time: see `lock.file_lock`. Raises UserError, with the remedy, where it cannot be written.
    """
    partial = folder.with_name(f"{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
        partial.mkdir(parents=True)
        yield partial
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}; {remedy}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def sha256(path: pathlib.Path) -> str:
    """The digest of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_writable(folder: pathlib.Path, remedy: str) -> None:
    """Makes the folder. Raises UserError, with the remedy, where nothing can be written into it."""
    if re.match(r"\w{2,}:/", str(folder)):  # as a path has lost one of gs://'s
        raise UserError(f"{folder} is the address of a bucket: mount it as a folder (docs/pods.md)")
    probe = folder / ".writable"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}; {remedy}") from error
