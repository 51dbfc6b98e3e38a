"""Reading one step of a checkpoint: this host's part of its arrays, or why there are none."""

import pathlib
import time
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp

from imagebind_jax.checkpointing import orbax_logging, step_dir
from imagebind_jax.checkpointing.digest import dtype_and_shape, flatten_with_paths
from imagebind_jax.checkpointing.step_dir import CheckpointError, UnreadableCheckpointError

RETRY_DELAYS = (0.5, 2.0)  # seconds until the next try to read

Result = TypeVar("Result")


def restore_local(
    folder: pathlib.Path, like: Any, defaults: Any = None
) -> tuple[dict[str, str], dict[str, Any]]:
    """(digests, leaves) of a step by name, placed like `like`: this host's part of them.

    Waits for no other host. Arguments and errors as of `Checkpointer.restore`.
    """
    saved = step_dir.read_meta(folder)["digest"]
    wanted, given = flatten_with_paths(like), flatten_with_paths(defaults or {})
    absent = [name for name in wanted if name not in saved and name in given]
    _check_same(folder.name, saved, {name: wanted[name] for name in wanted if name not in absent})
    try:
        with orbax_logging.drop_pending_coroutines():
            leaves = _arrays(folder / "state", wanted)
        if leaves.keys() != saved.keys():
            raise ValueError("other leaves than were saved")
    except Exception as error:  # orbax raises a different type for each kind of damage
        raise step_dir.classify_read_error(
            folder, f"unreadable: {type(error).__name__}", error
        ) from error
    return saved, leaves | {name: _filled(wanted[name], given[name]) for name in absent}


def with_retries(read: Callable[[], Result]) -> Result:
    """read(), again where the system did not let it: a network file system has such moments."""
    for seconds in RETRY_DELAYS:
        try:
            return read()
        except UnreadableCheckpointError:
            time.sleep(seconds)
    return read()


def _check_same(step: str, saved: dict[str, str], wanted: dict[str, Any]) -> None:
    """Raises CheckpointError unless names, shapes and dtypes are the same: orbax casts silently."""
    found = {name: str(each).split(":")[0] for name, each in saved.items()}
    asked = {name: dtype_and_shape(leaf) for name, leaf in wanted.items()}
    differ = [
        f"{name}: {found.get(name, 'missing')} saved, {asked.get(name, 'none')} wanted"
        for name in sorted(found.keys() | asked.keys())
        if found.get(name) != asked.get(name)
    ]
    if differ:
        more = f" (and {len(differ) - 3} more)" if len(differ) > 3 else ""
        raise CheckpointError(
            f"checkpoint {step} is of another model: {'; '.join(differ[:3])}{more}"
        )


def _arrays(folder: pathlib.Path, wanted: dict[str, Any]) -> dict[str, Any]:
    """The saved leaves by name, placed as wanted.

    By orbax's handler alone, which waits for no other host.
    """
    handler = ocp.StandardCheckpointHandler()
    try:
        # As it was saved, which may lack leaves.
        shapes = jax.tree_util.tree_map_with_path(
            lambda path, _: wanted[jax.tree_util.keystr(path, simple=True, separator="/")],
            handler.metadata(folder).tree,
        )
        return flatten_with_paths(handler.restore(folder, args=ocp.args.StandardRestore(shapes)))
    finally:
        handler.close()


def _filled(like: Any, value: Any) -> jax.Array:
    whole = np.broadcast_to(np.asarray(value, like.dtype), like.shape)
    return jax.make_array_from_callback(like.shape, like.sharding, lambda index: whole[index])
