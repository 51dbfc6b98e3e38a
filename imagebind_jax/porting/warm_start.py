"""Training that starts from checkpoints: which encoders of theirs a config can take, and takes."""

import dataclasses
import os
from collections.abc import Mapping

from flax import traverse_util

from imagebind_jax.distributed import sharding
from imagebind_jax.errors import UserError
from imagebind_jax.models.imagebind import ImageBindConfig
from imagebind_jax.porting.load import open_weights, resize_positions


def warm_start(params: Mapping, config: ImageBindConfig, path: str | os.PathLike) -> dict:
    """`params` of a model with every encoder that a checkpoint has too replaced by it.

    Arrays keep dtype and placement; positions are interpolated for other input shapes; adapters
    and a learned scale or bias that the checkpoint lacks stay as they are. Raises UserError where an
    encoder of the checkpoint is not that of `config`, or none is shared.
    """
    flat = dict(traverse_util.flatten_dict(params, sep="/"))
    with open_weights(path, assumed=config.encoders) as weights:
        shared = check_compatible(config, weights.config, path)
        for name in weights.specs:
            if name.split("/")[0] in shared and name in flat:
                old = flat[name]
                new = resize_positions(weights, name, config).astype(old.dtype)
                flat[name] = sharding.device_put_global(new, old.sharding)
    return traverse_util.unflatten_dict(flat, sep="/")


# What an encoder's parameters do not depend on, or `warm_start` can adapt.
_ADAPTED = (
    "shape", "drop_path", "head_dropout", "position_std", "logit_scale", "learn_scale",
    "logit_bias",
)  # fmt: skip
_LORA = ("lora", "lora_rank", "lora_scale")


def check_compatible(
    ours: ImageBindConfig, theirs: ImageBindConfig, path: str | os.PathLike
) -> list[str]:
    """The encoders that a checkpoint shares with a config. Raises UserError where one differs.

    A checkpoint without adapters fits an encoder with some, and a causal text encoder one that
    is adapted as ImageBind-LoRA does and so is not.
    """
    shared = [m for m in theirs.encoders if m in ours.encoders]
    if not shared:
        raise UserError(f"{path} has none of the encoders {', '.join(ours.encoders)}")
    if theirs.embed_dim != ours.embed_dim:
        raise UserError(
            f"{path} does not fit: it has embed_dim {theirs.embed_dim}, not {ours.embed_dim}"
        )
    for modality in shared:
        old, new = (dataclasses.asdict(c.encoders[modality]) for c in (theirs, ours))
        old["stride"], new["stride"] = (c["stride"] or c["patch"] for c in (old, new))
        adapted: tuple[str, ...] = _ADAPTED if old["lora"] else _ADAPTED + _LORA
        adapted += ("causal",) if "attn" in new["lora"] else ()
        if differ := [n for n in old if n not in adapted and old[n] != new[n]]:
            told = "; ".join(f"{name} {old[name]}, not {new[name]}" for name in differ)
            raise UserError(f"{path} does not fit the config: its {modality} has {told}")
    return shared
