"""The released PyTorch ImageBind state dict: its names, its axes, its sizes."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from imagebind_jax.errors import UserError
from imagebind_jax.models.encoder import EncoderConfig
from imagebind_jax.models.imagebind import HUGE, ImageBindConfig
from imagebind_jax.porting.files.tensor_files import TensorFile
from imagebind_jax.porting.formats.hints import LoadHints, count_blocks
from imagebind_jax.porting.formats.rules import Rule, layer_norm_rules, linear_rules

LICENCE = "ImageBind's weights are CC BY-NC-SA 4.0 (non-commercial); so is what is made of them"
_IN, _TRUNK, _OUT = "modality_preprocessors.", "modality_trunks.", "modality_heads."
_MASK = "modality_preprocessors.{}.mask"
_SCALE = "modality_postprocessors.{}.1.log_logit_scale"
# What differs between the modalities: the stem's tensor and its axes, the positions, the head.
_IMAGE = ("rgbt_stem.proj.weight", "o c y x -> y x c o")
_STEMS = {
    "vision": ("rgbt_stem.proj.1.weight", "o c t y x -> t y x c o"),  # 0 is the padding module
    "audio": _IMAGE,
    "depth": ("depth_stem.proj.weight", "o c y x -> y x c o"),
    "thermal": _IMAGE,
    "imu": ("imu_stem.proj.weight", "o (c p) -> p c o"),  # a linear map of 6 channels x 8 samples
}
_HEAD_NORM = {"text": "proj.0"}  # others: 0
_HEAD = {"text": "proj.1", "imu": "3"}  # others: 2; imu has a dropout before


def _block(prefix: str) -> list[Rule]:
    ours = "trunk/blocks"
    return [
        *layer_norm_rules(f"{prefix}.norm_1", f"{ours}/norm_1"),
        Rule(f"{prefix}.attn.in_proj_weight", f"{ours}/attn/qkv/kernel", "(n h k) d -> d n h k"),
        Rule(f"{prefix}.attn.in_proj_bias", f"{ours}/attn/qkv/bias", "(n h k) -> n h k"),
        Rule(f"{prefix}.attn.bias_k", f"{ours}/attn/bias_k", "1 1 (h k) -> h k"),
        Rule(f"{prefix}.attn.bias_v", f"{ours}/attn/bias_v", "1 1 (h k) -> h k"),
        Rule(f"{prefix}.attn.out_proj.weight", f"{ours}/attn/out/kernel", "d (h k) -> h k d"),
        Rule(f"{prefix}.attn.out_proj.bias", f"{ours}/attn/out/bias"),
        *layer_norm_rules(f"{prefix}.norm_2", f"{ours}/norm_2"),
        *linear_rules(f"{prefix}.mlp.fc1", f"{ours}/mlp/fc1"),
        *linear_rules(f"{prefix}.mlp.fc2", f"{ours}/mlp/fc2"),
    ]


def rules(modality: str, _: EncoderConfig | None = None) -> list[Rule]:
    """Every rule of one modality; a model's leaves pick those it has."""
    stem, axes = _STEMS.get(modality, ("", ""))
    pre, out = f"{_IN}{modality}", f"{_OUT}{modality}"
    position = "pos_embed" if modality in ("text", "imu") else "pos_embedding_helper.pos_embed"
    return [
        Rule(f"{pre}.token_embedding.weight", "embed/embedding"),
        Rule(f"{pre}.{stem}", "stem/kernel", axes),
        *layer_norm_rules(f"{pre}.{stem.split('.')[0]}.norm_layer", "stem/norm"),
        Rule(f"{pre}.cls_token", "cls", "1 1 d -> d"),
        Rule(f"{pre}.{position}", "position", "1 l d -> l d"),
        *layer_norm_rules(f"{_TRUNK}{modality}.pre_transformer_layer.0", "trunk/pre_norm"),
        *_block(f"{_TRUNK}{modality}.blocks.{{layer}}"),
        *layer_norm_rules(f"{out}.{_HEAD_NORM.get(modality, '0')}", "norm"),
        Rule(f"{out}.{_HEAD.get(modality, '2')}.weight", "head/kernel", "o i -> i o"),
        Rule(_SCALE.format(modality), "log_logit_scale"),
    ]


def expected_buffers(config: ImageBindConfig) -> dict[str, np.ndarray]:
    """What a state dict holds beside parameters: the causal mask, and the fixed scales."""
    found = {}
    for modality, c in config.encoders.items():
        if c.vocab_size:
            mask = np.full((c.tokens, c.tokens), -np.inf if c.causal else 0, np.float32)
            found[_MASK.format(modality)] = np.triu(mask, 1)
        if c.logit_scale is not None and not c.learn_scale:
            found[_SCALE.format(modality)] = np.array(math.log(c.logit_scale), np.float32)
    return found


def matches(names: Mapping[str, Any]) -> bool:
    """Whether these are names of this format."""
    return any(name.startswith(_TRUNK) for name in names)


def ignored(name: str, modalities: Sequence[str]) -> bool:
    """Other modalities; the causal mask, which is made, not read; scales that the config holds."""
    _, modality, *rest = [*name.split("."), ""]
    if not name.startswith((_IN, _TRUNK, _OUT, _SCALE.partition("{")[0])):
        return False
    if modality not in modalities:
        return modality in HUGE.encoders
    return rest in (["1", "log_logit_scale", ""], ["mask", ""])  # a learned scale is read by a rule


def infer_config(tensors: TensorFile, hints: LoadHints) -> ImageBindConfig:
    """The config of the model in the file, from its tensors' shapes.

    What no tensor tells: numbers of heads (`LoadHints.heads_of`); drop-path and dropout rates, which
    only training uses, are the released model's. Raises UserError where shapes contradict.
    """
    shapes = {name: spec.shape for name, spec in tensors.specs.items()}
    names = {name.split(".")[1] for name in shapes if name.startswith(_TRUNK)}
    modalities = hints.chosen([m for m in HUGE.encoders if m in names], tensors.path)
    unknown = names - HUGE.encoders.keys()
    if unknown and not hints.only:
        raise UserError(f"{tensors.path}: unknown modalities {', '.join(sorted(unknown))}")
    encoders = {m: _encoder(m, tensors, shapes, hints) for m in modalities}
    heads = [f"{_OUT}{m}.{_HEAD.get(m, '2')}.weight" for m in modalities]
    sizes = {shapes[name][0] for name in heads if len(shapes.get(name, ())) == 2}
    if len(sizes) != 1:
        raise UserError(f"{tensors.path}: no common width of {', '.join(heads)}")
    return ImageBindConfig(encoders, sizes.pop())


def _encoder(
    m: str, tensors: TensorFile, shapes: Mapping[str, Any], hints: LoadHints
) -> EncoderConfig:
    block = f"{_TRUNK}{m}.blocks.0"
    keys = {rule.path: rule.key for rule in rules(m)}

    def shape(path: str, rank: int) -> tuple[int, ...]:
        key = keys[path].format(layer=0)
        if len(shapes.get(key, ())) != rank or 0 in shapes[key]:
            raise UserError(f"{tensors.path}: {key} is missing or not of rank {rank}")
        return shapes[key]

    width = shape("trunk/blocks/norm_1/scale", 1)[0]
    tokens = shape("position", 3)[1]
    hidden = shape("trunk/blocks/mlp/fc1/kernel", 2)[0]
    fields: dict[str, Any] = {
        "width": width,
        "depth": count_blocks(shapes, f"{_TRUNK}{m}.blocks."),
        "heads": hints.heads_of(m, width),
        "mlp_ratio": hidden / width,
        "activation": hints.activation or "gelu",  # the reference knows no other
        "bias_kv": f"{block}.attn.bias_k" in shapes,
        "stem_norm": keys["stem/norm/scale"] in shapes,
        "pre_norm": keys["trunk/pre_norm/scale"] in shapes,
        "logit_scale": _scale(m, tensors),
    }
    if m == "text":
        fields |= {"shape": (tokens,), "vocab_size": shape("embed/embedding", 2)[0]}
        mask = _MASK.format(m)
        if mask in tensors.specs and tensors.specs[mask].shape == (tokens, tokens):
            fields |= {"causal": bool(np.any(tensors[mask]))}
    elif m == "imu":
        samples, rest = divmod(shape("stem/kernel", 2)[1], 6)
        if rest:
            raise UserError(f"{tensors.path}: the imu stem is not of 6 channels")
        fields |= {"shape": ((tokens - 1) * samples, 6), "patch": (samples,)}
    else:
        _, channels, *patch = shape("stem/kernel", 5 if m == "vision" else 4)
        rows, columns = _grid(m, tensors, tokens - 1, patch)
        fields |= {"shape": (*patch[:-2], rows, columns, channels), "patch": tuple(patch)}
    return dataclasses.replace(HUGE.encoders[m], **fields)


def _grid(m: str, tensors: TensorFile, positions: int, patch: Sequence[int]) -> tuple[int, int]:
    """(height, width) of pictures, which are square; of spectrograms of 128 bins, stride 10."""
    if m != "audio":
        side = math.isqrt(positions)
        if side * side != positions:
            raise UserError(f"{tensors.path}: {m} has {positions} positions: no square grid")
        return side * patch[-2], side * patch[-1]
    rows = (128 - patch[0]) // 10 + 1
    if rows < 1 or positions % rows:
        raise UserError(f"{tensors.path}: {positions} audio positions are no grid of {rows} rows")
    columns, released = positions // rows, 204
    if (released - patch[1]) // 10 + 1 == columns:
        return 128, released
    return 128, (columns - 1) * 10 + patch[1]


def _scale(modality: str, tensors: TensorFile) -> float | None:
    """The modality's logit scale: the decimal number whose float32 logarithm is stored."""
    name = _SCALE.format(modality)
    if name not in tensors.specs:
        return None
    spec = tensors.specs[name]
    if math.prod(spec.shape) != 1:
        raise UserError(f"{tensors.path}: {name} has shape {spec.shape}: no logit scale")
    stored = np.float32(np.asarray(tensors[name], np.float32).reshape(()))
    if not abs(stored) < 50:  # e ** 50 is finite
        raise UserError(f"{tensors.path}: {name} is {stored}, the logarithm of no logit scale")
    exact = float(np.exp(np.float64(stored)))
    short = round(exact, 3)
    return short if short > 0 and np.float32(math.log(short)) == stored else exact
