"""Files that are never half-written, folders that are checked at the door, locks between processes."""

import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import re
import shutil
import socket
from collections.abc import Iterator
from typing import IO, Any

from imagebind_jax.errors import UserError, one_line


def replace_text(path: pathlib.Path, text: str) -> None:
    """Writes a file at once: a reader sees the old one or the new one."""
    with replaced(path) as file:
        file.write(text.encode())


@contextlib.contextmanager
def replaced(path: pathlib.Path, *, shared: bool = False) -> Iterator[IO[bytes]]:
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


def sealed(said: dict[str, Any]) -> dict[str, Any]:
    """A JSON object with a digest of itself, whatever fields it has or will have."""
    said = json.loads(json.dumps(said))  # as it will be read
    return said | {"seal": _seal(said)}


def unsealed(said: Any) -> dict[str, Any]:
    """The object without its seal, if it has one. Raises ValueError where it was changed since."""
    if not isinstance(said, dict):
        raise ValueError("no object")
    bare = {key: value for key, value in said.items() if key != "seal"}
    if "seal" in said and said["seal"] != _seal(bare):
        raise ValueError("what it says was changed since it was written")
    return bare


def _seal(said: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


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


@contextlib.contextmanager
def locked(path: pathlib.Path, busy: str | None = None) -> Iterator[None]:
    """Holds a lock that the system frees when its process ends, however it ends.

    Waits for another holder or, with `busy`, raises UserError saying so, and who that is.
    """
    with path.open("a+") as file:
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
