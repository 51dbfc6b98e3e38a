"""In which order the records of one source are seen: shuffled anew in each epoch, for ever."""

import dataclasses
from typing import Any


def order(count: int, seed: int, replication: float = 1.0) -> Any:
    """An endless grain.MapDataset of the indices of `count` records, which further steps may follow.

    replication: how often a record is seen in an epoch, on average.
    """
    import grain

    total = round(replication * count)
    indices = range(count) if total == count else _Spread(count, total)
    # Endless in all but name: grain's batch of one row overflows on what has no end.
    epochs = 2**40 // total
    return grain.MapDataset.source(indices).seed(seed).shuffle().repeat(epochs)


@dataclasses.dataclass(frozen=True)
class _Spread:
    """The indices of `count` records, `total` times in all: those seen once more lie evenly apart."""

    count: int
    total: int

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, index: int) -> int:
        return index * self.count // self.total
