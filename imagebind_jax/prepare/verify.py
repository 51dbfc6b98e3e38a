"""Whether a prepared folder is, byte for byte, as it was written."""

import concurrent.futures
import os
import pathlib
from collections.abc import Callable

from imagebind_jax.errors import UserError
from imagebind_jax.inputs.sources import prepared
from imagebind_jax.inputs.sources.array_records import Shard, verify_shard
from imagebind_jax.runtime.progress import Progress


def verify_dataset(
    folder: str | os.PathLike, *, workers: int | None = None, say: Callable[[str], None] = print
) -> None:
    """Reads every byte of a prepared folder. Raises UserError, naming the shards that are damaged."""
    splits = prepared.read_dataset_info(folder).splits
    shards = [shard for split in splits.values() for shard in split.shards if shard.count]
    broken = []
    with (
        Progress("verify", len(shards)) as progress,
        concurrent.futures.ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool,
    ):
        results = pool.map(lambda shard: _is_whole(pathlib.Path(folder), shard), shards)
        for index, (shard, good) in enumerate(zip(shards, results), 1):
            if not good:
                broken.append(shard.file)
            progress.update(index)
    if broken:
        raise UserError(
            f"{folder}: {len(broken)} of {len(shards)} shards are missing or damaged "
            f"({', '.join(broken[:20])}): remove them, and run the prepare that made them again"
        )
    for name, split in splits.items():
        say(f"{name}: {split.count} records in {len(split.shards)} shards, as they were written")


def _is_whole(folder: pathlib.Path, shard: Shard) -> bool:
    try:
        return verify_shard(folder, shard)
    except OSError:
        return False
