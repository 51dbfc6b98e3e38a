"""What OpenCLIP's, OpenAI's and Hugging Face's CLIP have in common: two towers, described by shapes."""

import dataclasses
import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from imagebind_jax.errors import UserError
from imagebind_jax.models.encoder import EncoderConfig
from imagebind_jax.models.imagebind import ImageBindConfig
from imagebind_jax.porting.files.tensor_files import TensorFile
from imagebind_jax.porting.formats import clip_config
from imagebind_jax.porting.formats.hints import LoadHints, count_blocks
from imagebind_jax.porting.formats.rules import Rule

MODALITIES = ("vision", "text")
FRAMES = 2  # of our vision input; an image is repeated over them
LICENCE = "as its model card says: OpenAI's and LAION's weights are MIT, others are not"
_VOCABULARY = 49408  # of CLIP's tokenizer, the one that `tokenize` has


def patch_conv_rule(key: str) -> Rule:
    """The rule of a convolution over patches of an image, halved for each of two frames.

    Halves are exact, and so an image that is repeated gives what CLIP gives for it.
    """
    return Rule(key, "stem/kernel", "o c y x -> t y x c o", inflate="t")


def reject_unsupported(
    tensors: TensorFile,
    reasons: Mapping[str, str],
    tower_of: Callable[[str], str],
    only: Sequence[str],
) -> None:
    """Raises UserError for the first of `reasons`, {pattern of a name: why}, that the file shows."""
    names = [name for name in tensors.specs if not only or tower_of(name) in ("", *only)]
    for pattern, why in reasons.items():
        found = next((name for name in names if re.search(pattern, name)), None)
        if found:
            raise UserError(f"{tensors.path}: {why} is not supported ({found})")


def infer_config(
    tensors: TensorFile,
    hints: LoadHints,
    tables: Mapping[str, Sequence[Rule]],
    activation: str | None,
    usual: str,
) -> ImageBindConfig:
    """The config of the towers in `tables`, from their tensors' shapes and the file beside.

    activation: where `hints` do not say it but the checkpoint does; `usual` is taken, with a
    warning, where nothing does: a wrong one gives wrong embeddings and no error.
    """
    encoders: dict[str, EncoderConfig] = {}
    sizes: dict[str, int] = {}
    assumed = False
    for modality, table in tables.items():
        tower = _Tower(modality, tensors, {rule.path: rule for rule in table})
        said = tower.said(hints)
        known = (hints.assumed or {}).get(modality)
        found = hints.activation or said.get("activation") or activation
        found = found or (known.activation if known else None)
        assumed = assumed or not found
        encoders[modality] = tower.encoder(hints, said | {"activation": found or usual})
        sizes[modality] = tower.embed_dim()
    if len(set(sizes.values())) > 1:
        raise UserError(f"{tensors.path}: no shared space: the towers' embeddings are {sizes} wide")
    if assumed:
        _warn(
            f"{tensors.path}: a checkpoint does not say its activation; assuming {usual}; some are "
            "trained with gelu, some with quick_gelu (OpenAI's): if it is the other, pass "
            "activation=..."
        )
    _check_pixels(tensors, hints, encoders)
    return ImageBindConfig(encoders, next(iter(sizes.values()), 0))


@dataclasses.dataclass(frozen=True)
class _Tower:
    modality: str
    tensors: TensorFile
    rules: Mapping[str, Rule]  # by our path

    def error(self, line: str) -> UserError:
        return UserError(f"{self.tensors.path}: {self.modality}: {line}")

    def said(self, hints: LoadHints) -> dict[str, Any]:
        try:
            return clip_config.tower_config_from_json(hints.config, self.modality)
        except UserError as error:
            raise self.error(f"the JSON file beside it: {error}") from None

    def shape(self, path: str, rank: int) -> tuple[int, ...]:
        key = self.rules[path].key.format(layer=0)
        spec = self.tensors.specs.get(key)
        if spec is None or len(spec.shape) != rank or 0 in spec.shape:
            raise self.error(f"{key} is missing or not of rank {rank}")
        return spec.shape

    def embed_dim(self) -> int:
        """Their projection is [width, embed], or a linear map's [embed, width]."""
        return self.shape("head/kernel", 2)[0 if self.rules["head/kernel"].axes else 1]

    def encoder(self, hints: LoadHints, said: Mapping[str, Any]) -> EncoderConfig:
        width = self.shape("trunk/blocks/norm_1/scale", 1)[0]
        if said.get("width", width) != width:
            raise self.error(
                f"the JSON file beside says width {said['width']}, the tensors {width}: it belongs "
                "to another checkpoint; move it away"
            )
        hidden = self.shape("trunk/blocks/mlp/fc1/kernel", 2)[0]
        if said.get("heads"):
            hints = dataclasses.replace(hints, heads={self.modality: said["heads"], **hints.heads})
        positions = self.shape("position", 2)[0]
        prefix = self.rules["trunk/blocks/norm_1/scale"].key.partition("{layer}")[0]
        fields: dict[str, Any] = {
            "width": width,
            "depth": count_blocks(self.tensors.specs, prefix),
            "heads": hints.heads_of(self.modality, width),
            "mlp_ratio": hidden / width,
            "activation": said["activation"],
            "norm_eps": said.get("norm_eps", 1e-5),  # torch's default, which CLIP has everywhere
        }
        if self.modality == "text":
            return self._text(positions, fields)
        return self._vision(positions, fields)

    def _text(self, positions: int, fields: dict[str, Any]) -> EncoderConfig:
        vocabulary = self.shape("embed/embedding", 2)[0]
        if vocabulary != _VOCABULARY:
            _warn(
                f"{self.tensors.path}: a vocabulary of {vocabulary:,}, not CLIP's {_VOCABULARY:,}: "
                "`tokenize` does not fit it, and its end-of-text token must have the largest id"
            )
        if "log_logit_scale" in self.rules:
            fields |= {"logit_scale": self._scale(), "learn_scale": True}
        return EncoderConfig((positions,), vocab_size=vocabulary, position_std=0.01, **fields)

    def _vision(self, positions: int, fields: dict[str, Any]) -> EncoderConfig:
        _, channels, *patch = self.shape("stem/kernel", 4)
        norm = self.rules["trunk/pre_norm/scale"].key
        if norm not in self.tensors.specs:
            raise self.error(f"no norm before the blocks ({norm}; CLIPA has none): not supported")
        side = math.isqrt(positions - 1)
        if side == 0 or side * side != positions - 1:
            raise self.error(
                f"{positions - 1} positions of patches: only square images are supported"
            )
        shape = (FRAMES, side * patch[0], side * patch[1], channels)
        return EncoderConfig(shape, patch=(FRAMES, *patch), pre_norm=True, **fields)

    def _scale(self) -> float:
        """The inverse temperature; the tensor holds its logarithm."""
        key = self.rules["log_logit_scale"].key
        if key not in self.tensors.specs or self.tensors.specs[key].shape:
            raise self.error(f"{key} is missing or not a single number")
        scale = float(np.exp(np.asarray(self.tensors[key], np.float64)))
        if not 0 < scale < math.inf:
            raise self.error(f"{key}: a logit scale of {scale}")
        return scale


def _check_pixels(
    tensors: TensorFile, hints: LoadHints, encoders: Mapping[str, EncoderConfig]
) -> None:
    """Says where the weights expect pixels of another mean and deviation than `load_images` has."""
    said = hints.config.get("preprocess_cfg")
    if "vision" not in encoders or not isinstance(said, dict):
        return
    from imagebind_jax.inputs.transforms.vision import (  # here: training needs no library of images
        MEAN,
        STD,
    )

    for name, ours in (("mean", MEAN), ("std", STD)):
        theirs = said.get(name)
        if (
            not isinstance(theirs, list)
            or len(theirs) != len(ours)
            or not all(type(x) in (int, float) and abs(x) < 1e6 for x in theirs)
        ):
            continue  # nothing that could be used anyway
        if not np.allclose(ours, theirs, atol=1e-4):
            _warn(
                f"{tensors.path}: its images are normalised with {name} {theirs}, not with CLIP's "
                f"{[round(float(x), 4) for x in ours]} as `load_images` does: normalise them yourself"
            )


def _warn(line: str) -> None:
    warnings.warn(line, stacklevel=2)
