"""Replicas: whether devices that should hold the same numbers still do, and which of them does not."""

import collections
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from imagebind_jax.checkpointing.digest import flatten_with_paths, leaf_checksum
from imagebind_jax.distributed import sharding
from imagebind_jax.errors import FatalRunError


class ReplicaMismatchError(FatalRunError):
    """Devices that should hold the same numbers do not: one of them computes or stores wrongly."""


class ReplicaCheck:
    """Looks at every leaf of a state that several devices hold, or a part of which they hold.

    A leaf that is split over all devices has no replica, and is not looked at. Compiled at the
    first look, and from then on one short program of all devices, to be run on all hosts at once.
    """

    def __init__(self, place: sharding.ShardedStrategy | sharding.PmapStrategy, state: Any):
        leaves = flatten_with_paths(state)
        self._devices, parts = place.parts(leaves)
        # For each leaf and device the first one that holds the same.
        firsts = [np.unique(part, return_index=True)[1][part] for part in parts]
        shared = [(first != np.arange(len(first))).any() for first in firsts]
        self.names = [name for name, several in zip(sorted(leaves), shared) if several]
        self._firsts = np.array([first for first, several in zip(firsts, shared) if several])
        self._look = place.compile_each(_digests, {name: leaves[name] for name in self.names})

    def find(self, state: Any) -> str | None:
        """What differs, in one line that is the same on all hosts; None where nothing does."""
        if not self.names:
            return None
        leaves = flatten_with_paths(state)
        found = np.asarray(self._look({name: leaves[name] for name in self.names}))
        found = np.moveaxis(found, 0, 1)  # [leaves, devices, 2]
        wanted = np.take_along_axis(found, self._firsts[:, :, None], axis=1)
        [differing] = (found != wanted).any(axis=(1, 2)).nonzero()
        if not len(differing):
            return None
        return self._said(differing, found)

    def check(self, state: Any, step: int) -> None:
        """Raises ReplicaMismatchError where `find` finds something before this step."""
        if line := self.find(state):
            raise ReplicaMismatchError(f"before step {step}, {line}")

    def _said(self, differing: np.ndarray, found: np.ndarray) -> str:
        leaf = differing[0]
        odd = _minority_devices(found[leaf], self._firsts[leaf])
        devices = [self._devices[i] for i in odd]
        places = [f"host {device.process_index}, device {device.id}" for device in devices]
        more = f", and {len(places) - 4} more" if len(places) > 4 else ""
        where = " and ".join(places[:4]) + more
        replicas = "replica" if len(odd) == 1 else "replicas"
        verb = "differs from the others" if len(odd) == 1 else "differ"
        others = f" (and of {len(differing) - 1} more leaves)" if len(differing) > 1 else ""
        return f"the {replicas} of {self.names[leaf]}{others} on {where} {verb}"


def _digests(leaves: dict[str, jax.Array]) -> jax.Array:
    """[leaves, 2], in the order of their names."""
    return jnp.stack([leaf_checksum(leaves[name])[0] for name in sorted(leaves)])


def _minority_devices(found: np.ndarray, first: np.ndarray) -> list[int]:
    """The devices whose part of a leaf is not that of most; all that hold it where most have none."""
    odd = []
    for part in np.unique(first):
        [holders] = (first == part).nonzero()
        counts = collections.Counter(found[i].tobytes() for i in holders)
        usual, times = counts.most_common(1)[0]
        most = 2 * times > len(holders)
        if len(counts) > 1:
            odd += [int(i) for i in holders if not most or found[i].tobytes() != usual]
    return odd
