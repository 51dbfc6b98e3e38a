"""A checkpoint on disk: a folder named by its step, whole once its commit file stands in it."""

import errno
import hashlib
import json
import os
import pathlib
import re
import shutil
from typing import Any

from imagebind_jax.errors import UserError, first_line

FORMAT = 2  # 1: without a seal
COMMITTED = "commit_success.txt"  # the file of a step that orbax writes last
_STEP = re.compile("0|[1-9][0-9]{0,17}")
_PROBE = ".writable"
_MAX_META = 64 << 20  # bytes


class CheckpointError(UserError):
    """A checkpoint that cannot be used; the message says which and why."""


class CheckpointCorrupt(CheckpointError):
    """A checkpoint whose bytes are not the ones that were saved."""

    code = 4


def committed(folder: pathlib.Path) -> list[int]:
    """The steps that are whole, newest first."""
    steps = [int(each.name) for each in folder.iterdir() if _STEP.fullmatch(each.name)]
    return sorted((s for s in steps if (folder / str(s) / COMMITTED).is_file()), reverse=True)


def clean(folder: pathlib.Path) -> None:
    """Removes what a save or a deletion that was cut off has left."""
    for probe in folder.glob(f"{_PROBE}*"):
        probe.unlink(missing_ok=True)
    for each in folder.iterdir():
        half = _STEP.fullmatch(each.name) and not (each / COMMITTED).exists()
        if each.is_dir() and (half or ".orbax-checkpoint-tmp" in each.name):
            shutil.rmtree(each, ignore_errors=True)


def remove(step: pathlib.Path) -> None:
    """Deletes a step; one that is cut off in between leaves a step that is not listed."""
    (step / COMMITTED).unlink(missing_ok=True)
    if step.is_dir():
        _sync(step)  # else a power cut could bring the commit file back, and not the rest
        shutil.rmtree(step, ignore_errors=True)


def sync(step: pathlib.Path) -> None:
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


def lacking(folder: pathlib.Path, size: int, host: int) -> str:
    """Why a step of `size` bytes cannot be written into the folder, or ""."""
    probe = folder / f"{_PROBE}{host}"
    try:
        free = shutil.disk_usage(folder).free
        probe.touch()
        probe.unlink()
    except OSError as error:
        return f"{folder}: {reason(error)}"
    if free >= 1.1 * size:
        return ""
    return (
        f"no space left on device: a checkpoint takes {size / 1e6:.0f} MB and "
        f"{folder} has {free / 1e6:.0f} MB free"
    )


def reason(error: Exception) -> str:
    """Why something could not be written, in the words of the system where they are known."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO):
        if os.strerror(code).lower() in str(error).lower():
            return os.strerror(code).lower()
    return f"{type(error).__name__}: {first_line(error)}"


# ---- what is said beside the state


def sealed(meta: dict[str, Any]) -> dict[str, Any]:
    """JSON with a digest of itself, which `read_meta` verifies."""
    meta = json.loads(json.dumps(meta))  # as it will be read
    return meta | {"seal": _seal(meta)}


def _seal(meta: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


def read_meta(step: pathlib.Path) -> dict[str, Any]:
    """What was saved beside the state of a step, format number and all.

    Raises CheckpointCorrupt where it is not what was saved, CheckpointError where a newer version
    wrote it.
    """
    try:
        with (step / "meta" / "metadata").open("rb") as file:
            meta = json.loads(file.read(_MAX_META))
        if not isinstance(meta, dict):
            raise TypeError("no object")
        seal, number = meta.pop("seal", None), meta.get("format")
        if type(number) is not int or number < 1:
            raise ValueError(f"format {number!r}")
        if number > FORMAT:
            raise CheckpointError(
                f"checkpoint {step.name} was written by a newer version (format {number}, this one "
                f"reads up to {FORMAT}): update imagebind-jax"
            )
        if number > 1 and seal != _seal(meta):
            raise ValueError("not what was saved")
        if meta["step"] != int(step.name) or not isinstance(meta["digest"], dict):
            raise ValueError(f"of step {meta['step']!r}")
        return meta
    except CheckpointError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise CheckpointCorrupt(
            f"checkpoint {step.name}: its meta is damaged ({' '.join(str(why).split())[:200]})"
        ) from error
