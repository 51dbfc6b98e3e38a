"""The one exception for mistakes that a user can mend: a command line prints it as one line, exit 2."""


class UserError(ValueError):
    """Something was asked that cannot be done; the message names the value and the remedy."""
