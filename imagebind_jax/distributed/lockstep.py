"""Several hosts that evaluate: none waits in an exchange for another that has failed or reads otherwise."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax

from imagebind_jax.distributed import agreement, failure_detection
from imagebind_jax.errors import UserError, first_line, one_line
from imagebind_jax.storage.fingerprint import json_sha256

FAILED = "failed "


class OutOfStepError(UserError):
    """What all hosts raise together, since one of them has failed, or is where the others are not."""


def lockstep_barrier(where: str, what: Any = None, note: str = "") -> None:
    """Waits for all hosts: the next thing that they do, they do together.

    where: said of a host that is elsewhere, with `note`. what: any JSON that must be the same on all.
    Raises OutOfStepError, on all hosts, where one failed in its `lockstep`, or met elsewhere or for another
    `what`.
    """
    if jax.process_count() > 1:
        _compare(agreement.allgather_text(f"{json_sha256([where, what])} {one_line(where + note)}"))


@contextlib.contextmanager
def lockstep(where: str, kinds: tuple[type[Exception], ...] = (Exception,)) -> Iterator[None]:
    """Where a host's block raises one of these kinds, all raise OutOfStepError: at once those that have yet to
    `lockstep_barrier`, which a block does before everything that hosts do together, and the others at its end.

    An error of the devices is raised as it is, since the others are, and stay, in an exchange.
    """
    try:
        yield
    except OutOfStepError:
        raise
    except kinds as error:
        if jax.process_count() == 1 or is_device_error(error):
            raise
        agreement.allgather_text(f"{FAILED}{describe_error(error)}")
        raise agreement.mark_collective(OutOfStepError(describe_error(error))) from error
    else:
        lockstep_barrier(f"the end of {where}")


def _compare(said: list[str]) -> None:
    for host, text in enumerate(said):
        if text.startswith(FAILED):
            raise agreement.mark_collective(
                OutOfStepError(f"host {host}: {text.removeprefix(FAILED)}")
            )
    places = [text.partition(" ") for text in said]
    for host, (key, _, place) in enumerate(places):
        if key != places[0][0]:
            raise agreement.mark_collective(
                OutOfStepError(
                    f"hosts read other records, or fewer: host 0 is at {places[0][2]}; "
                    f"host {host} at {place}"
                )
            )


def is_device_error(error: Exception) -> bool:
    """Whether it came out of a program of the devices, or of an exchange that broke."""
    # Of the latter JAX makes a bare ValueError.
    broken = (
        type(error) is ValueError
        and failure_detection.COLLECTIVE_ERROR.search(str(error)) is not None
    )
    return broken or isinstance(error, jax.errors.JaxRuntimeError)


def describe_error(error: Exception) -> str:
    """On one line; with its kind, where it is not one of ours."""
    ours = type(error).__module__.startswith("imagebind_jax.")
    return one_line(str(error) if ours else f"{type(error).__name__}: {first_line(error)}", 900)
