"""What the JSON file beside a CLIP checkpoint says of a tower: OpenCLIP's and Hugging Face's kind."""

from collections.abc import Mapping
from typing import Any

from imagebind_jax.errors import UserError

# Hugging Face's names of what `layers.ACTIVATIONS` has.
_ACTIVATIONS = {
    "gelu": "gelu",
    "quick_gelu": "quick_gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}
_END = 49407  # CLIP's end-of-text token, the largest of its vocabulary


def tower_config_from_json(config: Mapping[str, Any], modality: str) -> dict[str, Any]:
    """{"width", "heads", "activation", "norm_eps"} of the "vision" or "text" tower.

    {} where the file has another layout. What a file leaves out has the default of the program
    that wrote it: both leave out what is usual. Raises UserError, without the file's name, where
    the tower is said to work in a way that ours do not.
    """
    model = _object(config, "model_cfg") if "model_cfg" in config else config
    if f"{modality}_cfg" in model:
        return _open_clip(model, _object(model, f"{modality}_cfg"), modality)
    if f"{modality}_config" in config:
        tower, older = _object(config, f"{modality}_config"), f"{modality}_config_dict"
        if config.get(older):  # of transformers before 4.30; the library lets it win
            tower = tower | _object(config, older)
        return _hugging_face(tower, modality)
    if config.get("model_type") == f"clip_{modality}_model":
        return _hugging_face(config, modality)
    return {}


def _open_clip(model: Mapping, tower: Mapping, modality: str) -> dict[str, Any]:
    """open_clip_config.json of the hub, or a file of OpenCLIP's model_configs."""
    if "timm_model_name" in tower or "hf_model_name" in tower:
        return {}  # the tensors' names tell that it is not of our kind
    if modality == "vision":
        width = _positive(tower, "width", 768)
        heads = width // _positive(tower, "head_width", 64)
        _square(tower)
        if tower.get("pool_type", "tok") != "tok":
            raise UserError(f"its images are pooled by {tower['pool_type']!r}, not by a cls token")
    else:
        width, heads = _positive(tower, "width", 512), _positive(tower, "heads", 8)
        pool, end = tower.get("pool_type", "argmax"), tower.get("eos_id")
        if pool == "eos" and end == _positive(tower, "vocab_size", _END + 1) - 1:
            pool = "argmax"  # the same: no id is larger
        if pool != "argmax":
            raise UserError(f"its texts are pooled by {pool!r}, not at the token of the largest id")
        if tower.get("no_causal_mask"):
            raise UserError("its text tower has no causal mask")
    return {
        "width": width,
        "heads": heads,
        "activation": _open_clip_activation(model, tower.get("act_kwargs") or {}),
        "norm_eps": _open_clip_eps(tower.get("norm_kwargs") or {}),
    }


def _open_clip_activation(model: Mapping, options: Any) -> str:
    if options not in ({}, {"approximate": "none"}, {"approximate": "tanh"}):
        raise UserError(f"its activation has the options {options}, which are not known here")
    if model.get("quick_gelu"):
        return "quick_gelu"
    return "gelu_tanh" if options == {"approximate": "tanh"} else "gelu"


def _open_clip_eps(options: Any) -> float:
    if not isinstance(options, dict) or options.keys() - {"eps"}:
        raise UserError(f"its norms have the options {options}, which are not known here")
    return _positive(options, "eps", 1e-5, float)


def _hugging_face(tower: Mapping, modality: str) -> dict[str, Any]:
    """A CLIPVisionConfig or CLIPTextConfig, alone or in a CLIPConfig."""
    vision = modality == "vision"
    act = tower.get("hidden_act", "quick_gelu")
    if not isinstance(act, str) or act not in _ACTIVATIONS:
        raise UserError(f"activation {act!r} is not one of {', '.join(_ACTIVATIONS)}")
    _square(tower)
    # 2: written before transformers 4.31, which pools at the largest id there, as CLIP does.
    last = _positive(tower, "vocab_size", _END + 1) - 1
    ends = (2, last)  # 2 was written by mistake for long; the library then takes the largest id
    end = tower.get("eos_token_id", last)
    if not vision and end not in ends:
        raise UserError(f"its texts are pooled at token {end}, which is not the largest id")
    return {
        "width": _positive(tower, "hidden_size", 768 if vision else 512),
        "heads": _positive(tower, "num_attention_heads", 12 if vision else 8),
        "activation": _ACTIVATIONS[act],
        "norm_eps": _positive(tower, "layer_norm_eps", 1e-5, float),
    }


def _object(config: Mapping, key: str) -> dict[str, Any]:
    if not isinstance(config[key], dict):
        raise UserError(f"{key} is no JSON object")
    return config[key]


def _positive(tower: Mapping, key: str, default: Any, kind: type = int) -> Any:
    value = tower.get(key, default)
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not (whole or kind is float and isinstance(value, float)) or not 0 < value < 1e9:
        raise UserError(f"{key} is {value!r}, no positive {kind.__name__}")
    return value


def _square(tower: Mapping) -> None:
    size = tower.get("image_size")
    if isinstance(size, list) and len(set(map(str, size))) > 1:
        raise UserError(f"its images are not square: {size}")
