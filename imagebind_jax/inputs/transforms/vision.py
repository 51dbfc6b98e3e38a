"""Vision: images, videos and lists of frames to the normalised squares that CLIP and ImageBind see."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import einops
import numpy as np
from jaxtyping import Float, Shaped, UInt8
from PIL import Image

from imagebind_jax.errors import UserError
from imagebind_jax.inputs.decoders import media, video
from imagebind_jax.inputs.decoders.images import (
    check_aspect_ratio,
    open_image,
    resize_and_crop,
    to_rgb,
)
from imagebind_jax.inputs.transforms.augment import (
    SampledAugmentation,
    SpatialAugmentation,
    shared_augmentation,
)
from imagebind_jax.inputs.transforms.validation import check_int, check_positive

MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)  # CLIP, of RGB in [0, 1]
STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)


def image_input(image: Image.Image, size: int = 224) -> Float[np.ndarray, "size size 3"]:
    """Evaluation form of one image: short side to `size`, centre crop, CLIP mean and std.

    Bit-equal to torchvision's transforms on Pillow images. Any mode becomes RGB by `to_rgb`.
    """
    return _normalised(resize_and_crop(to_rgb(image), size))


def _normalised(image: Image.Image) -> Float[np.ndarray, "height width 3"]:
    pixels = np.asarray(image)
    height, width, _ = pixels.shape
    # By rows of width * 3: numpy is four times as fast there as along an axis of length 3.
    rows = np.divide(pixels.reshape(height, -1), np.float32(255), dtype=np.float32)
    rows -= np.tile(MEAN, width)
    rows /= np.tile(STD, width)
    return rows.reshape(height, width, 3)


def spatial_crops(
    pixels: UInt8[np.ndarray, "height width 3"], size: int = 224, crops: int = 3
) -> Float[np.ndarray, "crops size size 3"]:
    """Evaluation form of a video's frame: `crops` squares along its long side, as the reference cuts.

    Short side to `size` (bilinear and not antialiased, unlike images), the long side cut to an
    integer; left, centre and right, or top, centre and bottom; CLIP mean and std. One crop is the
    centre.
    """
    short = check_aspect_ratio(pixels.shape[1], pixels.shape[0])
    for axis, side in enumerate(pixels.shape[:2]):
        pixels = _resized(pixels, axis, math.floor(side / short * size))
    high, wide = (side - size for side in pixels.shape[:2])  # of which one is 0
    cut = []
    for i in range(3) if crops == 3 else (1,):
        top, left = ((0, math.ceil(slack / 2), slack)[i] for slack in (high, wide))
        cut.append(pixels[top : top + size, left : left + size])
    return (np.stack(cut) / np.float32(255) - MEAN) / STD


def _resized(
    pixels: Shaped[np.ndarray, "height width 3"], axis: int, length: int
) -> Float[np.ndarray, "height2 width2 3"]:
    """One axis resized, in float32: each new place between the two old ones around its centre."""
    old = pixels.shape[axis]
    centres = np.arange(length, dtype=np.float32) + np.float32(0.5)
    places = np.maximum(centres * np.float32(old / length) - np.float32(0.5), np.float32(0))
    low = places.astype(int)
    share = (places - low.astype(np.float32)).reshape([-1, 1, 1] if axis == 0 else [1, -1, 1])
    below, above = (
        pixels.take(at, axis).astype(np.float32) for at in (low, np.minimum(low + 1, old - 1))
    )
    above -= below
    above *= share
    return np.add(above, below, out=above)


def sample_frame_indices(count: int, frames: int) -> list[int]:
    """Indices of `frames` frames spread over `count`, first and last included, cut to integers."""
    return np.linspace(0, count - 1, frames).astype(int).tolist()


@dataclasses.dataclass(frozen=True)
class FramesTransform:
    """record["vision"]: an image to [1, s, s, 3], a video or a list of frames to [frames, s, s, 3].

    Of a video it is `seconds` from a start that the sample's modalities share (without rng: from
    its middle), within record["start"] and record["seconds"] if they are there. `frames` of its
    frames, evenly spread, are taken, the first and the last among them; of a list, which is a whole
    clip, likewise. One that is too short repeats frames. With rng and `augment` all frames get the
    same random crop and so on, else the evaluation form of an image. Raises `MediaError`.
    """

    size: int = 224
    frames: int = 2
    seconds: float = 2.0
    augment: SpatialAugmentation | None = None

    def __post_init__(self):
        check_int(size=self.size, frames=self.frames)
        check_positive(seconds=self.seconds)

    def __call__(
        self, record: Mapping[str, Any], rng: np.random.Generator | None
    ) -> Float[np.ndarray, "frames size size 3"]:
        source, pictures = media.first_field(record, "vision"), []
        view = None if rng is None else shared_augmentation(record, rng)
        if _is_video(source):

            def start(length: video.Time) -> list[video.Time]:
                middle = max(length - float(self.seconds), 0) / 2
                return [middle if view is None else view.start(float(length), self.seconds)]

            [pictures] = _clips(record, source, start, self.seconds, self.frames)
            sources = [source] * len(pictures)
        else:
            sources = _encoded(source, self.frames)
        if rng is None or view is None or self.augment is None:
            return _stack(sources, pictures or map(open_image, sources), self.size)
        if not pictures:
            shrink = self.augment.shrink(view, self.size)
            pictures = [open_image(each, shrink=shrink) for each in sources]
        drawn = self.augment.draw(view, rng, *pictures[0].size)
        return _stack(sources, pictures, self.size, drawn)


@dataclasses.dataclass(frozen=True)
class EvalViews:
    """record["vision"] as the reference evaluates it, to [views, frames, s, s, 3], to be averaged.

    A video gives `clips` of `seconds`, spread uniformly, and of each `crops` squares along the
    frame's long side (1: the centre): 15 views, clip by clip. An image is one view of one frame, a
    list of frames one view of `frames` of them, both as `FramesTransform` has them. rng is not used.
    """

    clips: int = 5
    crops: int = 3
    size: int = 224
    frames: int = 2
    seconds: float = 2.0

    def __post_init__(self):
        check_int(size=self.size, frames=self.frames, clips=self.clips, crops=self.crops)
        check_positive(seconds=self.seconds)
        if self.crops not in (1, 3):
            raise UserError(f"crops must be 1 or 3, got {self.crops}")

    def __call__(
        self, record: Mapping[str, Any], rng: np.random.Generator | None
    ) -> Float[np.ndarray, "views frames size size 3"]:
        source = media.first_field(record, "vision")
        if not _is_video(source):
            sources = _encoded(source, self.frames)
            return _stack(sources, map(open_image, sources), self.size)[None]

        def starts(length: video.Time) -> list[Fraction]:
            return video.clip_starts(length, float(self.seconds), self.clips)

        clips = _clips(record, source, starts, self.seconds, self.frames)
        with media.wrap_decode_errors(source):
            views = [
                [spatial_crops(np.asarray(image), self.size, self.crops) for image in clip]
                for clip in clips
            ]
        return einops.rearrange(
            np.array(views), "clips frames crops h w c -> (clips crops) frames h w c"
        )


def _is_video(source: Any) -> bool:
    return not isinstance(source, (list, tuple)) and media.sniff_media_type(source) == "container"


def _encoded(source: Any, frames: int) -> list[media.Source]:
    """One image, or those of a list that are taken."""
    if not isinstance(source, (list, tuple)):
        return [source]
    if not source:
        raise media.MediaError("<list>", "no frames")
    return [source[i] for i in sample_frame_indices(len(source), frames)]


def _clips(
    record: Mapping[str, Any],
    source: media.Source,
    starts: Callable[[video.Time], Sequence[video.Time]],
    seconds: float,
    frames: int,
) -> list[list[Image.Image]]:
    """`frames` frames of each clip; `starts` are within the record's part, whose length it is told."""
    with video.open_video(source) as opened:
        begin, until = float(record.get("start") or 0), record.get("seconds")
        seconds, until = float(seconds), None if until is None else float(until)
        length = opened.duration - Fraction(begin)
        if until is not None:
            length, seconds = min(length, Fraction(until)), min(seconds, until)
        if not (begin >= 0 and length > 0):
            reason = f"start {begin} s and seconds {until} hold none of its"
            raise media.MediaError(
                media.source_name(source), f"{reason} {float(opened.duration):.3f} s"
            )
        found = [opened.frames(Fraction(begin) + Fraction(at), seconds) for at in starts(length)]
        picked = [[clip[i] for i in sample_frame_indices(len(clip), frames)] for clip in found]
        pictures = iter(opened.decode([frame for clip in picked for frame in clip]))
        return [[next(pictures) for _ in clip] for clip in picked]


def _stack(
    sources: Sequence[media.Source],
    pictures: Iterable[Image.Image],
    size: int,
    drawn: SampledAugmentation | None = None,
) -> Float[np.ndarray, "frames size size 3"]:
    arrays = []
    for source, picture in zip(sources, pictures):
        with media.wrap_decode_errors(source):
            if drawn is None:
                arrays.append(image_input(picture, size))
            else:
                arrays.append(_normalised(drawn.pixels(to_rgb(picture), size)))
    return np.stack(arrays) if drawn is None else drawn.erase(np.stack(arrays))
