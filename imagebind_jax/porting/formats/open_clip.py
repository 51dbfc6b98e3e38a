"""OpenCLIP's and OpenAI's ViT checkpoints: their names, their axes, what of them is not supported."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from imagebind_jax.models.encoder import EncoderConfig
from imagebind_jax.models.imagebind import ImageBindConfig
from imagebind_jax.porting.files.tensor_files import RenamedTensors, TensorFile
from imagebind_jax.porting.formats import clip_common
from imagebind_jax.porting.formats.hints import LoadHints
from imagebind_jax.porting.formats.rules import Rule, layer_norm_rules, linear_rules
from imagebind_jax.porting.torch_pickle.torch_file import TensorSpec

LICENCE = clip_common.LICENCE
# How the plain text tower's names start; only the vision tower has a prefix of its own.
_TEXT = ("transformer.", "token_", "positional_", "ln_final.", "text_projection", "attn_mask")
_NESTED = "text."  # before the text tower's names in a CustomTextCLIP
_LINEAR = "text_projection.weight"  # of a projection that is a linear map without bias
# What OpenAI's own state dicts have as tensors without axes, and OpenCLIP's never.
_OPENAI = ("input_resolution", "context_length", "vocab_size")
# The causal mask is made, not read; the bias of a sigmoid loss shifts all cosines alike.
_IGNORED = (*_OPENAI, "attn_mask", "logit_bias")

_UNSUPPORTED = {
    r"^visual\.(layer\d|attnpool)\.": "a ResNet image tower",
    r"^visual\.trunk\.": "an image tower of timm (SigLIP, EVA, ConvNeXt)",
    r"^visual\.attn_pool": "attention pooling (CoCa)",
    r"^visual\.(patch_embed|blocks|head)\.": "an image tower that is not OpenCLIP's own",
    r"^text_decoder\.": "a text decoder (CoCa)",
    r"^text\.cls_emb$": "a class token behind the text (CoCa)",
    r"^audio": "an audio tower (CLAP)",
    r"^transformer\.(?!resblocks\.)": "a text tower of Hugging Face",
    r"^text\.blocks\.": "OpenCLIP's modern text tower",
    r"\.ls_[12]\.gamma$": "LayerScale",
    r"\.attn\.(ln_|logit_scale|head_scale)|\.ln_attn\.|\.mlp\.ln\.": "a norm or scale in attention",
    r"^text_projection\.bias$": "a text projection with a bias",
}


def rules(modality: str, _: EncoderConfig | None = None) -> list[Rule]:
    """Every rule of one modality, with the names that `canonical_names` gives."""
    top = "visual." if modality == "vision" else ""
    theirs, ours = f"{top}transformer.resblocks.{{layer}}", "trunk/blocks"
    rules = [
        Rule(f"{top}positional_embedding", "position"),
        *layer_norm_rules(f"{theirs}.ln_1", f"{ours}/norm_1"),
        Rule(f"{theirs}.attn.in_proj_weight", f"{ours}/attn/qkv/kernel", "(n h k) d -> d n h k"),
        Rule(f"{theirs}.attn.in_proj_bias", f"{ours}/attn/qkv/bias", "(n h k) -> n h k"),
        Rule(f"{theirs}.attn.out_proj.weight", f"{ours}/attn/out/kernel", "d (h k) -> h k d"),
        Rule(f"{theirs}.attn.out_proj.bias", f"{ours}/attn/out/bias"),
        *layer_norm_rules(f"{theirs}.ln_2", f"{ours}/norm_2"),
        *linear_rules(f"{theirs}.mlp.c_fc", f"{ours}/mlp/fc1"),
        *linear_rules(f"{theirs}.mlp.c_proj", f"{ours}/mlp/fc2"),
    ]
    if modality == "vision":
        return rules + [
            clip_common.patch_conv_rule("visual.conv1.weight"),
            Rule("visual.class_embedding", "cls"),
            *layer_norm_rules("visual.ln_pre", "trunk/pre_norm"),
            *layer_norm_rules("visual.ln_post", "norm"),
            Rule("visual.proj", "head/kernel"),
        ]
    return rules + [
        Rule("token_embedding.weight", "embed/embedding"),
        *layer_norm_rules("ln_final", "norm"),
        Rule("text_projection", "head/kernel"),
        Rule("logit_scale", "log_logit_scale"),
    ]


def matches(names: Mapping[str, Any]) -> bool:
    """Whether these are names of this format, supported or not."""
    starts = ("visual.", "text.", "transformer.resblocks.", "token_embedding.")
    return any(name.startswith(starts) for name in names)


def canonical_names(tensors: TensorFile) -> TensorFile:
    """The same tensors, named and shaped as those of the plain CLIP class.

    CustomTextCLIP nests the text tower under "text."; a logit scale may have one axis of length 1;
    a text projection may be a linear map, [embed, width].
    """
    names = {}
    for name in tensors.specs:
        plain = name.removeprefix(_NESTED)
        known = plain.startswith(_TEXT) and plain not in tensors.specs
        names[plain if known else name] = name
    return _Canonical(tensors, names)


class _Canonical(RenamedTensors):
    def __init__(self, tensors: TensorFile, names: Mapping[str, str]):
        names = dict(names)
        self._transposed = _LINEAR in names and "text_projection" not in names
        if self._transposed:
            names["text_projection"] = names.pop(_LINEAR)
        super().__init__(tensors, names)
        for name in {"logit_scale", "text_projection"} & self.specs.keys():
            spec = self.specs[name]
            seen = self._plain(name, np.broadcast_to(np.float32(0), spec.shape))  # no memory
            self.specs[name] = TensorSpec(seen.shape, spec.dtype)

    def __getitem__(self, name: str) -> np.ndarray:
        return self._plain(name, super().__getitem__(name))

    def _plain(self, name: str, x: np.ndarray) -> np.ndarray:
        if name == "logit_scale" and x.shape == (1,):
            return x.reshape(())
        return x.T if name == "text_projection" and self._transposed else x


def ignored(name: str, modalities: Sequence[str]) -> bool:
    """What another tower needs, and what nothing needs."""
    return name in _IGNORED or _tower(name) not in ("", *modalities)


def infer_config(tensors: TensorFile, hints: LoadHints) -> ImageBindConfig:
    """The config of the model in the file, from its tensors' shapes and the JSON file beside it.

    Raises UserError on what our encoders do not have, and where shapes contradict.
    """
    clip_common.reject_unsupported(tensors, _UNSUPPORTED, _tower, hints.only)
    towers = {_tower(name) for name in tensors.specs if name != "logit_scale"}
    wanted = hints.chosen([m for m in clip_common.MODALITIES if m in towers], tensors.path)
    is_openai = all(name in tensors.specs for name in _OPENAI)
    tables = {m: rules(m) for m in wanted}
    return clip_common.infer_config(
        tensors, hints, tables, "quick_gelu" if is_openai else None, "gelu"
    )


def _tower(name: str) -> str:
    """The modality that a tensor belongs to, or ""."""
    if name.startswith("visual."):
        return "vision"
    return "text" if name.startswith((*_TEXT, _NESTED, "logit_scale")) else ""
