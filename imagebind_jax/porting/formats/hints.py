"""What the tensors of a checkpoint do not tell: numbers of heads, the activation, what to read."""

import dataclasses
import json
import operator
import pathlib
import re
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from imagebind_jax.errors import UserError
from imagebind_jax.models.encoder import EncoderConfig
from imagebind_jax.models.imagebind import HUGE, ImageBindConfig
from imagebind_jax.models.layers import ACTIVATIONS

# Published numbers of heads by (modality, width): ImageBind's, and OpenCLIP's model_configs.
_HEADS = {
    **{("vision", width): width // 64 for width in (384, 512, 768, 896, 1024)},
    **{("text", width): width // 64 for width in (256, 384, 512, 640, 768, 1024, 1280)},
    **{(m, c.width): c.heads for m, c in HUGE.encoders.items()},
    ("vision", 1408): 16,  # OpenCLIP ViT-g/14
    ("vision", 1664): 16,  # OpenCLIP ViT-bigG/14
    ("vision", 1792): 16,  # OpenCLIP ViT-e/14
}


@dataclasses.dataclass(frozen=True)
class LoadHints:
    """`heads` by modality; `activation` of the blocks; `only`: the modalities to read (empty:
    all); `config`: what a JSON file beside the checkpoint says (`find_config_json`); `assumed`:
    encoders that are believed where nothing else says it, or None."""

    heads: Mapping[str, int] = dataclasses.field(default_factory=dict)
    activation: str | None = None
    only: tuple[str, ...] = ()
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    assumed: Mapping[str, EncoderConfig] | None = None

    def __post_init__(self):
        for modality, heads in self.heads.items():
            if isinstance(heads, bool) or not hasattr(heads, "__index__") or heads < 1:
                raise UserError(f"heads of {modality} must be a number from 1, got {heads!r}")
        if self.activation is not None and self.activation not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise UserError(f"activation {self.activation!r}: not one of {known}")

    def check(self, config: ImageBindConfig, where: object) -> None:
        """Raises UserError where something told is of no encoder, or not so in the config."""
        for modality, heads in self.heads.items():
            found = config.encoders.get(modality)
            if found is None and modality in HUGE.encoders and self.only:
                continue  # a modality that a file may have, but that is not to be read
            if found is None:
                there = ", ".join(config.encoders)
                raise UserError(
                    f"{where}: told heads of {modality}, which it has not, only {there}"
                )
            if found.heads != heads:
                raise UserError(
                    f"{where}: told {heads} heads of {modality}, which has {found.heads}"
                )
        for modality, encoder in config.encoders.items():
            if self.activation not in (None, encoder.activation):
                raise UserError(
                    f"{where}: told {self.activation}, but {modality} has {encoder.activation}"
                )

    def chosen(self, available: Iterable[str], where: object) -> list[str]:
        """Which of the modalities in a file to read. Raises UserError on one it lacks."""
        available = list(available)
        if absent := [m for m in self.only if m not in available]:
            raise UserError(f"{where} has no {', '.join(absent)}: only {', '.join(available)}")
        return [m for m in available if not self.only or m in self.only]

    def heads_of(self, modality: str, width: int) -> int:
        """As told; as the config beside says; as published for this width; as CLIP's rule.

        The last, one head for each 64 channels, comes with a warning: a wrong number gives wrong
        embeddings and no error. Raises UserError where no rule fits.
        """
        beside = self.config.get(f"{modality}_num_heads")
        if beside is not None and (isinstance(beside, bool) or not isinstance(beside, int)):
            raise UserError(f"the JSON file beside: {modality}_num_heads is {str(beside)[:50]!r}")
        heads = self.heads.get(modality, beside)
        heads = _HEADS.get((modality, width)) if heads is None else operator.index(heads)
        assumed = (self.assumed or {}).get(modality)
        if heads is None and assumed and assumed.width == width:
            heads = assumed.heads
        if heads is None and width % 64 == 0:
            heads = width // 64
            warnings.warn(
                f"{modality}: a checkpoint does not say its number of heads; assuming {heads} for "
                f"width {width}; if that is wrong, pass heads={{'{modality}': n}}",
                stacklevel=2,
            )
        if heads is None or heads < 1 or width % heads:
            raise UserError(
                f"{modality}: a checkpoint does not say its number of heads, and {heads} does not "
                f"fit width {width}: pass heads={{'{modality}': n}} (--heads {modality}=n)"
            )
        return heads


def find_config_json(path: pathlib.Path) -> dict[str, Any]:
    """The JSON object of `<name>_config.json`, `open_clip_config.json` or `config.json` beside a
    checkpoint, or {} without one. Raises UserError on a file that is no JSON object."""
    for name in (f"{path.stem}_config.json", "open_clip_config.json", "config.json"):
        beside = path.with_name(name)
        if not beside.is_file():
            continue
        try:
            if beside.stat().st_size > 1 << 20:
                raise ValueError("larger than 1 MiB")
            config = json.loads(beside.read_text(encoding="utf-8"))
            if not isinstance(config, dict):
                raise ValueError("no JSON object")
        except (ValueError, RecursionError) as error:
            if beside.stem != f"{path.stem}_config":  # it may be anybody's
                warnings.warn(f"{beside} is passed over ({error})", stacklevel=2)
                continue
            raise UserError(f"{beside}: {error}; repair it or move it away") from error
        return config
    return {}


def count_blocks(names: Iterable[str], prefix: str) -> int:
    """How many numbered blocks there are under a prefix."""
    pattern = re.compile(re.escape(prefix) + r"(\d{1,4})\.")
    return 1 + max((int(m[1]) for m in map(pattern.match, names) if m), default=-1)
