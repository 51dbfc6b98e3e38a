"""Files that are never half-written, folders that are checked at the door, locks between processes."""

import contextlib
import fcntl
import hashlib
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import IO

from imagebind_jax.errors import UserError


def replace_text(path: pathlib.Path, text: str) -> None:
    """Writes a file at once: a reader sees the old one or the new one."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def replaced(path: pathlib.Path) -> Iterator[IO[bytes]]:
    """A file to write, which takes the place of `path` at once and only if all went well."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(folder: pathlib.Path, remedy: str) -> Iterator[pathlib.Path]:
    """A folder to fill, which takes `folder`'s place at the end of the block, or is gone.

    One process at a time: see `locked`. Raises UserError, with the remedy, where it cannot be written.
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
    probe = folder / ".writable"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}; {remedy}") from error


@contextlib.contextmanager
def locked(path: pathlib.Path, busy: str | None = None) -> Iterator[None]:
    """Holds a lock that the system frees when its process ends, however it ends.

    Waits for another holder or, with `busy`, raises UserError saying so.
    """
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
        except BlockingIOError as error:
            raise UserError(busy or "") from error
        yield
