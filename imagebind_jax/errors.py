"""The errors that a command line prints as one line, each with its exit code; and lines in which to say things."""

RESTART_HINT = "restart with the same command"


class UserError(ValueError):
    """Something was asked that cannot be done; the message names the value and the remedy."""

    code = 2


class BadRecordLimitError(UserError):
    """More records than a config allows could not be used."""

    code = 3


class CheckpointWriteError(UserError):
    """Checkpoints could not be written, several times in a row: going on would risk all that is done."""

    code = 5


class TrainingDivergedError(UserError):
    """Steps without a finite loss or gradient, more in a row than can be skipped."""

    code = 6


class Preemption(Exception):
    """The run was asked to stop, and has: an end without a mistake, of which the message says what is kept."""

    code = 0


class FatalRunError(RuntimeError):
    """The run cannot go on, and parts of it may hang: the process ends at once with this line."""

    code = 1


class ProcessLostError(FatalRunError):
    """Another host of the run is gone."""

    code = 70


class StepTimeoutError(FatalRunError):
    """A step takes far longer than steps do: some host hangs."""

    code = 76


def one_line(text: str, limit: int = 50_000) -> str:
    """Printable, on one line, not longer than `limit`: names out of files may be anything."""
    line = " ".join(text.split())
    line = line if line.isprintable() else line.encode("unicode_escape").decode()
    return line if len(line) <= limit else f"{line[:limit]} ..."


def first_line(error: Exception) -> str:
    """What a library's error says, as far as it fits into a line of ours."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
