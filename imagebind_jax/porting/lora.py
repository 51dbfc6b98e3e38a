"""LoRA adapters (Hu et al. 2021): add them, save them alone, load them, merge them, export them.

An encoder whose config names `lora` targets computes x W + scale * x A B in the place of x W, with
A [in, rank] and B [rank, out] in every block. The parameters stand beside the kernel that they
adapt, `vision/trunk/blocks/attn/qkv_lora/{a,b}`; with `frozen=(optimizer.FREEZE_ALL_BUT_LORA,)` a run
trains them and nothing else. Query, key and value share one A. A layer whose A and B are zero is
not adapted, and stays so: its gradient is zero.

The target "attn" is what the PyTorch project ImageBind-LoRA (`imagebind_lora`) calls LoRA: a path
from the input of the attention to its output, around the softmax. No weights of the attention
compute that sum: such adapters are kept or dropped, but never merged.
"""

import dataclasses
import os
import pathlib
import re
import warnings
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import Array, Float

from imagebind_jax import optimizer
from imagebind_jax.errors import UserError
from imagebind_jax.models.encoder import EncoderConfig
from imagebind_jax.models.imagebind import ImageBind, ImageBindConfig, init
from imagebind_jax.models.layers import LORA_TARGETS
from imagebind_jax.porting.files.parameter_source import param_shapes, select_encoders
from imagebind_jax.porting.files.tensor_files import TensorFile, open_tensors
from imagebind_jax.porting.formats import imagebind_lora
from imagebind_jax.porting.formats.imagebind_lora import Layers, Leaves, replace_encoder
from imagebind_jax.storage import atomic


def adapter_params(params: Mapping) -> dict:
    """The nested dict of the adapters' leaves alone: what `optimizer.FREEZE_ALL_BUT_LORA` leaves to train."""
    trained, _ = optimizer.split_frozen(
        params, optimizer.OptimizerConfig(frozen=(optimizer.FREEZE_ALL_BUT_LORA,))
    )
    return trained


def _is_adapter(path: str) -> bool:
    return not re.match(optimizer.FREEZE_ALL_BUT_LORA, path)


def add_adapters(
    model: ImageBind,
    params: Mapping,
    modalities: Sequence[str] = (),
    targets: Sequence[str] = ("qkv", "out"),
    rank: int = 4,
    scale: float = 1.0,
    *,
    key: Array,
) -> tuple[ImageBind, dict]:
    """(model, params) with fresh float32 adapters, which change no output before they are trained.

    modalities: the encoders to adapt (none named: all). targets: of "qkv", "out", "fc1", "fc2",
    "attn". scale: alpha / rank in the usual notation. key: a `jax.random.key`.

    Raises UserError on a modality that the model lacks or that has adapters, and on a wrong target.
    """
    targets = (targets,) if isinstance(targets, str) else tuple(targets)
    if not targets:
        raise UserError(f"targets: none of {', '.join(LORA_TARGETS)} is named")
    config = model.config
    for modality, encoder in select_encoders(config, modalities, "this model").encoders.items():
        if encoder.lora:
            raise UserError(f"{modality} has adapters already: merge them first")
        config = replace_encoder(
            config, modality, lora=tuple(targets), lora_rank=rank, lora_scale=scale
        )
    some = select_encoders(config, modalities, "this model")
    fresh = jax.jit(lambda key: adapter_params(init(some, key)))(key)  # nothing else is computed
    return ImageBind(config), optimizer.merge_params(params, fresh)


def merge_adapters(model: ImageBind, params: Mapping) -> tuple[ImageBind, dict]:
    """(model, params) without adapters, W + scale * A B in the place of each adapted kernel W.

    Outputs are the same to the rounding of W's type; in bfloat16 that may swallow a small change.
    Raises UserError on the target "attn", which no kernel can hold.
    """
    config, flat = model.config, traverse_util.flatten_dict(params, sep="/")
    rank, scale = EncoderConfig.lora_rank, EncoderConfig.lora_scale  # as if there had been none
    for modality, encoder in config.encoders.items():
        if "attn" in encoder.lora:
            raise UserError(
                f"{modality}: an adapter beside the whole attention cannot be merged, as the "
                'softmax stands between; targets "qkv", "out", "fc1", "fc2" can'
            )
        for target in encoder.lora:
            part = "attn" if target in ("qkv", "out") else "mlp"
            path = f"{modality}/trunk/blocks/{part}/{target}"
            a, b = (flat.pop(f"{path}_lora/{name}") for name in "ab")
            flat[f"{path}/kernel"] = _merged(flat[f"{path}/kernel"], a, b, encoder.lora_scale)
        config = replace_encoder(config, modality, lora=(), lora_rank=rank, lora_scale=scale)
    return ImageBind(config), traverse_util.unflatten_dict(flat, sep="/")


@jax.jit
def _merged(
    kernel: Float[Array, "l *io"],
    a: Float[Array, "l *i r"],
    b: Float[Array, "l r *o"],
    scale: float | Float[Array, ""],
) -> Float[Array, "l *io"]:
    highest = jax.lax.Precision.HIGHEST  # on a TPU the default is bfloat16
    product = jax.vmap(lambda a, b: jnp.tensordot(a, b, 1, precision=highest))
    change = scale * product(a.astype(jnp.float32), b.astype(jnp.float32))
    return (kernel.astype(jnp.float32) + change).astype(kernel.dtype)


def save_adapters(
    path: str | os.PathLike, model: ImageBind, params: Mapping, *, also: Sequence[str] = ()
) -> None:
    """Writes the adapters to one .safetensors file, which appears at once when it is whole.

    also: regular expressions of other paths that were trained, matched from their start:
    `also=("text/(head|norm)/",)`. The file says which encoders it adapts and how, and has a
    SHA-256 of every array and of what it says. This process must hold the arrays whole.

    Raises UserError where there is no adapter, or an expression matches nothing.
    """
    path, flat = pathlib.Path(path), traverse_util.flatten_dict(params, sep="/")
    for rule in also:
        if not any(re.match(rule, name) for name in flat):
            raise UserError(f"also {rule!r} matches no parameter, e.g. not {next(iter(flat))}")
    leaves = {
        name: leaf
        for name, leaf in flat.items()
        if _is_adapter(name) or any(re.match(rule, name) for rule in also)
    }
    adapted = {m: c for m, c in model.config.encoders.items() if c.lora}
    if not adapted:
        raise UserError("this model has no adapters to save: lora.add_adapters makes them")
    config = dataclasses.replace(model.config, encoders=adapted)
    _check("these parameters", model.config, leaves, list(adapted))
    atomic.check_writable(path.absolute().parent, "choose another path")
    imagebind_lora.write_file(path, {name: np.asarray(x) for name, x in leaves.items()}, config)


def load_adapters(
    path: str | os.PathLike,
    model: ImageBind,
    params: Mapping,
    *,
    modality: str | None = None,
    layers: Layers = None,
    postfix: str | None = None,
) -> tuple[ImageBind, dict]:
    """(model, params) with the adapters of a file or folder, in the place of any that were there.

    path: a file of `save_adapters`; or of the PyTorch project ImageBind-LoRA: one `imagebind-lora-*` file
    (the adapter alone), its folder (with heads and logit scales), or a checkpoint of its whole
    model (which replaces the base's weights, too).
    modality: of a single file of theirs, where its name does not say.
    layers: the adapted layers, or {modality: layers}, where theirs hold fewer than there are.
    postfix: of a folder of theirs with several, e.g. "_last".

    Their code drops the causal mask of an adapted text encoder, and so does an encoder with their
    adapter (`causal=False`). Raises UserError, in one line, on a file that is damaged or does not
    fit the model.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        config, leaves = imagebind_lora.read_adapter_folder(path, model.config, layers, postfix)
    else:
        with open_tensors(path) as tensors:
            config, leaves = _read(tensors, model.config, modality, layers)
    adapted = list(dict.fromkeys(name.partition("/")[0] for name in leaves if _is_adapter(name)))
    _check(str(path), config, leaves, adapted)
    flat = {
        name: leaf
        for name, leaf in traverse_util.flatten_dict(params, sep="/").items()
        if not (_is_adapter(name) and name.partition("/")[0] in adapted)
    }
    for name, leaf in leaves.items():
        flat[name] = jnp.asarray(leaf, flat[name].dtype if name in flat else jnp.float32)
    return ImageBind(config), traverse_util.unflatten_dict(flat, sep="/")


def _read(
    tensors: TensorFile, config: ImageBindConfig, modality: str | None, layers: Layers
) -> tuple[ImageBindConfig, Leaves]:
    if tensors.note is None or not any(map(_is_adapter, tensors.specs)):
        return imagebind_lora.read_adapter_file(tensors, config, modality, layers)
    if layers is not None:
        raise UserError(f"{tensors.path} says itself which layers are adapted: leave out layers=")
    adapted = tensors.note.config.encoders
    select_encoders(config, list(adapted), "the model to adapt")
    for name, theirs in adapted.items():
        config = replace_encoder(
            config,
            name,
            lora=theirs.lora,
            lora_rank=theirs.lora_rank,
            lora_scale=theirs.lora_scale,
            causal=theirs.causal,
        )
    return config, {name: tensors[name] for name in tensors.specs}


def _check(where: str, config: ImageBindConfig, leaves: Mapping, adapted: Sequence[str]) -> None:
    """Raises UserError unless these are leaves of the model, among them all of its adapters."""
    touched = dict.fromkeys([*adapted, *(name.partition("/")[0] for name in leaves)])
    expected = {
        name: leaf.shape
        for name, leaf in param_shapes(select_encoders(config, list(touched), where)).items()
    }
    wanted = {name for name in expected if _is_adapter(name)} | leaves.keys()
    for name in sorted(wanted):
        found = leaves[name].shape if name in leaves else "none"
        if found != expected.get(name):
            raise UserError(
                f"{where}: {name} has shape {found}, the model {expected.get(name, 'none')}"
            )


def export_adapters(
    folder: str | os.PathLike, model: ImageBind, params: Mapping, postfix: str = "_last"
) -> None:
    """Writes the files of the PyTorch project ImageBind-LoRA: adapters, heads and logit scales.

    An adapter's file has all layers of its encoder; its scale is multiplied into B. Raises
    UserError on another target than "attn". Warns of an adapted text encoder with a causal mask,
    which their code would not apply.
    """
    path, adapted = pathlib.Path(folder), {m: c for m, c in model.config.encoders.items() if c.lora}
    if not adapted:
        raise UserError("this model has no adapters to export")
    for modality, encoder in adapted.items():
        if encoder.lora != ("attn",):
            raise UserError(
                f"{modality}: ImageBind-LoRA adapts the whole attention only, not "
                f"{', '.join(encoder.lora)}: merge them, and convert the whole model"
            )
        if encoder.vocab_size and encoder.causal:
            warnings.warn(
                f"{modality}: ImageBind-LoRA drops the causal mask of an adapted text encoder; "
                "train with causal=False to get the same embeddings there",
                stacklevel=2,
            )
    atomic.check_writable(path, "choose another folder")
    flat = traverse_util.flatten_dict(params, sep="/")
    imagebind_lora.write_folder(path, model.config, flat, postfix)
