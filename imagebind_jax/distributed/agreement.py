"""What all processes do together, and agree on."""

import contextlib
import hashlib
import os
import pathlib
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from imagebind_jax.distributed.initialize import collective_errors
from imagebind_jax.errors import UserError, one_line
from imagebind_jax.storage import lock

SHARED_FS_TIMEOUT = (
    30  # seconds until what one host writes must be seen by all: network file systems cache
)
Result = TypeVar("Result")


def is_main_process() -> bool:
    """Whether this is host 0, which alone writes what is written once."""
    return jax.process_index() == 0


def log_nothing(line: str) -> None:
    """In place of `print` on the hosts for which the first tells."""


def raise_on_all(do: Callable[[], Result], kinds: Sequence[type[UserError]] = ()) -> Result:
    """do() of this host. Where it raises UserError on any host, one is raised on all of them.

    kinds: where hosts have different ones, all raise the first of these that one has; else each its
    own.
    """
    if jax.process_count() == 1:
        return do()
    mistake: UserError | None = None
    try:
        result = do()
    except UserError as error:
        mistake = error
    texts = allgather_text("" if mistake is None else f"{mistake.code} {mistake}")
    said = [(host, *text.partition(" ")) for host, text in enumerate(texts) if text]
    if not said:
        return result
    types = {str(kind.code): kind for kind in kinds}
    codes = [code for _, code, _, _ in said]
    wanted = next((code for code in types if code in codes), codes[0])
    if mistake is None or (kinds and str(mistake.code) != wanted):
        host, code, _, line = next(each for each in said if each[1] == wanted)
        mistake = types.get(code, UserError)(f"host {host}: {line}")
        mistake.code = int(code)
    raise mark_collective(mistake)


def mark_collective(mistake: UserError) -> UserError:
    """The mistake, which all hosts raise now: none of them is taken for lost."""
    collective_errors.add(one_line(str(mistake)))
    return mistake


def allgather_text(text: str, limit: int = 1000) -> list[str]:
    """The text of each host, on one line and cut to `limit` bytes."""
    if jax.process_count() == 1:
        return [text]
    collective_errors.clear()  # of what was raised together this host has caught
    row = np.zeros(limit, np.uint8)
    said = one_line(text).encode()[:limit]
    row[: len(said)] = np.frombuffer(said, np.uint8)
    rows = multihost_utils.process_allgather(row)
    return [bytes(each).rstrip(b"\0").decode(errors="ignore") for each in np.asarray(rows)]


def assert_same_on_all(what: str, value: str) -> None:
    """Raises UserError on all hosts, naming those that differ, where `value` is not the same on all."""
    found = allgather_text(hashlib.sha256(value.encode()).hexdigest())
    others = [host for host, each in enumerate(found) if each != found[0]]
    if others:
        named = ", ".join(map(str, others[:5])) + (", ..." if len(others) > 5 else "")
        differ = f"host {named}: not host 0's {what}: "
        raise mark_collective(
            UserError(f"{differ}every host needs the same config, and the same files")
        )


def allreduce_sum(number: int) -> int:
    """The sum over all hosts."""
    return sum(map(int, allgather_text(str(number))))


def assert_shared_dir(folder: pathlib.Path) -> None:
    """Raises UserError, on all hosts, unless all see what host 0 writes into the folder."""
    if jax.process_count() == 1:
        return
    path, word = folder / ".hosts", allgather_text(uuid.uuid4().hex)[0]
    if is_main_process():
        path.write_text(word)

    def see() -> None:
        until = time.monotonic() + SHARED_FS_TIMEOUT
        while not path.exists() or path.read_text() != word:
            if time.monotonic() > until:
                raise UserError(
                    f"{folder} is not the folder that host 0 writes to: --out must be one that all "
                    "hosts share"
                )
            os.listdir(folder)  # so that a network file system looks again
            time.sleep(0.2)

    raise_on_all(see)
    if is_main_process():
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def global_file_lock(path: pathlib.Path, busy: str) -> Iterator[None]:
    """`lock.file_lock` by host 0, for all. Raises UserError, on all, where another process holds it."""
    with contextlib.ExitStack() as held:

        def take() -> None:
            if is_main_process():
                held.enter_context(lock.file_lock(path, busy))

        raise_on_all(take)
        yield
