"""A checkpoint on disk: a folder named by its step, whole once its commit file stands in it."""

import contextlib
import errno
import json
import os
import pathlib
import re
import shutil
from typing import Any

from imagebind_jax.errors import UserError, first_line
from imagebind_jax.storage import checksummed

FORMAT = 2  # 1: without a seal
COMMITTED = "commit_success.txt"  # the file of a step that orbax writes last
_STEP = re.compile("0|[1-9][0-9]{0,17}")
META = pathlib.Path("meta", "metadata")
_PROBE = ".writable"
_MARK = re.compile(r"\.(saving|removing)-(0|[1-9][0-9]{0,17})")
_MAX_META = 64 << 20  # bytes
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
# What a damaged or deleted part of a step gives; any other number is of the system.
_NOT_THERE = (
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.EINVAL,
)
_PASSING = (
    errno.EIO, errno.ESTALE, errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ETIMEDOUT,
    errno.ENODEV, errno.ENXIO, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENOTCONN, errno.ECONNRESET,
)  # fmt: skip


class CheckpointError(UserError):
    """A checkpoint that cannot be used; the message says which and why."""


class CorruptCheckpointError(CheckpointError):
    """A checkpoint whose bytes are not the ones that were saved."""

    code = 4


class UnreadableCheckpointError(CheckpointError):
    """A checkpoint that the system does not give out now; it may well be whole."""

    code = 1


# In the order in which they count where hosts have different ones.
ERROR_PRIORITY = (CheckpointError, UnreadableCheckpointError, CorruptCheckpointError)


def committed_steps(folder: pathlib.Path) -> list[int]:
    """The steps that are whole, newest first."""
    steps = [int(each.name) for each in folder.iterdir() if _STEP.fullmatch(each.name)]
    return sorted((s for s in steps if (folder / str(s) / COMMITTED).is_file()), reverse=True)


def remove_incomplete(folder: pathlib.Path) -> list[str]:
    """Removes what a save or a deletion that was cut off has left, and nothing else.

    A step of ours that has lost its commit file is set aside; returns a line for each. Raises
    CheckpointError where a folder is named as a step and is none.
    """
    for each in folder.iterdir():
        mark = _MARK.fullmatch(each.name)
        if mark and mark[1] == "saving" and (folder / mark[2] / COMMITTED).is_file():
            each.unlink()  # it was committed
        elif mark:
            delete_step(folder / mark[2])
        elif each.name.startswith(_PROBE) or ".orbax-checkpoint-tmp" in each.name:
            shutil.rmtree(each, ignore_errors=True)
    lines = []
    for each in sorted(folder.iterdir()):
        if _STEP.fullmatch(each.name) and not (each / COMMITTED).is_file():
            if not (each / META).is_file():
                raise CheckpointError(
                    f"{each} is named as a checkpoint of this run and is none: move it away, or "
                    "choose another --out"
                )
            aside = quarantine(each)
            lines.append(f"checkpoint {each.name} has lost its commit file: renamed {aside.name}")
    return lines


def mark_in_progress(step: pathlib.Path, what: str = "saving") -> None:
    """Says that a step is half-written from here on: else nobody may remove it. Raises OSError."""
    if what == "saving":
        _mark(step, "removing").unlink(missing_ok=True)
    _mark(step, what).touch()
    _sync(step.parent)


def clear_mark(step: pathlib.Path) -> None:
    """The step is whole."""
    _mark(step, "saving").unlink(missing_ok=True)


def _mark(step: pathlib.Path, what: str) -> pathlib.Path:
    return step.with_name(f".{what}-{step.name}")


def delete_step(step: pathlib.Path) -> None:
    """Deletes a step; what is left where it is cut off in between is known by its mark."""
    with contextlib.suppress(OSError):  # a full disk, which this is to help
        mark_in_progress(step, "removing")
    delete_failed_save(step)
    if not step.exists():
        clear_mark(step)
        _mark(step, "removing").unlink(missing_ok=True)


def delete_failed_save(step: pathlib.Path) -> None:
    """Deletes what a save that failed has left. Its mark stays: threads of it may still write."""
    (step / COMMITTED).unlink(missing_ok=True)
    shutil.rmtree(step, ignore_errors=True)


def quarantine(step: pathlib.Path) -> pathlib.Path:
    """Renames a damaged step, which counts no more, and is the user's to delete: its new place."""
    aside, number = step.with_name(f"{step.name}.damaged"), 1
    while aside.exists() or aside.is_symlink():
        number += 1
        aside = step.with_name(f"{step.name}.damaged.{number}")
    step.rename(aside)
    _sync(step.parent)
    return aside


def quarantined_steps(folder: pathlib.Path) -> list[str]:
    """What was set aside there."""
    return sorted(each.name for each in folder.glob("[0-9]*.damaged*"))


def fsync_tree(step: pathlib.Path) -> None:
    """Returns when a power cut would leave all of a step in its place. Raises OSError."""
    for parent, _, names in os.walk(step, topdown=False):
        for name in names:
            _sync(os.path.join(parent, name))
        _sync(parent)
    _sync(step.parent)


def _sync(path: str | os.PathLike) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def space_problem(folder: pathlib.Path, size: int, host: int) -> str:
    """Why a step of `size` bytes cannot be written into the folder, or ""."""
    probe = folder / f"{_PROBE}{host}"
    try:
        free = shutil.disk_usage(folder).free
        probe.mkdir(exist_ok=True)  # as of a step
        probe.rmdir()
    except OSError as error:
        return f"{folder}: {write_error_reason(error)}"
    if free >= 1.1 * size:
        return ""
    return (
        f"no space left on device: a checkpoint takes {_amount(size)} and "
        f"{folder} has {_amount(free)} free"
    )


def _amount(size: int) -> str:
    return f"{size / 1e6:,.0f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"


def write_error_reason(error: Exception) -> str:
    """Why something could not be written, in the words of the system where they are known."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return _of_system(error, _FULL) or f"{type(error).__name__}: {first_line(error)}"


def transient_io_error(error: BaseException | None) -> str:
    """What the system says that keeps something from being read and is no damage to it, or ""."""
    while error is not None:
        if isinstance(error, OSError) and error.errno not in (None, *_NOT_THERE):
            return os.strerror(error.errno).lower()
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
            return "out of memory"
        if said := _of_system(error, _PASSING):
            return said
        error = error.__cause__ or error.__context__
    return ""


def _of_system(error: BaseException, codes: tuple[int, ...]) -> str:
    """Libraries pass on the system's words, and not its numbers."""
    text = str(error).lower()
    return next((said for said in map(_words, codes) if said in text), "")


def _words(code: int) -> str:
    return os.strerror(code).lower()


def read_meta(step: pathlib.Path) -> dict[str, Any]:
    """What was saved beside the state of a step, `checksummed.add_checksum`: format number and all.

    Raises CorruptCheckpointError where it is not what was saved or not committed, CheckpointError where
    a newer version wrote it, UnreadableCheckpointError.
    """
    try:
        if not (step / COMMITTED).is_file():
            raise CorruptCheckpointError(f"checkpoint {step.name}: it is not committed")
        with (step / META).open("rb") as file:
            said = json.loads(file.read(_MAX_META))
        # The seal first, and of every format to come: a changed number is damage, not a version.
        meta = checksummed.verify_checksum(said)
        number = meta["format"]
        if type(number) is not int or ("seal" in said) != (number > 1):
            raise ValueError("not what was saved")
        if number > FORMAT:
            raise CheckpointError(
                f"checkpoint {step.name} was written by a newer version (format {number}, this one "
                f"reads up to {FORMAT}): update imagebind-jax"
            )
        if meta["step"] != int(step.name) or not isinstance(meta["digest"], dict):
            raise ValueError(f"of step {meta['step']!r}")
        return meta
    except CheckpointError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise classify_read_error(step, "its meta is damaged", error) from error


def classify_read_error(step: pathlib.Path, what: str, error: Exception) -> CheckpointError:
    """What an error in reading a step is: passing, or else damage."""
    if why := transient_io_error(error):
        return UnreadableCheckpointError(
            f"checkpoint {step.name} cannot be read ({why}): start the same command again; where "
            f"it stays so, rename {step}, and the one before is used"
        )
    why = (error.strerror if isinstance(error, OSError) else "") or str(error)
    return CorruptCheckpointError(f"checkpoint {step.name}: {what} ({' '.join(why.split())[:200]})")
