"""MATLAB files of version 5, in which some official splits and tables come."""

import pathlib
from typing import Any

from imagebind_jax.errors import UserError


def variable(path: pathlib.Path, name: str) -> Any:
    """One variable, its structs as dicts and its cells as arrays. Raises UserError."""
    from scipy import io

    try:
        found = io.loadmat(path, variable_names=[name], simplify_cells=True)
    except Exception as error:  # scipy raises whatever the bytes lead it to
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"cannot read {path} as a MATLAB file of version 5: {reason}") from error
    if name not in found:
        raise UserError(f"{path} has no variable {name!r}: is it another file of that name?")
    return found[name]
