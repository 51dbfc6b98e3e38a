"""Hugging Face's CLIPModel, and its towers with projection alone: their names and their axes."""

from collections.abc import Mapping, Sequence
from typing import Any

from imagebind_jax.models.encoder import EncoderConfig
from imagebind_jax.models.imagebind import ImageBindConfig
from imagebind_jax.porting.files.tensor_files import TensorFile
from imagebind_jax.porting.formats import clip_common
from imagebind_jax.porting.formats.hints import LoadHints
from imagebind_jax.porting.formats.rules import Rule, layer_norm_rules, linear_rules

LICENCE = clip_common.LICENCE
_PARTS = ("q", "k", "v")
_UNSUPPORTED = {
    r"^vision_model\.(head\.|embeddings\.patch_embedding\.bias)": "an image tower of SigLIP",
    r"^text_model\.(encoder\.layer|roberta|transformer|head)\b": "a text tower that is not CLIP's",
    r"^audio_model\.": "an audio tower (CLAP)",
    r"^(mit|prompts_)": "a video model (X-CLIP)",
    r"^(vision_model|text_model)\.encoder\.layers\.\d+\.self_attn\.(qkv|projection)\.": "BLIP",
}


def rules(modality: str, _: EncoderConfig | None = None) -> list[Rule]:
    """Every rule of one modality."""
    top = f"{modality}_model"
    theirs, ours = f"{top}.encoder.layers.{{layer}}", "trunk/blocks"
    part = f"{theirs}.self_attn.{{part}}_proj"
    rules = [
        Rule(f"{top}.embeddings.position_embedding.weight", "position"),
        *layer_norm_rules(f"{theirs}.layer_norm1", f"{ours}/norm_1"),
        Rule(f"{part}.weight", f"{ours}/attn/qkv/kernel", "n (h k) d -> d n h k", _PARTS),
        Rule(f"{part}.bias", f"{ours}/attn/qkv/bias", "n (h k) -> n h k", _PARTS),
        Rule(f"{theirs}.self_attn.out_proj.weight", f"{ours}/attn/out/kernel", "d (h k) -> h k d"),
        Rule(f"{theirs}.self_attn.out_proj.bias", f"{ours}/attn/out/bias"),
        *layer_norm_rules(f"{theirs}.layer_norm2", f"{ours}/norm_2"),
        *linear_rules(f"{theirs}.mlp.fc1", f"{ours}/mlp/fc1"),
        *linear_rules(f"{theirs}.mlp.fc2", f"{ours}/mlp/fc2"),
    ]
    if modality == "vision":
        return rules + [
            clip_common.patch_conv_rule(f"{top}.embeddings.patch_embedding.weight"),
            Rule(f"{top}.embeddings.class_embedding", "cls"),
            *layer_norm_rules(f"{top}.pre_layrnorm", "trunk/pre_norm"),  # so they spell it
            *layer_norm_rules(f"{top}.post_layernorm", "norm"),
            Rule("visual_projection.weight", "head/kernel", "e d -> d e"),
        ]
    return rules + [
        Rule(f"{top}.embeddings.token_embedding.weight", "embed/embedding"),
        *layer_norm_rules(f"{top}.final_layer_norm", "norm"),
        Rule("text_projection.weight", "head/kernel", "e d -> d e"),
        Rule("logit_scale", "log_logit_scale"),
    ]


def matches(names: Mapping[str, Any]) -> bool:
    """Whether these are names of this format, supported or not."""
    return any(name.startswith(("vision_model.", "text_model.")) for name in names)


def ignored(name: str, modalities: Sequence[str]) -> bool:
    """What another tower needs, and the numbers 0, 1, 2 ... of older files."""
    return name.endswith(".embeddings.position_ids") or _tower(name) not in ("", *modalities)


def infer_config(tensors: TensorFile, hints: LoadHints) -> ImageBindConfig:
    """The config of the model in the file, from its tensors' shapes and the JSON file beside it.

    A text tower alone has no logit scale: its cosines are not scaled. Raises UserError on what our
    encoders do not have, and where shapes contradict.
    """
    clip_common.reject_unsupported(tensors, _UNSUPPORTED, _tower, hints.only)
    towers = {_tower(name) for name in tensors.specs if name != "logit_scale"}
    wanted = hints.chosen([m for m in clip_common.MODALITIES if m in towers], tensors.path)
    tables = {m: rules(m) for m in wanted}
    if "vision" not in towers and "logit_scale" not in tensors.specs:
        tables = {m: [r for r in t if r.key != "logit_scale"] for m, t in tables.items()}
    return clip_common.infer_config(tensors, hints, tables, None, "quick_gelu")


def _tower(name: str) -> str:
    """The modality that a tensor belongs to, or ""."""
    if name.startswith(("vision_model.", "visual_projection.")):
        return "vision"
    return "text" if name.startswith(("text_model.", "text_projection.", "logit_scale")) else ""
