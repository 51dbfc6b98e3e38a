"""The one exception for mistakes that a user can mend: a command line prints it as one line, exit 2."""


class UserError(ValueError):
    """Something was asked that cannot be done; the message names the value and the remedy."""


class Stopped(RuntimeError):
    """The run cannot go on, and parts of it may hang: the process ends at once, exit 1, with this line."""


def one_line(text: str, limit: int = 50_000) -> str:
    """Printable, on one line, not longer than `limit`: names out of files may be anything."""
    line = " ".join(text.split())
    line = line if line.isprintable() else line.encode("unicode_escape").decode()
    return line if len(line) <= limit else f"{line[:limit]} ..."


def first_line(error: Exception) -> str:
    """What a library's error says, as far as it fits into a line of ours."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
