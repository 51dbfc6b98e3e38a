"""The files of the PyTorch project ImageBind-LoRA (fabawi/ImageBind-LoRA), read and written.

Its adapter stands beside the whole attention of a block: attn(x) + x A B with x the block's first
norm's output (our target "attn", scale 1). `imagebind-lora-vision_last.safetensors` numbers the
adapted layers `w_a_000`, `w_b_000`, ... and does not say which layers those are. Beside it stand
all modalities' heads and logit scales, `imagebind-{heads,postprocessors}_last.pth`.

Its adapted trunk passes no attention mask on: an adapted text encoder sees the whole text, in
training and after. So `causal` is False in what is read here.
"""

import dataclasses
import math
import pathlib
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from imagebind_jax.errors import UserError
from imagebind_jax.models.imagebind import HUGE, ImageBindConfig
from imagebind_jax.porting.files import provenance
from imagebind_jax.porting.files.parameter_source import is_stacked, select_encoders
from imagebind_jax.porting.files.tensor_files import RenamedTensors, TensorFile, open_tensors
from imagebind_jax.porting.files.tensor_writers import write_safetensors, write_torch
from imagebind_jax.porting.formats import imagebind, rules
from imagebind_jax.porting.torch_pickle.torch_file import TensorSpec

Layers = Sequence[int] | Mapping[str, Sequence[int]] | None
Leaves = dict[str, np.ndarray]
Matrices = dict[int, tuple[np.ndarray, np.ndarray]]  # layer -> A [width, rank], B [rank, width]

_FILE = re.compile(rf"imagebind-lora-({'|'.join(HUGE.encoders)})(.*)\.safetensors")
_ADAPTER = re.compile(r"modality_trunks\.(\w+)\.lora_model\.blocks\.(\d{1,4})\.attn\.w_a\.weight")
_PATH = "{}/trunk/blocks/attn_lora/{}"
_HEADS, _SCALES = "modality_heads.", "modality_postprocessors."


def read_adapter_file(
    tensors: TensorFile, config: ImageBindConfig, modality: str | None, layers: Layers
) -> tuple[ImageBindConfig, Leaves]:
    """(config, {path: array}) of one encoder's adapter, or of a checkpoint of the whole model."""
    path = tensors.path
    if any(".lora_model." in name for name in tensors.specs):
        if layers is not None:
            raise UserError(f"{path} says itself which layers are adapted: leave out layers=")
        return _read_checkpoint(tensors, config)
    named = _FILE.fullmatch(path.name)
    if modality is None and named:
        modality = named[1]
    count = sum(name.startswith("w_a_") for name in tensors.specs)
    names = {f"w_{x}_{i:03d}" for x in "ab" for i in range(count)}
    if not count or names != tensors.specs.keys():
        held = ", ".join(list(tensors.specs)[:3])
        raise UserError(f"{path}: no adapter: it holds {held}, not w_a_000, w_b_000, w_a_001 ...")
    if modality is None:
        raise UserError(f"{path}: its name does not say the modality: pass modality=")
    if modality not in config.encoders:
        raise UserError(f"no {modality!r} encoder here: only {', '.join(config.encoders)}")
    if named and path.with_name(f"imagebind-heads{named[2]}.pth").exists():
        warnings.warn(
            f"{path.name}: the heads beside it are not read: load the folder for them", stacklevel=4
        )
    if isinstance(layers, Mapping):
        layers = layers.get(modality)
    matrices = {
        layer: (tensors[f"w_a_{i:03d}"].T, tensors[f"w_b_{i:03d}"].T)
        for i, layer in enumerate(_layers(path, count, config.encoders[modality].depth, layers))
    }
    return _adapted(path, config, modality, matrices)


def _layers(
    path: pathlib.Path, count: int, depth: int, layers: Sequence[int] | None
) -> Sequence[int]:
    """The layers that a file's adapters belong to: always in ascending order, as theirs."""
    if layers is None:
        if count != depth:
            raise UserError(
                f"{path} holds adapters of {count} layers, the encoder has {depth}: "
                "pass layers=, those that were adapted in training, counted from 0"
            )
        return range(depth)
    chosen = sorted(int(i) for i in layers)
    if len(set(chosen)) != len(chosen) or not all(0 <= i < depth for i in chosen):
        raise UserError(f"layers {chosen}: each at most once of 0 to {depth - 1}")
    if len(chosen) != count:
        raise UserError(f"{path} holds adapters of {count} layers, layers= names {len(chosen)}")
    return chosen


def _adapted(
    path: pathlib.Path, config: ImageBindConfig, modality: str, matrices: Matrices
) -> tuple[ImageBindConfig, Leaves]:
    """One encoder with these adapters; other layers have zeros."""
    encoder = config.encoders[modality]
    rank = (*next(iter(matrices.values()))[1].shape, 0)[0]
    shapes = (encoder.width, rank), (rank, encoder.width)
    for pair in matrices.values():
        for name, x, shape in zip("ab", pair, shapes):
            if x.shape != shape or rank == 0:
                found, wanted = x.shape[::-1], shape[::-1]
                raise UserError(f"{path}: {modality} w_{name} has shape {found}, not {wanted}")
            if not (np.issubdtype(x.dtype, np.floating) or x.dtype.name == "bfloat16"):
                raise UserError(f"{path}: {modality} w_{name} holds {x.dtype}, not weights")
    a, b = (np.zeros((encoder.depth, *shape), np.float32) for shape in shapes)
    for layer, pair in matrices.items():
        a[layer], b[layer] = pair
    changes = {"lora": ("attn",), "lora_rank": rank, "lora_scale": 1.0}
    if encoder.vocab_size:
        changes["causal"] = False
    leaves = {_PATH.format(modality, "a"): a, _PATH.format(modality, "b"): b}
    return replace_encoder(config, modality, **changes), leaves


def replace_encoder(config: ImageBindConfig, modality: str, **changes: Any) -> ImageBindConfig:
    """The config with fields of one encoder changed."""
    encoder = dataclasses.replace(config.encoders[modality], **changes)
    return dataclasses.replace(config, encoders={**config.encoders, modality: encoder})


def read_adapter_folder(
    path: pathlib.Path, config: ImageBindConfig, layers: Layers, postfix: str | None
) -> tuple[ImageBindConfig, Leaves]:
    """The adapters of the encoders that the model has, and all of its heads and logit scales."""
    found = [match for file in sorted(path.iterdir()) if (match := _FILE.fullmatch(file.name))]
    postfixes = sorted({match[2] for match in found})
    if postfix is None and len(postfixes) > 1:
        raise UserError(f"{path} holds adapters with {', '.join(postfixes)}: pass postfix=")
    postfix = postfixes[0] if postfix is None and postfixes else postfix
    found = [match for match in found if match[2] == postfix and match[1] in config.encoders]
    if not found:
        raise UserError(
            f"{path}: no imagebind-lora-*{postfix or ''}.safetensors of {', '.join(config.encoders)}"
        )
    leaves: Leaves = {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*the heads beside it")
        for match in found:
            with open_tensors(path / match[0]) as tensors:
                config, read = read_adapter_file(tensors, config, match[1], layers)
            leaves |= read
    for part, read_part in (("heads", _read_heads), ("postprocessors", _read_scales)):
        file = path / f"imagebind-{part}{postfix}.pth"
        if not file.exists():
            warnings.warn(f"no {file.name} beside the adapters: the base's are kept", stacklevel=3)
            continue
        with open_tensors(file) as tensors:
            config, read = read_part(tensors, config)
        leaves |= read
    return config, leaves


def _read_heads(tensors: TensorFile, config: ImageBindConfig) -> tuple[ImageBindConfig, Leaves]:
    tensors = RenamedTensors(tensors, {_HEADS + name: name for name in tensors.specs})
    modalities = {name.split(".")[1] for name in tensors.specs}
    some = [m for m in config.encoders if m in modalities]
    found = [leaf for leaf in _table(config, some) if leaf.rule.key.startswith(_HEADS)]
    rules.check_complete(
        str(tensors.path), found, tensors, lambda key: key.split(".")[1] not in some
    )
    return config, {leaf.path: _whole(leaf, tensors) for leaf in found}


def _read_scales(tensors: TensorFile, config: ImageBindConfig) -> tuple[ImageBindConfig, Leaves]:
    """Logit scales: a parameter where they are learned, else a number in the config."""
    leaves: Leaves = {}
    for name, spec in tensors.specs.items():
        modality, _, rest = name.partition(".")
        if rest != "1.log_logit_scale" or math.prod(spec.shape) != 1:
            raise UserError(f"{tensors.path}: {name} {spec.shape} is no logit scale")
        if modality not in config.encoders:
            continue
        encoder = config.encoders[modality]
        log = np.float32(tensors[name].reshape(()))
        if not abs(log) < 50:  # e ** 50 is finite
            raise UserError(f"{tensors.path}: {name} is {log}, the logarithm of no logit scale")
        if encoder.learn_scale:
            leaves[f"{modality}/log_logit_scale"] = np.asarray(log)
        elif not math.isclose(scale := math.exp(log), encoder.logit_scale or 1.0, rel_tol=1e-6):
            config = replace_encoder(config, modality, logit_scale=scale)
    return config, leaves


def _table(config: ImageBindConfig, modalities: Sequence[str]) -> list[rules.ParamMapping]:
    """Where the reference keeps every leaf of these encoders, adapters apart."""
    if not modalities:
        return []
    some = select_encoders(config, modalities, "this model")
    for modality in modalities:
        some = replace_encoder(some, modality, lora=())
    return rules.map_params(some, {m: imagebind.rules(m) for m in modalities})


def _whole(leaf: rules.ParamMapping, tensors: TensorFile) -> np.ndarray:
    pieces = list(leaf.pieces(tensors, np.dtype(np.float32)))
    return np.stack(pieces) if is_stacked(leaf.path) else pieces[0]


def _read_checkpoint(
    tensors: TensorFile, config: ImageBindConfig
) -> tuple[ImageBindConfig, Leaves]:
    """A whole model, as PyTorch Lightning saved it: every weight of the encoders that both have.

    The adapted attention has its own weights under `attn.w`, and once more under `prev_attn`.
    """
    path = tensors.path
    old = {name.removeprefix("model."): name for name in tensors.specs}
    matrices: dict[str, Matrices] = {}
    for name in old:
        if (match := _ADAPTER.fullmatch(name)) and match[1] in config.encoders:
            other = name.replace(".w_a.", ".w_b.")
            if other not in old or int(match[2]) >= config.encoders[match[1]].depth:
                raise UserError(f"{path}: {name} without {other}, or beyond the encoder's depth")
            pair = tensors[old[name]].T, tensors[old[other]].T
            matrices.setdefault(match[1], {})[int(match[2])] = pair
    base = {
        name.replace(".lora_model.", ".").replace(".attn.w.", ".attn."): full
        for name, full in old.items()
        if ".prev_attn." not in name and ".attn.w_" not in name
    }
    if not matrices:
        raise UserError(f"{path} adapts none of {', '.join(config.encoders)}")
    there = {name.split(".")[1] for name in base if name.startswith("modality_trunks.")}
    some = [m for m in config.encoders if m in there]
    renamed = RenamedTensors(
        tensors, {n: old for n, old in base.items() if {*n.split(".")[1:2]} & {*some}}
    )
    found = _table(config, some)
    rules.check_complete(str(path), found, renamed, lambda key: imagebind.ignored(key, some))
    leaves = {leaf.path: _whole(leaf, renamed) for leaf in found}
    scales = {n.removeprefix(_SCALES): n for n in renamed.specs if n.startswith(_SCALES)}
    config, read = _read_scales(RenamedTensors(renamed, scales), config)
    leaves |= read
    for modality, pairs in matrices.items():
        config, read = _adapted(path, config, modality, pairs)
        leaves |= read
    return config, leaves


def write_file(path: pathlib.Path, tensors: Leaves, config: ImageBindConfig) -> None:
    """Writes .safetensors with a digest of every tensor, and the config that they belong to."""
    specs = {name: TensorSpec(x.shape, x.dtype) for name, x in tensors.items()}
    write_safetensors(
        path, specs, tensors.items(), lambda d: provenance.WeightsMetadata(config, {}, dict(d))
    )


def write_folder(
    path: pathlib.Path, config: ImageBindConfig, flat: Mapping[str, Any], postfix: str
) -> None:
    """Adapters with the target "attn", all heads and all logit scales, in their names and axes."""
    for modality, encoder in config.encoders.items():
        if encoder.lora:
            a, b = (np.asarray(flat[_PATH.format(modality, x)], np.float32) for x in "ab")
            b = np.float32(encoder.lora_scale) * b
            tensors = {f"w_a_{i:03d}": x.T for i, x in enumerate(a)}
            tensors |= {f"w_b_{i:03d}": x.T for i, x in enumerate(b)}
            write_file(path / f"imagebind-lora-{modality}{postfix}.safetensors", tensors, config)
    tensors = {
        leaf.keys[0][0]: leaf.theirs(np.asarray(flat[leaf.path], np.float32))
        for leaf in _table(config, list(config.encoders))
        if leaf.rule.key.startswith((_HEADS, _SCALES))
    } | imagebind.expected_buffers(config)
    for part, prefix in (("heads", _HEADS), ("postprocessors", _SCALES)):
        chosen = {n.removeprefix(prefix): x for n, x in tensors.items() if n.startswith(prefix)}
        specs = {name: TensorSpec(x.shape, x.dtype) for name, x in chosen.items()}
        write_torch(path / f"imagebind-{part}{postfix}.pth", specs, chosen.items())
