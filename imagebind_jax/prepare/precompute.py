"""Anchors: the embeddings of every record's views by a tower that learns nothing, made once."""

import contextlib
import dataclasses
import functools
import math
import os
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import jax
import msgspec

from imagebind_jax import optimizer
from imagebind_jax.config import TrainConfig
from imagebind_jax.distributed import sharding
from imagebind_jax.errors import UserError
from imagebind_jax.inputs.pipeline import batches
from imagebind_jax.inputs.pipeline.examples import Examples, ToAllViews
from imagebind_jax.inputs.pipeline.pairs import ModalityPair
from imagebind_jax.inputs.pipeline.precomputed import (
    METADATA_FILE,
    BlockLayout,
    FixedViews,
    PrecomputedEmbeddings,
    assert_same_fields,
)
from imagebind_jax.inputs.sources import Prepared, cache_folder
from imagebind_jax.models.imagebind import ImageBind, ImageBindConfig, init
from imagebind_jax.porting import load, warm_start
from imagebind_jax.prepare.precompute_writer import EmbeddingWriter, EmbedFn
from imagebind_jax.runtime.progress import Progress
from imagebind_jax.storage import atomic, lock
from imagebind_jax.storage.fingerprint import json_sha256
from imagebind_jax.storage.row_file import write_durably
from imagebind_jax.training.frozen_towers import (
    frozen_modalities,
    params_fingerprint,
    tower_fingerprint_fields,
)

VIEWS = 64  # at once on a device: enough to keep it busy


def precompute(
    config: TrainConfig,
    checkpoint: str | os.PathLike,
    *,
    views: int | None = None,
    seed: int = 0,
    out: str | os.PathLike | None = None,
    workers: int | None = None,
    say: Callable[[str], None] = print,
) -> list[pathlib.Path]:
    """Anchors of every pair of a config whose first modality learns nothing; returns their folders.

    checkpoint: of any format, with the towers. views, seed: of each record, as in `FixedViews` (None:
    the pair's own). out: a folder for them (default: beside prepared records, or the cache; a pair
    that names its anchors has them there). workers: processes that decode (None: the config's).
    Embedded on all devices of this host. What was stopped, in whatever way, goes on. Raises
    UserError.
    """
    if jax.process_count() > 1:
        raise UserError("anchors are made on one host: run the command on one alone")
    still = frozen_modalities(config.model, config.optimizer)
    learning = config.model.encoders.keys() - still
    pairs = [pair for pair in config.pairs if pair.modalities[0] not in learning]
    if not pairs:
        first = config.pairs[0].modalities[0]
        raise UserError(
            "no pair's first modality learns nothing: put the frozen one first, and freeze it "
            f'whole, e.g. optimizer.frozen=("{first}/",)'
        )
    place = sharding.ShardedStrategy(config.fsdp)
    towers: dict[str, tuple[dict[str, Any], EmbedFn]] = {}
    folders = []
    for pair in pairs:
        modality = pair.modalities[0]
        wanted = pair.views if views is None else FixedViews(views, seed)
        if wanted is None:
            raise UserError(f"how many views of each record of {pair.name}? --views 8")
        if modality not in towers:
            say(f"loading the {modality} encoder")
            towers[modality] = _tower(config, modality, checkpoint, place)
        of_tower, run = towers[modality]
        folders.append(_make(config, pair, wanted, of_tower, run, place.shares, out, workers, say))
    return folders


def _tower(
    config: TrainConfig, modality: str, path: str | os.PathLike, place: sharding.ShardedStrategy
) -> tuple[dict[str, Any], EmbedFn]:
    """(what anchors depend on of a tower, what embeds a batch with it).

    The config's own encoder with the checkpoint's weights, as training would have it; one that the
    config lacks is the checkpoint's.
    """
    if modality in config.model.encoders:
        encoders = {modality: config.model.encoders[modality]}
        model = dataclasses.replace(config.model, encoders=encoders)
        params = warm_start.warm_start(init(model, jax.random.key(config.seed)), model, path)
    else:
        loaded, params = load.load(path, modalities=(modality,))
        model = dataclasses.replace(loaded.config, dtype=config.model.dtype)
        if model.embed_dim != config.model.embed_dim:
            raise UserError(
                f"{path} embeds into {model.embed_dim} dimensions, and the config's model into "
                f"{config.model.embed_dim}"
            )
    every = optimizer.OptimizerConfig(frozen=("",))
    params = place.place(optimizer.cast_frozen(params, every, model.dtype))
    facts = tower_fingerprint_fields(model, modality)
    facts["parameters"] = params_fingerprint(params[modality], model.dtype)
    apply = place.compile_apply(functools.partial(_embeddings, model))
    return facts, lambda x: apply(params, place.batch({modality: x}))


def _embeddings(config: ImageBindConfig, params, batch, device):
    model = ImageBind(config, gather=device.layer)
    [z] = model.apply({"params": device.whole(params)}, batch)[0].values()
    return z


def _make(
    config: TrainConfig,
    pair: ModalityPair,
    views: FixedViews,
    of_tower: Mapping[str, Any],
    run: EmbedFn,
    shares: int,
    out: str | os.PathLike | None,
    workers: int | None,
    say: Callable[[str], None],
) -> pathlib.Path:
    records = pair.source.open()
    if not len(records):
        raise UserError(f"the source of {pair.name} has no records")
    say(f"looking at the records of {pair.name}")
    facts = {**pair.anchored(config.inputs, len(records), views), **of_tower}
    folder = _folder(pair, out, facts)
    atomic.check_writable(folder, "choose another --out")
    busy = f"another process makes the anchors in {folder}: wait for it, or choose another --out"
    with lock.file_lock(folder / ".lock", busy):
        if (folder / METADATA_FILE).exists():
            assert_same_fields(folder, PrecomputedEmbeddings(folder).facts(), facts)
        layout = BlockLayout(facts)
        _check_space(folder, layout)
        write_durably(
            folder / METADATA_FILE, msgspec.json.format(msgspec.json.encode(facts), indent=1)
        )
        modality = pair.modalities[0]
        transform = pair.inputs.get(modality) or config.inputs[modality]
        rows = Examples(records, ToAllViews(transform, pair.aligned, views), pair.name)
        at_once = min(config.batch_size, VIEWS * shares)
        group = max(1, at_once // views.count)  # records whose views are a batch
        allowed = config.bad_records * max(len(records), 1000)
        with Progress(f"anchors {pair.name}", len(records), "compiling") as progress:
            filling = EmbeddingWriter(folder, layout, group, shares, run, allowed, progress)
            start = filling.begin(say)
            progress.begin(start)
            workers = config.workers if workers is None else workers
            with contextlib.closing(
                batches.prefetch_each(
                    rows.made_alike, len(rows), start, config.threads, workers, config.patience
                )
            ) as made:
                filling.run(made)
    if filling.unusable:
        say(f"note: {filling.unusable} records of {pair.name} cannot be used, and are masked")
    anchors = f"PrecomputedEmbeddings({str(folder)!r})"
    say(f"ModalityPair({pair.modalities}, ..., views={views}, anchors={anchors})")
    return folder


def _folder(
    pair: ModalityPair, out: str | os.PathLike | None, facts: Mapping[str, Any]
) -> pathlib.Path:
    if out is None and pair.anchors is not None:
        return pathlib.Path(pair.anchors.folder)
    name = f"{pair.name}.anchors-{json_sha256(facts)[:8]}"
    if out is None and isinstance(pair.source, Prepared):
        return pathlib.Path(pair.source.folder) / f"{pair.source.split}.{name}"
    return pathlib.Path(cache_folder() if out is None else out) / name


def _check_space(folder: pathlib.Path, layout: BlockLayout) -> None:
    there = sum(path.stat().st_size for path in folder.glob("*.npy"))
    needed = 4 * sum(math.prod(layout.shape(block)) for block in range(len(layout.blocks))) - there
    if needed > (free := shutil.disk_usage(folder).free):
        raise UserError(
            f"{folder} needs {needed / 1e9:.1f} GB more and {free / 1e9:.1f} GB are free: make "
            "room, take fewer --views, or choose another --out"
        )
