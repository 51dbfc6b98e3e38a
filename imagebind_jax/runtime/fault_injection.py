"""Faults on purpose, for tests: IBJ_FAULT says what goes wrong and when; unset, nothing here does anything.

    IBJ_FAULT="kind=kill,step=20,host=1"        several are parted by ";"

kind: one of KINDS. step: the step that it happens at (default 0). steps: how many in a row (1). host:
the only one it happens on (default: every one). seconds: of a sleep (default: for ever).
"""

import dataclasses
import functools
import math
import os
import signal
import time

from imagebind_jax.errors import UserError

ENV_VAR = "IBJ_FAULT"
SIGNALS = {
    "kill": signal.SIGKILL,
    "crash": signal.SIGSEGV,
    "sigstop": signal.SIGSTOP,
    "sigterm": signal.SIGTERM,
    "sigint": signal.SIGINT,
}
# The first row happens to a process, by `inject_process_faults`; the others are asked for where they are made.
KINDS = (*SIGNALS, "raise", "sleep",
         "nan_batch", "inf_batch", "nan_loss", "nan_grad", "inf_grad", "spike", "bitflip",
         "disk_full")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class InjectedFault:
    """One line of IBJ_FAULT."""

    kind: str
    step: int = 0
    steps: int = 1
    host: int | None = None
    seconds: float = math.inf

    def at(self, step: int) -> bool:
        """Whether it happens at this step."""
        return self.step <= step < self.step + self.steps


class InjectedError(RuntimeError):
    """What `kind=raise` raises: no mistake of a user's."""


def requested_faults(*kinds: str, host: int = 0) -> list[InjectedFault]:
    """The faults of these kinds that IBJ_FAULT asks for on this host. Raises UserError."""
    text = os.environ.get(ENV_VAR, "")
    found = _parsed(text) if text else ()
    return [fault for fault in found if fault.kind in kinds and fault.host in (None, host)]


def inject_process_faults(step: int, host: int = 0) -> None:
    """Does to this process what is asked for at this step."""
    for fault in requested_faults(*SIGNALS, "raise", "sleep", host=host):
        if not fault.at(step):
            continue
        if fault.kind == "raise":
            raise InjectedError(f"injected at step {step}")
        if fault.kind == "sleep":
            time.sleep(min(fault.seconds, 1e6))
        else:
            os.kill(os.getpid(), SIGNALS[fault.kind])


@functools.cache
def _parsed(text: str) -> tuple[InjectedFault, ...]:
    return tuple(_fault(part) for part in text.split(";") if part.strip())


def _fault(part: str) -> InjectedFault:
    types = {"kind": str, "step": int, "steps": int, "host": int, "seconds": float}
    given = {}
    for item in part.split(","):
        name, _, value = item.strip().partition("=")
        try:
            given[name] = types[name](value)
        except (KeyError, ValueError) as error:
            raise UserError(f"{ENV_VAR}: {item.strip()!r} is none of {', '.join(types)}") from error
    if given.get("kind") not in KINDS:
        raise UserError(f"{ENV_VAR}: kind {given.get('kind')!r} is none of {', '.join(KINDS)}")
    return InjectedFault(**given)
