import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import png

from imagebind_jax.inputs import depth
from imagebind_jax.inputs.media import MediaError

FOCAL, BASELINE = 518.86, 0.075


def record(millimetres: np.ndarray) -> dict:
    encoded = png(millimetres.astype(np.uint16))
    return {"depth": encoded, "focal_length": FOCAL, "baseline": BASELINE}


def test_two_metres_have_half_the_disparity_of_one():
    got = depth.disparity(np.array([1.0, 2.0, 4.0]), FOCAL, BASELINE)
    expected = np.float32(FOCAL * BASELINE) / np.array([1, 2, 4], np.float32)
    np.testing.assert_array_equal(got, expected)
    assert got.dtype == np.float32


def test_no_depth_is_infinitely_far():
    invalid = np.array([0.0, -1.0, np.nan, np.inf, -np.inf])
    np.testing.assert_array_equal(depth.disparity(invalid, FOCAL, BASELINE), 0)


@given(st.floats(0.001, 65.535), st.floats(1, 5000), st.floats(0.001, 1))
def test_disparity_by_the_formula(metres, focal_length, baseline):
    got = depth.disparity(np.float32([metres]), focal_length, baseline)
    np.testing.assert_allclose(got, focal_length * baseline / metres, rtol=1e-6)


def test_omnivore_normalisation():
    values = depth.normalise(np.float32([0, 0.01, 7.5, 75, 500]))
    expected = (np.array([0.01 / 75, 0.01 / 75, 0.1, 1, 1]) - 0.0418) / 0.0295
    np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_metric_normalisation():
    values = depth.normalise(np.float32([24.82, 24.82 + 14.40]), "metric", 24.82, 14.40)
    np.testing.assert_allclose(values, [0, 1], atol=1e-6)


def test_both_recipes_nearly_agree_on_sun():
    # SUN's PNGs are rotated left by three bits: read as they are, disparity is an eighth.
    true = np.float32([10, 20, 40])
    a, b = depth.normalise(true / 8), depth.normalise(true, "metric", 24.82, 14.40)
    np.testing.assert_allclose(a, b, atol=0.3)


def test_a_wall_has_one_value_at_every_size():
    for shape in [(480, 640), (224, 224), (100, 60)]:
        wall = depth.Disparity()(record(np.full(shape, 2000)), None)
        assert wall.shape == (224, 224, 1) and wall.dtype == np.float32
        expected = (FOCAL * BASELINE / 2 / 75 - 0.0418) / 0.0295
        np.testing.assert_allclose(wall, expected, rtol=1e-5)


def test_disparity_is_resized_and_not_depth():
    halves = np.full((64, 64), 1000)
    halves[:, 32:] = 3000
    got = depth.Disparity(size=32, normalisation="metric", mean=0.0, std=1.0)(record(halves), None)
    assert got[16, 2, 0] == pytest.approx(FOCAL * BASELINE, rel=1e-5)
    assert got[16, -3, 0] == pytest.approx(FOCAL * BASELINE / 3, rel=1e-5)
    assert got.mean() == pytest.approx(FOCAL * BASELINE * 2 / 3, rel=1e-3)


def test_max_depth_brings_far_points_nearer_but_not_missing_ones():
    transform = depth.Disparity(normalisation="metric", mean=0.0, std=1.0, max_depth=8.0)
    far = transform(record(np.full((224, 224), 20_000)), None)
    np.testing.assert_allclose(far, FOCAL * BASELINE / 8, rtol=1e-6)
    np.testing.assert_array_equal(transform(record(np.zeros((224, 224))), None), 0)


def test_wrong_settings_and_files_are_errors():
    with pytest.raises(ValueError, match="needs mean and std"):
        depth.Disparity(normalisation="metric")
    with pytest.raises(ValueError, match="neither"):
        depth.Disparity(normalisation="clip")
    eight_bits = record(np.zeros((4, 4))) | {"depth": png(np.zeros((4, 4), np.uint8))}
    for bad in (eight_bits, eight_bits | {"depth": b"no image"}):
        with pytest.raises(MediaError):
            depth.Disparity()(bad, None)
