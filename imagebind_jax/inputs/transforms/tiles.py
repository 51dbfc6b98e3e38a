"""A picture as overlapping squares of an encoder's size: finer detail than the whole picture would show."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from imagebind_jax.errors import UserError
from imagebind_jax.inputs.decoders import media
from imagebind_jax.inputs.decoders.images import open_image, to_rgb
from imagebind_jax.inputs.transforms.validation import check_int
from imagebind_jax.inputs.transforms.vision import MEAN, STD


@dataclasses.dataclass(frozen=True)
class Tiles:
    """record["vision"], an image (or a list, of which it is the first), to [n, 1, size, size, 3].

    The image is brought to `picture` x `picture` pixels, whatever its sides, so that nothing of it
    is cut off and all have the same windows; these begin every `stride` pixels, row by row. Pixels
    become what CLIP's mean and std make of them. Raises `MediaError`; UserError where windows do
    not reach the picture's end.
    """

    size: int = 224
    picture: int = 448
    stride: int = 112

    def __post_init__(self):
        check_int(size=self.size, picture=self.picture, stride=self.stride)
        if self.picture < self.size or (self.picture - self.size) % self.stride:
            raise UserError(
                f"windows of {self.size} pixels every {self.stride} do not end where a picture of "
                f"{self.picture} does: choose size + a multiple of the stride"
            )

    @property
    def places(self) -> tuple[tuple[int, int], ...]:
        """(top, left) of every window, pixels."""
        starts = range(0, self.picture - self.size + 1, self.stride)
        return tuple((top, left) for top in starts for left in starts)

    def __call__(
        self, record: Mapping[str, Any], rng: np.random.Generator | None
    ) -> Float[np.ndarray, "n 1 size size 3"]:
        source = media.first_field(record, "vision")
        source = source[0] if isinstance(source, list) else source
        with media.wrap_decode_errors(source):
            image = to_rgb(open_image(source))
            image = image.resize((self.picture, self.picture), Image.Resampling.BICUBIC)
            pixels = (np.asarray(image, np.float32) / np.float32(255) - MEAN) / STD
        size = self.size
        cut = [pixels[top : top + size, left : left + size] for top, left in self.places]
        return np.stack(cut)[:, None]
