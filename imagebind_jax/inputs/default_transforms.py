"""The transforms that a checkpoint's model was made for: as its run says, or by the shapes it takes."""

from collections.abc import Mapping, Sequence
from typing import Any

from imagebind_jax.errors import UserError
from imagebind_jax.inputs.pipeline.examples import Standardize, Transform
from imagebind_jax.inputs.transforms.audio import LogMel, LogMelClips
from imagebind_jax.inputs.transforms.depth import Disparity
from imagebind_jax.inputs.transforms.imu import ImuWindow
from imagebind_jax.inputs.transforms.text import Tokenize
from imagebind_jax.inputs.transforms.thermal import Thermal
from imagebind_jax.inputs.transforms.vision import EvalViews, FramesTransform

TRANSFORM_CLASSES = (
    FramesTransform,
    EvalViews,
    LogMelClips,
    LogMel,
    Disparity,
    Thermal,
    ImuWindow,
    Tokenize,
    Standardize,
)
_BY_NAME: Mapping[str, type] = {each.__name__: each for each in TRANSFORM_CLASSES}


def default_transform(modality: str, shape: Sequence[int]) -> Transform | None:
    """As the released model is fed, for an encoder of that input shape; None of other modalities.

    shape: of one input, without batch axis: (2, 224, 224, 3), (128, 204, 1), (77,), ... Videos are
    15 views, recordings three clips, as the reference has them.
    """
    rank = len(shape)
    if modality == "vision" and rank == 4:
        return EvalViews(size=shape[1], frames=shape[0])
    if modality == "text" and rank == 1:
        return Tokenize(shape[0])
    if modality == "audio" and tuple(shape) == (128, 204, 1):
        return LogMelClips()
    if modality == "depth" and rank == 3:
        return Disparity.nyu(size=shape[0])
    if modality == "thermal" and rank == 3:
        return Thermal(shape[0])
    if modality == "imu" and rank == 2 and shape[1] == 6:
        return ImuWindow(steps=shape[0])
    return None


def transform_from_run(facts: Mapping[str, Any], modality: str) -> Transform | None:
    """Out of what a run says of its config (`fingerprint.flatten_config`), without augmentation; None if nothing.

    Raises UserError for a transform that is not one of ours: only its config file has it.
    """
    return _rebuilt(facts, f"inputs.{modality}")


def _rebuilt(facts: Mapping[str, Any], path: str) -> Any:
    name = facts.get(path)
    if name is None:
        return None
    if name not in _BY_NAME:
        raise UserError(
            f"{path} of this run is a {name!s:.60}, which its config file defines: give that file "
            "with --config CONFIG.py"
        )
    known = _BY_NAME[name].__dataclass_fields__  # type: ignore[attr-defined]
    fields: dict[str, Any] = {}
    for field in known:
        if field == "augment" or f"{path}.{field}" not in facts:
            continue
        value = facts[f"{path}.{field}"]
        inner = field == "transform"
        fields[field] = (
            _rebuilt(facts, f"{path}.{field}") if inner
            else tuple(value) if isinstance(value, list) else value
        )  # fmt: skip
    try:
        return _BY_NAME[name](**fields)
    except TypeError as error:
        raise UserError(f"{path} of this run cannot be read: {error}") from error
