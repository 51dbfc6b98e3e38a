"""What an ablation is: settings beside the paper's numbers, and the claims that are put to the test."""

import dataclasses
from collections.abc import Mapping

from imagebind_jax.errors import UserError

TASK_DESCRIPTIONS = {
    "depth": "depth maps, which shape is it?",
    "audio": "sounds, which material is it?",
    "thermal": "thermal images, which shape is it?",
}

HUBS = ("vision", "text", "labels", "both")
ALLOWED_VALUES = {
    "modality": tuple(TASK_DESCRIPTIONS),
    "image_encoder": ("small", "base", "large"),
    "encoder": ("small", "base"),
    "head": ("linear", "mlp"),
    "objective": ("info_nce", "sigmoid", "regression", "joint"),
    "augmentation": ("basic", "strong"),
}


@dataclasses.dataclass(frozen=True)
class TrialConfig:
    """One training of one modality's encoder against frozen towers: all that an ablation may change.

    `baselines` holds those that ablations start from.
    """

    modality: str = "depth"  # of TASK_DESCRIPTIONS
    hub: str = "vision"  # what it is bound to: vision, text, labels (class names), both, depth
    image_encoder: str = "base"  # small, base, large
    encoder: str = "base"  # the modality's own: small, base
    temperature: float = 0.1
    learned: bool = False  # the temperature, from that value on
    head: str = "linear"  # or mlp
    objective: str = "info_nce"  # or sigmoid, regression, joint
    epochs: int = 48
    batch_size: int = 128
    pairs: int = 1024
    augmentation: str = (
        "strong"  # of images: basic (crop, flip, jitter) or strong (RandAugment, too)
    )
    aligned: bool = True  # crops of image and depth map; moments of clip and sound
    erase: bool = True  # a rectangle of a quarter of the depth maps
    mask_bands: int = 0  # of the spectrogram, at most
    repeat: int = 0  # of the very same: another initialisation, other batches

    def __post_init__(self):
        for name, known in ALLOWED_VALUES.items():
            if getattr(self, name) not in known:
                raise UserError(f"{name} {getattr(self, name)!r}: not one of {', '.join(known)}")
        hubs = ("vision", "depth") if self.modality == "thermal" else HUBS
        if self.hub not in hubs:
            raise UserError(f"{self.modality} is bound to {', '.join(hubs)}, not to {self.hub!r}")
        if self.image_encoder != "base" and (self.hub != "vision" or self.modality == "thermal"):
            raise UserError(f"only pictures are seen by an image encoder {self.image_encoder!r}")


@dataclasses.dataclass(frozen=True)
class AblationRow:
    """A line of an ablation's table: for each task a setting, and what the paper has there.

    paper: task -> its number, in percent; paper_label: what the paper calls the row, where its
    scale is another ("512" pairs in a batch).
    """

    label: str
    settings: Mapping[str, TrialConfig]
    paper: Mapping[str, float] = dataclasses.field(default_factory=dict)
    paper_label: str = ""


@dataclasses.dataclass(frozen=True)
class Hypothesis:
    """That one row is better than another on a task, by some number of the runs.

    ours: the paper does not claim it, so that there is nothing to reproduce.
    """

    says: str
    task: str
    better: str  # labels of rows
    worse: str
    number: str = "top1"
    other: str = ""  # the number of the row that is to be worse, where it is another one
    ours: bool = False


@dataclasses.dataclass(frozen=True)
class Ablation:
    """A question, its table and its claims. numbers: of the runs, the table's columns for each task."""

    name: str
    title: str
    source: str  # of the paper's numbers: "Table 5(a)"; "" where it has none
    rows: tuple[AblationRow, ...]
    claims: tuple[Hypothesis, ...]
    about: str  # what is done here, and in what it differs from the paper's
    numbers: tuple[str, ...] = ("top1",)

    def __post_init__(self):
        labels = {row.label: row for row in self.rows}
        for claim in self.claims:
            for label in (claim.better, claim.worse):
                if label not in labels or claim.task not in labels[label].settings:
                    raise UserError(f"{self.name}: no row {label!r} with {claim.task}")

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(
            task for task in TASK_DESCRIPTIONS if any(task in row.settings for row in self.rows)
        )

    @property
    def settings(self) -> tuple[TrialConfig, ...]:
        """Each once."""
        return tuple(
            dict.fromkeys(setting for row in self.rows for setting in row.settings.values())
        )
