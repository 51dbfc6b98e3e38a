import numpy as np
import pytest
from PIL import Image
from samples import png

from imagebind_jax.inputs import thermal
from imagebind_jax.inputs.media import MediaError


@pytest.mark.parametrize("level", [0, 51, 255])
def test_levels_become_fractions_and_nothing_else(level):
    encoded = png(np.full((300, 400), level, np.uint8))
    got = thermal.Thermal()({"thermal": encoded}, np.random.default_rng(0))
    assert got.shape == (224, 224, 1) and got.dtype == np.float32
    np.testing.assert_array_equal(got, np.float32(level / 255))


def test_target_size_keeps_every_pixel():
    pixels = np.random.default_rng(0).integers(0, 256, (224, 224), np.uint8)
    got = thermal.thermal_input(Image.fromarray(pixels))
    np.testing.assert_array_equal(got[..., 0], pixels.astype(np.float32) / np.float32(255))


def test_values_stay_in_range_at_sharp_edges():
    pixels = np.zeros((500, 500), np.uint8)
    pixels[:, 250:] = 255
    got = thermal.thermal_input(Image.fromarray(pixels))
    assert got.min() == 0 and got.max() == 1


def test_three_equal_channels_are_one():
    grey = np.random.default_rng(0).integers(0, 256, (224, 224), np.uint8)
    colour = np.repeat(grey[..., None], 3, axis=-1)
    np.testing.assert_array_equal(
        thermal.thermal_input(Image.fromarray(colour)), thermal.thermal_input(Image.fromarray(grey))
    )


@pytest.mark.parametrize("source", [b"", b"no image", png(np.zeros((4, 4), np.uint16))])
def test_other_files_are_media_errors(source):
    with pytest.raises(MediaError):
        thermal.Thermal()({"thermal": source}, None)
