"""What is evaluated: the encoders that a config needs, with their digests, or another system's files."""

import os
import pathlib
from collections.abc import Callable, Mapping, Set

from imagebind_jax.checkpointing import checkpointer
from imagebind_jax.errors import UserError
from imagebind_jax.evaluation.benchmark import Embedder, EvalConfig
from imagebind_jax.evaluation.model_embedder import ModelEmbedder
from imagebind_jax.evaluation.stored_embeddings import StoredEmbedder
from imagebind_jax.models.imagebind import TINY, ImageBind
from imagebind_jax.porting import load
from imagebind_jax.storage import atomic
from imagebind_jax.storage.fingerprint import flatten_config, json_sha256

Tell = Callable[[str], None]


def checkpoint_modalities(path: str | os.PathLike | None, config: EvalConfig) -> list[str]:
    """The modalities of a checkpoint, if any, without reading its weights. Raises UserError."""
    if path is None:
        return []
    return list(load.read_config(path, dtype=config.dtype).encoders)


def open_model(
    path: str | os.PathLike | None,
    config: EvalConfig,
    needed: Set[str],
    known: Set[str],
    folder: pathlib.Path,
    tell: Tell,
) -> tuple[Embedder, dict[str, str]]:
    """(bench, {modality: digest of its tower}) of a checkpoint; only the needed encoders stay loaded.

    known: of which only the digest is wanted. folder: for embeddings that are kept.
    """
    if path is None or not needed | known:  # for what trains encoders of its own
        return ModelEmbedder(config, ImageBind(TINY), {}, folder=folder, tell=tell), {}
    tell("loading the encoders")
    # One after the other, so that those which are not needed have gone before the others come.
    digests = {
        modality: _digests(*load.load(path, modalities=(modality,), dtype=config.dtype))
        for modality in sorted(known - needed)
    }
    found, params = load.load(path, modalities=sorted(needed or known), dtype=config.dtype)
    towers = {modality: each for many in digests.values() for modality, each in many.items()}
    towers |= _digests(found, params)
    return ModelEmbedder(config, found, params, folder=folder, tell=tell, digests=towers), towers


def _digests(model: ImageBind, params: Mapping) -> dict[str, str]:
    """Of the parameters and of what says how they are used: {modality: digest}. Raises UserError."""
    leaves, finite = checkpointer.tree_checksums(params)
    if not finite:
        raise UserError("the checkpoint has weights that are not numbers: nothing can be measured")
    towers: dict[str, dict[str, str]] = {}
    for path, leaf in leaves.items():
        towers.setdefault(path.partition("/")[0], {})[path] = leaf
    encoders = model.config.encoders
    return {
        m: json_sha256([tower, flatten_config({m: encoders[m]})]) for m, tower in towers.items()
    }


def check_embedding_dir(path: str | os.PathLike) -> pathlib.Path:
    """A folder of embeddings. Raises UserError where there is none."""
    if not pathlib.Path(path).is_dir():
        raise UserError(f"no folder {path} of embeddings: --wanted DIR writes what to embed")
    return pathlib.Path(path)


def open_stored(
    folder: str | os.PathLike, config: EvalConfig, tell: Tell
) -> tuple[Embedder, dict[str, str]]:
    """(bench, {modality: digest of all files}) of another system's embeddings. Raises UserError."""
    bench = StoredEmbedder(config, pathlib.Path(folder), tell)
    tell("reading the embeddings")
    root = pathlib.Path(folder)
    parts = {
        str(path.relative_to(root)): atomic.sha256(path)
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }
    modalities = {m for benchmark in config.benchmarks for m in benchmark.evaluation.modalities}
    return bench, dict.fromkeys(sorted(modalities), json_sha256(parts))
