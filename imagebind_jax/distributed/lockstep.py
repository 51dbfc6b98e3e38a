"""Several hosts that evaluate: none waits in an exchange for another that has failed or reads otherwise."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax

from imagebind_jax.distributed import agreement, failure_detection
from imagebind_jax.errors import UserError, first_line, one_line
from imagebind_jax.storage.fingerprint import digest

FAILED = "failed "


class Apart(UserError):
    """What all hosts raise together, since one of them has failed, or is where the others are not."""


def meet(where: str, what: Any = None, note: str = "") -> None:
    """Waits for all hosts: the next thing that they do, they do together.

    where: said of a host that is elsewhere, with `note`. what: any JSON that must be the same on all.
    Raises Apart, on all hosts, where one failed in its `together`, or met elsewhere or for another
    `what`.
    """
    if jax.process_count() > 1:
        _compare(agreement.of_all(f"{digest([where, what])} {one_line(where + note)}"))


@contextlib.contextmanager
def together(where: str, kinds: tuple[type[Exception], ...] = (Exception,)) -> Iterator[None]:
    """Where a host's block raises one of these kinds, all raise Apart: at once those that have yet to
    `meet`, which a block does before everything that hosts do together, and the others at its end.

    An error of the devices is raised as it is, since the others are, and stay, in an exchange.
    """
    try:
        yield
    except Apart:
        raise
    except kinds as error:
        if jax.process_count() == 1 or of_devices(error):
            raise
        agreement.of_all(f"{FAILED}{described(error)}")
        raise agreement.as_all(Apart(described(error))) from error
    else:
        meet(f"the end of {where}")


def _compare(said: list[str]) -> None:
    for host, text in enumerate(said):
        if text.startswith(FAILED):
            raise agreement.as_all(Apart(f"host {host}: {text.removeprefix(FAILED)}"))
    places = [text.partition(" ") for text in said]
    for host, (key, _, place) in enumerate(places):
        if key != places[0][0]:
            raise agreement.as_all(
                Apart(
                    f"hosts read other records, or fewer: host 0 is at {places[0][2]}; "
                    f"host {host} at {place}"
                )
            )


def of_devices(error: Exception) -> bool:
    """Whether it came out of a program of the devices, or of an exchange that broke."""
    # Of the latter JAX makes a bare ValueError.
    broken = type(error) is ValueError and failure_detection.EXCHANGE.search(str(error)) is not None
    return broken or isinstance(error, jax.errors.JaxRuntimeError)


def described(error: Exception) -> str:
    """On one line; with its kind, where it is not one of ours."""
    ours = type(error).__module__.startswith("imagebind_jax.")
    return one_line(str(error) if ours else f"{type(error).__name__}: {first_line(error)}", 900)
