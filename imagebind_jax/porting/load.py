"""Weights from any file or folder of this family: opened leaf by leaf, or loaded whole."""

import contextlib
import dataclasses
import os
import pathlib
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType

import jax
import numpy as np
from flax import traverse_util

from imagebind_jax.errors import UserError, one_line
from imagebind_jax.models.encoder import EncoderConfig
from imagebind_jax.models.imagebind import HUGE, ImageBind, ImageBindConfig
from imagebind_jax.porting import position_interpolation
from imagebind_jax.porting.files import own_checkpoint, run_checkpoint
from imagebind_jax.porting.files.parameter_source import ParameterSource, select_encoders
from imagebind_jax.porting.files.tensor_files import RenamedTensors, TensorFile, open_tensors
from imagebind_jax.porting.formats import hugging_face, imagebind, open_clip, rules
from imagebind_jax.porting.formats.hints import LoadHints, find_config_json
from imagebind_jax.runtime import progress

# A format is a module with `matches`, `infer_config`, `rules`, `ignored` and `LICENCE`.
FORMATS: Mapping[str, ModuleType] = {
    "imagebind": imagebind,
    "open_clip": open_clip,
    "hugging_face": hugging_face,
}
# What wrappers put before every name: DDP, torch.compile, PyTorch Lightning.
_PREFIXES = ("", "module.", "_orig_mod.", "model.", "clip.")
_ADAPTER = re.compile(r"w_a_\d+$|.*(\.lora_model\.|_lora/)")  # ImageBind-LoRA's, and ours
# What a folder from a hub holds beside its JSON files.
_DOWNLOADED = (
    "model.safetensors",
    "pytorch_model.bin",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
)
_SLOW = 1 << 30  # bytes, from which on loading shows its progress


class FileCheckpoint(ParameterSource):
    """The parameters in a PyTorch or safetensors file."""

    def __init__(
        self,
        config: ImageBindConfig,
        leaves: Sequence[rules.ParamMapping],
        tensors: TensorFile,
        dtype: str,
        licence: str,
    ):
        said = tensors.note
        origin = said.origin if said else {"file": tensors.path.name, "licence": licence}
        super().__init__(config, dtype, origin)
        self.path = tensors.path
        self.leaves = {leaf.path: leaf for leaf in leaves}
        self.tensors = tensors

    def pieces(self, path: str) -> Iterator[np.ndarray]:
        """As of `ParameterSource`."""
        yield from self.leaves[path].pieces(self.tensors, self.specs[path].dtype)

    def place(self, path: str) -> str:
        """As of `ParameterSource`: the tensors' names, with {0..31} for layers."""
        leaf = self.leaves[path]
        parts = "{" + ",".join(leaf.rule.parts) + "}"
        return leaf.rule.key.format(layer=f"{{0..{len(leaf.keys) - 1}}}", part=parts)


@contextlib.contextmanager
def open_weights(
    path: str | os.PathLike,
    *,
    modalities: Sequence[str] = (),
    dtype: str = "float32",
    source: str = "auto",
    heads: Mapping[str, int] | None = None,
    activation: str | None = None,
    assumed: Mapping[str, EncoderConfig] | None = None,
) -> Iterator[ParameterSource]:
    """Opens a checkpoint; reads names, shapes and sizes, no weights. Arguments as of `load`.

    assumed: encoders whose heads and activation are believed where nothing else says them.
    """
    modalities = (modalities,) if isinstance(modalities, str) else tuple(modalities)
    hints = LoadHints(heads or {}, activation, modalities, assumed=assumed)
    if source not in ("auto", *FORMATS):
        raise UserError(f"source {source!r}: not one of auto, {', '.join(FORMATS)}")
    path = pathlib.Path(path)
    with contextlib.ExitStack() as stack:
        try:
            weights = _open_any(stack, path, dtype, source, hints)
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
        except UserError as error:
            line = one_line(str(error))
            where = "" if str(path) in line else f"{one_line(str(path))}: "
            raise UserError(f"{where}{line}") from error
        yield weights


def _open_any(
    stack: contextlib.ExitStack, path: pathlib.Path, dtype: str, source: str, hints: LoadHints
) -> ParameterSource:
    if (
        path.is_dir()
        and not (path / own_checkpoint.NOTE).is_file()
        and not run_checkpoint.is_run(path)
    ):
        downloaded = [path / name for name in _DOWNLOADED if (path / name).is_file()]
        path = downloaded[0] if downloaded else path
    if path.is_dir():
        kind = (
            run_checkpoint.RunCheckpoint
            if run_checkpoint.is_run(path)
            else own_checkpoint.OwnCheckpoint
        )
        weights = kind(path, hints.only, dtype)
        hints.check(weights.config, path)
        return weights
    tensors = stack.enter_context(open_tensors(path))
    form, tensors = _detect_format(tensors, source)
    if tensors.note:
        config = tensors.note.config
        if any(c.depth > len(tensors.specs) for c in config.encoders.values()):
            raise UserError(f"{path}: its note tells of more layers than it has tensors")
        config = select_encoders(config, hints.only, path)
    else:
        hints = dataclasses.replace(hints, config=find_config_json(path))
        config = form.infer_config(tensors, hints)
    hints.check(config, path)
    tables = {m: form.rules(m, encoder) for m, encoder in config.encoders.items()}
    leaves = rules.map_params(config, tables)
    loaded = list(tables) if hints.only else [*tables, *HUGE.encoders]
    rules.check_complete(str(path), leaves, tensors, lambda key: form.ignored(key, loaded))
    return FileCheckpoint(config, leaves, tensors, dtype, form.LICENCE)


def _detect_format(tensors: TensorFile, source: str) -> tuple[ModuleType, TensorFile]:
    if any(_ADAPTER.match(name) for name in tensors.specs):
        raise UserError(
            f"{tensors.path} holds adapters: load the checkpoint that they were trained on, then "
            "load them by `porting.lora.load_adapters` (convert: --source lora --base CKPT)"
        )
    for prefix in _PREFIXES:
        old = {n.removeprefix(prefix): n for n in tensors.specs if n.startswith(prefix)}
        for name, form in FORMATS.items():
            if source in ("auto", name) and form.matches(old):
                found = RenamedTensors(tensors, old) if prefix else tensors
                if rest := [n for n in tensors.specs if not n.startswith(prefix)]:
                    warnings.warn(
                        f"{tensors.path}: {len(rest)} tensors without {prefix} before their names "
                        f"are passed over: {', '.join(rest)[:200]}",
                        stacklevel=4,
                    )
                return form, getattr(form, "canonical_names", lambda tensors: tensors)(found)
    names = list(tensors.specs)
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    raise UserError(
        f"{tensors.path}: no checkpoint of {' or '.join(FORMATS)}: it holds {shown or 'no tensor'}"
    )


def load(
    path: str | os.PathLike,
    *,
    modalities: Sequence[str] = (),
    dtype: str = "float32",
    source: str = "auto",
    heads: Mapping[str, int] | None = None,
    activation: str | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> tuple[ImageBind, dict]:
    """(model, params) of a checkpoint: .pth, .pt or .safetensors, or a folder of ours.

    modalities: load only these encoders, reading only their bytes (empty: all there are).
    dtype: of the parameters and the computation; "bfloat16" takes half the memory.
    source: "imagebind", "open_clip" (OpenAI's CLIP, too) or "hugging_face" (CLIPModel); "auto"
        looks at the names of the tensors.
    heads, activation: {modality: number of heads} and "gelu" or "quick_gelu", for a checkpoint of
        unusual widths or of OpenAI's without a config beside it: no tensor tells.
    shapes: {modality: input shape without batch axis}, e.g. {"vision": (2, 448, 448, 3)}:
        positions are interpolated (`position_interpolation.interpolate_positions`).

    Raises UserError, in one line, on a file that is damaged, hostile, or of another family.
    """
    with open_weights(
        path,
        modalities=modalities,
        dtype=dtype,
        source=source,
        heads=heads,
        activation=activation,
    ) as weights:
        encoders = dict(weights.config.encoders)
        for modality, shape in (shapes or {}).items():
            if modality not in encoders:
                raise UserError(f"no {modality!r} encoder here: only {', '.join(encoders)}")
            encoders[modality] = position_interpolation.with_input_shape(encoders[modality], shape)
        config = dataclasses.replace(weights.config, encoders=encoders, dtype=dtype)
        flat = {path: jax.device_put(x) for path, x in _all(weights, config)}
    return ImageBind(config), traverse_util.unflatten_dict(flat, sep="/")


def read_config(path: str | os.PathLike, **how) -> ImageBindConfig:
    """The config of a checkpoint's model, without reading its weights. Arguments as of `load`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # heard again when the weights are loaded
        with open_weights(path, **how) as weights:
            return weights.config


def _all(weights: ParameterSource, config: ImageBindConfig) -> Iterator[tuple[str, np.ndarray]]:
    """Every leaf, fitted, with progress where it takes more than a moment."""
    total, done = sum(spec.nbytes for spec in weights.specs.values()), 0
    slow = progress.Progress("load", total >> 20) if total > _SLOW else None
    with slow or contextlib.nullcontext():
        for path, spec in weights.specs.items():
            yield path, resize_positions(weights, path, config)
            done += spec.nbytes
            if slow:
                slow.update(done >> 20, "MiB")


def resize_positions(weights: ParameterSource, path: str, config: ImageBindConfig) -> np.ndarray:
    """A leaf for a model whose inputs may have other shapes than those of `weights`."""
    leaf = weights.read(path)
    modality, _, name = path.partition("/")
    old, new = weights.config.encoders[modality], config.encoders[modality]
    if name == "position" and old.shape != new.shape:
        return position_interpolation.interpolate_positions(leaf, old, new)
    return leaf
