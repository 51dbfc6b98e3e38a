"""Checkpoints: the train state and a digest of every leaf, committed together, verified at restore.

Orbax stores the arrays but does not checksum them: a flipped bit on disk would come back as a
silently different weight. So each step also holds a digest of every leaf, computed on the devices.
"""

import os
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from imagebind_jax.errors import UserError, first_line

FORMAT = 1


class CheckpointError(UserError):
    """A checkpoint that cannot be used; the message says which and why."""


class CheckpointCorrupt(CheckpointError):
    """A checkpoint whose bytes are not the ones that were saved."""


def _mix(x):
    """A 32-bit finaliser: every input bit reaches every output bit."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


@jax.jit
def _leaf_digest(x):
    x = jnp.atleast_1d(x)
    finite = jnp.all(jnp.isfinite(x)) if jnp.issubdtype(x.dtype, jnp.floating) else jnp.bool_(True)
    unsigned = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize]
    bits = jax.lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32)
    index = jnp.zeros(x.shape, jnp.uint32)  # each element's place in the whole array
    for axis, size in enumerate(x.shape):
        index = index * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
    # Sums do not depend on how the array is split over devices.
    sums = [jnp.sum(_mix(bits ^ _mix(index + jnp.uint32(salt)))) for salt in (0, 0x9E3779B9)]
    return jnp.stack(sums), finite


def digest(tree: Any) -> tuple[dict[str, str], bool]:
    """({leaf's path: digest with its shape and dtype}, whether every leaf is finite)."""
    leaves = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    # One after the other: many sums over devices in flight at once can starve each other on CPUs.
    results = {name: jax.device_get(_leaf_digest(leaf)) for name, leaf in leaves.items()}
    digests = {
        name: f"{leaves[name].dtype}{list(leaves[name].shape)}:{sums[0]:08x}{sums[1]:08x}"
        for name, (sums, _) in results.items()
    }
    return digests, all(bool(finite) for _, finite in results.values())


class Checkpoints:
    """The checkpoints of one run folder."""

    def __init__(
        self,
        folder: str | os.PathLike,
        *,
        keep: int = 2,
        committed: Callable[[int], None] = lambda step: None,
    ):
        """`keep` newest steps stay (at least 2, so that one can fall back); `committed(step)` is
        called when a step is on disk, from another thread."""
        self.folder = pathlib.Path(folder).absolute()
        self._saving: int | None = None
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=max(keep, 2),
                # A commit file and not a rename: a kill during a deletion, too, leaves no step
                # that is listed but cannot be read.
                atomicity_options=ocp.options.AtomicityOptions(
                    mode=ocp.options.AtomicityMode.COMMIT_FILE
                ),
                cleanup_tmp_directories=True,
                async_options=ocp.AsyncOptions(
                    post_finalization_callback=lambda: committed(self._saving or 0)
                ),
            ),
        )

    def steps(self) -> list[int]:
        """The committed steps, newest first."""
        return sorted(self._manager.all_steps(), reverse=True)

    def save(self, step: int, state: Any, facts: dict[str, Any]) -> None:
        """Starts saving; `facts` is JSON that says what run this is.

        Raises CheckpointError on a state with a NaN or infinity, which is never saved, and where
        the disk has no room for it.
        """
        self.check_space(state)
        digests, finite = digest(state)
        if not finite:
            raise CheckpointError(f"the state of step {step} is not finite: not saved")
        self._manager.wait_until_finished()  # the step before, whose errors show up here
        self._saving = step
        meta = {"format": FORMAT, "step": step, "digest": digests, **facts}
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta)
            ),
        )

    def check_space(self, state: Any) -> None:
        """Raises CheckpointError unless a checkpoint of `state` fits on the disk."""
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
        free = shutil.disk_usage(self.folder).free
        if free < 1.1 * size:
            raise CheckpointError(
                f"no space left on device: a checkpoint takes {size / 1e6:.0f} MB and "
                f"{self.folder} has {free / 1e6:.0f} MB free"
            )

    def meta(self, step: int) -> dict[str, Any]:
        """What was saved beside the state."""
        try:
            return self._manager.restore(
                step, args=ocp.args.Composite(meta=ocp.args.JsonRestore())
            )["meta"]
        except Exception as error:  # orbax raises a different type for each kind of damage
            raise CheckpointCorrupt(
                f"checkpoint {step}: unreadable meta ({_line(error)})"
            ) from error

    def restore(self, step: int, like: Any) -> Any:
        """The state of `step`, placed like `like` (arrays or ShapeDtypeStructs with shardings).

        Raises CheckpointError if it is of another model, CheckpointCorrupt if its bytes changed.
        """
        saved = self.meta(step).get("digest", {})
        wanted = {
            jax.tree_util.keystr(
                path, simple=True, separator="/"
            ): f"{leaf.dtype}{list(leaf.shape)}"
            for path, leaf in jax.tree_util.tree_leaves_with_path(like)
        }
        differ = [
            f"{name}: {saved.get(name, 'missing').split(':')[0]} saved, "
            f"{wanted.get(name, 'none')} wanted"
            for name in sorted(saved.keys() | wanted.keys())
            if saved.get(name, "").split(":")[0] != wanted.get(name)
        ]
        if differ:
            more = f" (and {len(differ) - 3} more)" if len(differ) > 3 else ""
            raise CheckpointError(
                f"checkpoint {step} is of another model: {'; '.join(differ[:3])}{more}"
            )
        try:
            restored = self._manager.restore(
                step, args=ocp.args.Composite(state=ocp.args.StandardRestore(like))
            )["state"]
        except Exception as error:
            raise CheckpointCorrupt(f"checkpoint {step}: unreadable ({_line(error)})") from error
        found, _ = digest(restored)
        broken = [name for name in saved if found[name] != saved[name]]
        if broken:
            raise CheckpointCorrupt(
                f"checkpoint {step}: {len(broken)} leaves are not what was saved, first {broken[0]}"
            )
        return restored

    def restore_newest(self, like: Any, warn: Callable[[str], None] = print) -> tuple[int, Any]:
        """(step, state) of the newest checkpoint that is whole; falls back past corrupt ones.

        Raises CheckpointCorrupt when none is whole, FileNotFoundError when there is none.
        """
        steps = self.steps()
        if not steps:
            raise FileNotFoundError(f"no checkpoint in {self.folder}")
        for i, step in enumerate(steps):
            try:
                state = self.restore(step, like)
            except CheckpointCorrupt as error:
                warn(f"{error}; trying the one before")
                continue
            for damaged in steps[:i]:  # orbax would silently not save these steps again
                self._manager.delete(damaged)
            return step, state
        raise CheckpointCorrupt(f"every checkpoint in {self.folder} is damaged")

    def close(self) -> None:
        """Waits for the last save. Raises what made it fail."""
        self._manager.wait_until_finished()
        self._manager.close()


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"


def abstract(state: Any) -> Any:
    """Shapes, dtypes and shardings of a state, for `restore`."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=x.sharding), state
    )
