import io
import pickle

import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image, TiffImagePlugin
from properties import of_any
from samples import png, raw_png

from imagebind_jax.errors import UserError
from imagebind_jax.inputs.decoders.media import MediaError
from imagebind_jax.inputs.transforms import thermal, vision
from imagebind_jax.inputs.transforms.augment import SharedAugmentation, SpatialAugmentation


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


def tiff(levels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "TIFF")
    return file.getvalue()


def thermals(levels: np.ndarray, scale: str, low: float, high: float) -> np.ndarray:
    wall = np.full((30, 40), levels)
    return thermal.Thermal(8, low, high, scale)({"thermal": tiff(wall)}, None)


@pytest.mark.parametrize(
    "level, scale",
    [
        (np.uint16(29315), "kelvin*100"),
        (np.uint16(7329), "kelvin*25"),
        (np.float32(293.15), "kelvin"),
        (np.float32(20), "celsius"),
        (np.int32(20), "counts"),
    ],
)
def test_20_degrees_are_two_fifths_of_the_way_from_0_to_50(level, scale):
    np.testing.assert_allclose(thermals(level, scale, 0.0, 50.0), 0.4, atol=2e-4)


@of_any(st.integers(0, 65535), st.sampled_from(sorted(thermal.SCALES)), st.floats(-100, 100))
def test_counts_to_fractions_by_the_formula(count, scale, low):
    factor = {"kelvin*100": 100, "kelvin*10": 10, "kelvin*25": 25, "kelvin*2.5": 2.5}.get(scale, 1)
    degrees = count / factor - (273.15 if scale.startswith("kelvin") else 0)
    got = thermal.scale_to_unit(np.float32([[count]]), scale, low, low + 80)
    assert got[0, 0] == pytest.approx(min(max((degrees - low) / 80, 0), 1), abs=1e-4)


def test_the_same_temperature_is_the_same_level_in_every_image():
    transform = thermal.Thermal(8, 0.0, 50.0, "celsius")
    hand, furnace = (np.full((80, 80), 20, np.float32) for _ in range(2))
    hand[40:], furnace[40:] = 35, 900
    got = [transform({"thermal": tiff(x)}, None) for x in (hand, furnace)]
    assert got[0][0, 0, 0] == pytest.approx(0.4, abs=0.01)
    assert got[1].max() == 1 and got[0].max() < 0.75  # nor does the filter go beyond 1
    assert got[1].min() >= 0 and got[1].dtype == np.float32
    np.testing.assert_allclose(got[0][:2], got[1][:2], atol=0.02)


def test_temperatures_without_a_range_and_a_range_without_temperatures_are_errors():
    for source in (tiff(np.zeros((4, 4), np.float32)), png(np.zeros((4, 4), np.uint16))):
        with pytest.raises(MediaError, match="holds temperatures: Thermal"):
            thermal.Thermal()({"thermal": source}, None)
    with pytest.raises(MediaError, match="hold no 'kelvin'"):
        thermal.Thermal(8, 0.0, 1.0, "kelvin")({"thermal": png(np.zeros((4, 4), np.uint8))}, None)
    for level in (np.nan, np.inf, -np.inf):
        with pytest.raises(MediaError, match="not finite"):
            thermals(np.float32(level), "celsius", 0.0, 1.0)


@pytest.mark.parametrize("colour, channels", [(2, 3), (4, 2), (6, 4)])
@pytest.mark.parametrize("settings", [{}, {"low": 0.0, "high": 50.0, "scale": "kelvin*100"}])
def test_16_bit_colour_of_which_pillow_gives_8_bits_is_refused(colour, channels, settings):
    source = raw_png(2, 1, 16, colour, b"\0" + bytes(2 * 2 * channels))
    with pytest.raises(MediaError, match="16 bits in colour or with alpha: save it as 16-bit grey"):
        thermal.Thermal(8, **settings)({"thermal": source}, None)
    eight = raw_png(2, 1, 8, colour, b"\0" + bytes(2 * channels))
    assert not thermal.Thermal(8)({"thermal": eight}, None).any()


def test_16_bit_colour_in_a_tiff_is_refused_too():
    fields = {256: 2, 257: 1, 258: (16, 16, 16), 262: 2, 273: 0, 277: 3, 279: 12}
    header = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in fields.items():
        header[tag] = value
    source = b"II*\0\x08\0\0\0" + header.tobytes(8) + bytes(12)
    with pytest.raises(MediaError, match="16 bits in colour"):
        thermal.Thermal(8)({"thermal": source}, None)


def test_settings_that_say_too_little_are_refused():
    for wrong in ({"low": 0.0}, {"low": 0.0, "high": 1.0}, {"scale": "kelvin"}):
        with pytest.raises(UserError, match="all of low, high and scale"):
            thermal.Thermal(**wrong)
    with pytest.raises(UserError, match="'fahrenheit' is not one of kelvin"):
        thermal.Thermal(8, 0.0, 1.0, "fahrenheit")
    with pytest.raises(UserError, match="size must be a whole number"):
        thermal.Thermal(0)
    for low, high in [(1.0, 1.0), (2.0, 1.0), (0.0, np.nan), (-np.inf, 0.0)]:
        with pytest.raises(UserError, match="is not below|must be a finite number"):
            thermal.Thermal(8, low, high, "celsius")


def test_a_large_jpeg_is_opened_small_and_is_nearly_the_same():
    wave = np.sin(np.arange(1280) / 40)
    pixels = (127 + 60 * (wave[:1024, None] + wave[None])).astype(np.uint8)
    spatial, files = SpatialAugmentation((0.9, 1.0), operations=0, jitter=0.0, erase=0.0), []
    for kind in ("JPEG", "PNG"):  # which is always decoded whole
        files.append(io.BytesIO())
        Image.fromarray(pixels).save(files[-1], kind, quality=95)
    small, whole = (
        thermal.Thermal(64, augment=spatial)(
            {"thermal": file.getvalue(), "view": SharedAugmentation(0)}, np.random.default_rng(0)
        )
        for file in files
    )
    assert 0 < np.abs(small - whole).max() < 0.02


def test_augmentation_is_the_geometry_that_vision_gets():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60), np.uint8)
    spatial = SpatialAugmentation((0.3, 0.6), erase=0.0, jitter=0.0, operations=0)
    record = {"thermal": png(pixels), "vision": png(np.repeat(pixels[..., None], 3, -1))}
    for seed in range(4):
        aligned, rng = record | {"view": SharedAugmentation(seed)}, np.random.default_rng(seed)
        got = thermal.Thermal(16, augment=spatial)(aligned, rng)
        colour = (
            vision.FramesTransform(16, augment=spatial)(aligned, rng)[0] * vision.STD + vision.MEAN
        )
        np.testing.assert_allclose(got[..., 0], colour[..., 0], atol=1e-5)
    radiometric = thermal.Thermal(16, 0.0, 255.0, "counts", spatial)
    hot = radiometric(aligned | {"thermal": tiff(pixels.astype(np.float32))}, rng)
    np.testing.assert_allclose(hot, got, atol=1.01 / 255)  # two roundings
    erased = thermal.Thermal(16, augment=SpatialAugmentation(erase=1.0))(aligned, rng)
    assert (erased == 0).any() and pickle.loads(pickle.dumps(radiometric)) == radiometric
