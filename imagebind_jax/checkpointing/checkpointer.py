"""Checkpoints: the train state and a digest of every leaf, committed together, verified at restore.

Orbax stores the arrays but does not checksum them: a flipped bit on disk would come back as a
silently different weight. So each step also holds a digest of every leaf, computed on the devices.
"""

import importlib.metadata
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from imagebind_jax.checkpointing import restore, step_dir
from imagebind_jax.checkpointing.async_save import AsyncCheckpointWriter
from imagebind_jax.checkpointing.digest import flatten_with_paths, tree_checksums
from imagebind_jax.checkpointing.step_dir import COMMITTED as COMMITTED
from imagebind_jax.checkpointing.step_dir import FORMAT, CheckpointError, CorruptCheckpointError
from imagebind_jax.distributed import agreement
from imagebind_jax.storage import checksummed


class Checkpointer:
    """The checkpoints of one run folder.

    Several hosts make the same calls, and get the same answers.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        *,
        keep: int = 2,
        committed: Callable[[int], None] = lambda step: None,
        failed: Callable[[str], None] = print,
    ):
        """Removes what a killed run has left half-written: only one run may use a folder.

        Raises CheckpointError where something else in the folder is named as a step.

        keep: the newest steps that stay (at least 2, so that one can fall back). committed(step) is
        called when a step is on disk, from another thread; failed(line) when one could not be
        written, while the run goes on.
        """
        self.folder = pathlib.Path(folder).absolute()
        self._saver = AsyncCheckpointWriter(self.folder, keep, committed, failed)

    @property
    def last(self) -> int | None:
        """The newest step that is committed."""
        return self._saver.last

    @property
    def failures(self) -> int:
        """Saves that could not be written, in all."""
        return self._saver.failures

    def save(self, step: int, state: Any, facts: dict[str, Any]) -> None:
        """Starts saving; `facts` is JSON that says what run this is. A saved step stays as it is.

        A save that fails is told, at the latest by the next one, and its remains are removed; the
        run goes on. Raises CheckpointWriteError at the third in a row, and CheckpointError on a state with a
        NaN or infinity, which is never saved.
        """
        digests, finite = tree_checksums(state)

        def check() -> None:
            if not finite:
                raise CheckpointError(f"the state of step {step} is not finite: not saved")

        agreement.raise_on_all(check)
        meta = {"format": FORMAT, "step": step, "digest": digests, "versions": _versions(), **facts}
        self._saver.save(step, state, checksummed.add_checksum(meta))

    def check_space(self, state: Any) -> None:
        """Raises CheckpointError unless a checkpoint of `state` fits on the disk."""
        if lacking := self._saver.lacking(state):
            raise CheckpointError(lacking)

    def steps(self) -> list[int]:
        """The committed steps, newest first, as the first host sees them."""
        self._saver.settle()
        newest = step_dir.committed_steps(self.folder)[:40]
        return json.loads(agreement.allgather_text(json.dumps(newest))[0])

    def check_begun(self) -> None:
        """Raises CorruptCheckpointError where there is no checkpoint, but there are damaged ones."""
        damaged = agreement.allgather_text(", ".join(step_dir.quarantined_steps(self.folder)[:5]))[
            0
        ]
        if damaged and not self.steps():
            raise agreement.mark_collective(
                CorruptCheckpointError(
                    f"no whole checkpoint is left in {self.folder}, only {damaged}: bring one back, "
                    "or choose another --out to begin anew"
                )
            )

    def meta(self, step: int) -> dict[str, Any]:
        """What was saved beside the state. Raises CheckpointError."""
        self._saver.settle()
        return restore.with_retries(lambda: step_dir.read_meta(self.folder / str(step)))

    def restore(self, step: int, like: Any, defaults: Any = None) -> Any:
        """The state of `step`, placed like `like` (arrays or ShapeDtypeStructs with shardings).

        defaults: a tree with the values of leaves that checkpoints of older versions may lack, at
        their paths, as {"health": {"skipped": 0}}. Raises CheckpointError if it is of another model
        or a newer version, CorruptCheckpointError if its bytes changed, UnreadableCheckpointError if the
        system does not give them out: on all hosts, if on one.
        """
        if bare := [name for name, leaf in flatten_with_paths(like).items() if not _placed(leaf)]:
            raise TypeError(
                f"like has no sharding at {bare[0]}: pass arrays or `abstract_state(state)`, whose leaves "
                "say where they go"
            )
        self._saver.settle()
        saved, leaves = agreement.raise_on_all(
            lambda: restore.with_retries(
                lambda: restore.restore_local(self.folder / str(step), like, defaults)
            ),
            step_dir.ERROR_PRIORITY,
        )
        found, _ = tree_checksums({name: leaves[name] for name in saved})

        def verify() -> None:
            if broken := [name for name in saved if found[name] != saved[name]]:
                raise CorruptCheckpointError(
                    f"checkpoint {step}: {len(broken)} leaves are not what was saved, "
                    f"first {broken[0]}"
                )

        agreement.raise_on_all(verify, step_dir.ERROR_PRIORITY)
        return jax.tree.unflatten(
            jax.tree.structure(like), [leaves[name] for name in flatten_with_paths(like)]
        )

    def restore_newest(
        self,
        like: Any,
        warn: Callable[[str], None] = print,
        *,
        fallback: bool = True,
        defaults: Any = None,
    ) -> tuple[int, Any]:
        """(step, state) of the newest checkpoint that is whole; falls back past corrupt ones.

        Corrupt ones are set aside then. Arguments as of `restore`; fallback: False takes the newest
        or none. Raises CorruptCheckpointError when none is whole, FileNotFoundError when there is none,
        UnreadableCheckpointError where the system did not give one out, which may be whole.
        """
        steps = self.steps()
        if not steps:
            raise FileNotFoundError(f"no checkpoint in {self.folder}")
        for i, step in enumerate(steps):
            try:
                state = self.restore(step, like, defaults)
            except CorruptCheckpointError as error:
                if not fallback:
                    raise
                warn(f"{error}; trying the one before")
                continue
            for damaged in steps[:i]:  # they would count among those to keep
                self._saver.set_aside(damaged)
            self._saver.last = step
            return step, state
        raise CorruptCheckpointError(f"every checkpoint in {self.folder} is damaged")

    def close(self) -> None:
        """Waits for the last save. Raises CheckpointWriteError where it is not committed."""
        self._saver.close()

    def abandon(self, patience: float = 60.0) -> None:
        """In place of `close` where an error ends the run: a save in flight may still be committed.

        Waits for it, and not for other hosts, `patience` seconds at most; raises nothing.
        """
        self._saver.abandon(patience)


def abstract_state(state: Any) -> Any:
    """Shapes, dtypes and shardings of a state, for `restore`."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=x.sharding), state
    )


def _placed(leaf: Any) -> bool:
    return getattr(leaf, "sharding", None) is not None


def _versions() -> dict[str, str]:
    names = ("imagebind-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    return {name: importlib.metadata.version(name) for name in names}
