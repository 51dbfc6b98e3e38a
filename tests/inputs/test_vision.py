import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from samples import GOLDEN, png

from imagebind_jax.inputs import vision
from imagebind_jax.inputs.images import open_image
from imagebind_jax.inputs.media import MediaError


@pytest.mark.parametrize("name", np.load(GOLDEN / "image_224.npz").files)
def test_equals_the_reference(name):
    # Every 4th pixel of torchvision's transforms on Pillow images.
    image = vision.image_input(open_image(GOLDEN / "media" / name))
    assert image.shape == (224, 224, 3) and image.dtype == np.float32
    np.testing.assert_allclose(
        image[::4, ::4], np.load(GOLDEN / "image_224.npz")[name], rtol=0, atol=1e-5
    )


def test_flat_colour_has_a_known_answer():
    image = Image.new("RGB", (300, 500), (255, 0, 51))
    expected = (np.array([1, 0, 0.2]) - vision.MEAN) / vision.STD
    np.testing.assert_allclose(
        vision.image_input(image), np.broadcast_to(expected, (224, 224, 3)), atol=1e-6
    )


def test_crop_is_the_centre():
    pixels = np.zeros((224, 448, 3), np.uint8)
    pixels[:, 112:336] = 255
    white = np.broadcast_to((1 - vision.MEAN) / vision.STD, (224, 224, 3))
    np.testing.assert_allclose(vision.image_input(Image.fromarray(pixels)), white, atol=1e-6)


def test_one_image_is_one_frame_and_a_list_is_a_clip():
    frames = [png(np.full((8, 8, 3), value, np.uint8)) for value in (0, 51, 102, 153, 255)]
    assert vision.Clip(size=32)({"vision": frames[0]}, None).shape == (1, 32, 32, 3)
    for count, expected in [(2, [0, 4]), (3, [0, 2, 4]), (5, [0, 1, 2, 3, 4]), (4, [0, 1, 2, 4])]:
        clip = vision.Clip(size=8, frames=count)({"vision": frames}, None)
        red = clip[:, 0, 0, 0] * vision.STD[0] + vision.MEAN[0]
        np.testing.assert_allclose(red, np.array([0, 0.2, 0.4, 0.6, 1])[expected], atol=1e-6)
    assert vision.Clip(size=8)({"vision": frames[:1]}, None).shape == (2, 8, 8, 3)


def test_random_crop_is_the_same_for_all_frames_and_follows_the_generator():
    picture = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    record = {"vision": [png(picture)] * 3}
    clip = vision.Clip(size=32, frames=3, crop_scale=(0.3, 0.6))
    first, again, other = (clip(record, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first[0], first[2])
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    np.testing.assert_array_equal(clip(record, None), vision.Clip(size=32, frames=3)(record, None))


@settings(deadline=None)
@given(
    st.integers(1, 500),
    st.integers(1, 500),
    st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(sorted).map(tuple),
    st.integers(0, 2**32 - 1),
)
def test_crop_boxes_lie_inside(width, height, scale, seed):
    left, top, right, bottom = vision.crop_box(width, height, scale, np.random.default_rng(seed))
    assert 0 <= left < right <= width and 0 <= top < bottom <= height


def test_crop_box_holds_its_share_of_the_area():
    rng = np.random.default_rng(0)
    for _ in range(100):
        left, top, right, bottom = vision.crop_box(400, 300, (0.5, 0.7), rng)
        assert 0.49 < (right - left) * (bottom - top) / 120_000 < 0.71


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_every_mode_becomes_rgb(mode):
    assert vision.image_input(Image.new(mode, (30, 20)), size=16).shape == (16, 16, 3)


def test_bad_frames_and_settings_are_errors():
    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, "JPEG")
    for media in ([], b"", b"no image", [file.getvalue()[:300]]):
        with pytest.raises(MediaError):
            vision.Clip()({"vision": media}, None)
    with pytest.raises(ValueError, match="crop_scale"):
        vision.Clip(crop_scale=(0.9, 0.5))
