"""Files that are never half-written, folders that are checked at the door, locks between processes."""

import contextlib
import fcntl
import pathlib
from collections.abc import Iterator

from imagebind_jax.errors import UserError


def replace_text(path: pathlib.Path, text: str) -> None:
    """Writes a file at once: a reader sees the old one or the new one."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


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
