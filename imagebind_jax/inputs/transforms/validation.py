"""Checks of a transform's settings: what cannot work is refused where it is said, not where it is used."""

import math
import numbers
from typing import Any

from imagebind_jax.errors import UserError


def check_int(least: int = 1, **settings: Any) -> None:
    """Raises UserError for one that is no whole number of at least `least`."""
    for name, value in settings.items():
        whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        if not (whole and int(value) >= least):
            raise UserError(
                f"{name} must be a whole number, {least} or more, and not {value!r:.80}"
            )


def check_positive(**settings: Any) -> None:
    """Raises UserError for one that is no finite number above 0."""
    for name, value in settings.items():
        if not (_is_finite(value) and value > 0):
            raise UserError(f"{name} must be positive, a finite number, and not {value!r:.80}")


def check_finite(**settings: Any) -> None:
    """Raises UserError for one that is no finite number."""
    for name, value in settings.items():
        if not _is_finite(value):
            raise UserError(f"{name} must be a finite number, and not {value!r:.80}")


def _is_finite(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return False
    return math.isfinite(value)
