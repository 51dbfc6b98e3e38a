"""How a command ends: for everything that can happen, one line and the exit code of docs/running.md."""

import errno
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from typing import NamedTuple

from imagebind_jax.errors import FatalRunError, Preemption, UserError, one_line
from imagebind_jax.runtime import console

# What the machine, and not the program, is to be blamed for.
ENVIRONMENT_ERRNOS = {
    errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS,
    errno.EEXIST, errno.ENOTDIR, errno.EISDIR,  # a file where a folder should be, or the reverse
}  # fmt: skip
DISK_FULL_MESSAGE = "No space left on device"


class ExitStatus(NamedTuple):
    """What is said, and the exit code; `at_once`: threads may hang that an exit would wait for."""

    line: str
    code: int
    at_once: bool = False


def exit_status(error: BaseException, arguments: Sequence[str]) -> ExitStatus:
    """The end that an exception is to the command with these arguments."""
    if isinstance(error, (UserError, Preemption)):
        return ExitStatus(str(error), error.code)
    if isinstance(error, FatalRunError):
        return ExitStatus(str(error), error.code, at_once=True)
    if isinstance(error, KeyboardInterrupt):
        goes_on = "; the same command goes on from the last committed step"
        on = "; the same command goes on"
        others = {
            "convert": "",
            "prepare": on,
            "evaluate": on,
            "ablate": on,
            "embed": on,
            "search": "",
            "page": "",
        }
        # JAX crashes if it is torn down while it compiles.
        of_jax = (
            arguments[0] in ("train", "demo", "evaluate", "embed", "search")
            or "--anchors" in arguments
        )
        return ExitStatus(f"stopped{others.get(arguments[0], goes_on)}", 1, at_once=of_jax)
    if isinstance(error, OSError) and error.errno in ENVIRONMENT_ERRNOS:
        name = f"{error.filename}: " if error.filename else ""
        return ExitStatus(f"{name}{error.strerror}", 2)
    if DISK_FULL_MESSAGE in str(error):
        return ExitStatus(f"no space left on device ({str(error).splitlines()[0][:300]})", 2)
    said = (str(error).strip() or "no message").splitlines()[0][:300]
    return ExitStatus(f"{type(error).__name__}: {said} (its trace: {_write_traceback(error)})", 1)


def report_and_exit(ending: ExitStatus) -> int:
    """Says it, last, and returns the exit code; or ends the process, where that cannot wait."""
    line = one_line(ending.line)
    if not ending.code:
        console.print_line(line)
        return 0
    _tell_other_hosts(line, ending.code)
    console.print_error(line)
    if ending.at_once:
        console.flush_streams()
        os._exit(ending.code)
    return ending.code


def _tell_other_hosts(line: str, code: int) -> None:
    """Ends this process here, where it is one of several."""
    jax = sys.modules.get("jax")
    if jax is not None and jax.distributed.is_initialized():
        from imagebind_jax.distributed import initialize

        initialize.abort_all(line, code)


def _write_traceback(error: BaseException) -> str:
    """The file that holds what only a developer wants to read."""
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="imagebind_jax_", suffix=".txt", delete=False
        ) as file:
            file.write("".join(traceback.format_exception(error)))
            return file.name
    except OSError:
        return "nowhere to keep it; --debug shows it"
