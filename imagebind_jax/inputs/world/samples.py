"""Samples of the world as a source of records: some modalities of a stretch of one split."""

import dataclasses

from imagebind_jax.inputs.sources import Cached
from imagebind_jax.inputs.world.records import ALL, World


@dataclasses.dataclass(frozen=True)
class Samples:
    """index -> record number `first + index` of a split, with only these modalities."""

    world: World
    split: str
    first: int = 0
    modalities: tuple[str, ...] = ALL

    def __call__(self, index: int) -> dict:
        return self.world.record(self.split, self.first + index, self.modalities)


def samples(
    world: World, split: str, count: int, first: int = 0, modalities: tuple[str, ...] = ALL
) -> Cached:
    """`count` samples from `first` on, made once and kept in the cache folder."""
    return Cached(Samples(world, split, first, modalities), count)
