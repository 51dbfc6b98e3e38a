import io
import pickle

import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image
from properties import of_any
from samples import png

from imagebind_jax.errors import UserError
from imagebind_jax.inputs.decoders.images import resize_and_crop
from imagebind_jax.inputs.decoders.media import MediaError
from imagebind_jax.inputs.transforms import depth
from imagebind_jax.inputs.transforms.augment import (
    SampledAugmentation,
    SharedAugmentation,
    SpatialAugmentation,
)

FOCAL, BASELINE = 518.86, 0.075
CROP_AND_FLIP = SpatialAugmentation(operations=0, jitter=0.0, erase=0.0)
PLAIN = {"normalisation": "metric", "mean": 0.0, "std": 1.0}  # disparity itself


def record(millimetres: np.ndarray) -> dict:
    encoded = png(millimetres.astype(np.uint16))
    return {"depth": encoded, "focal_length": FOCAL, "baseline": BASELINE}


def metres_record(metres: np.ndarray) -> dict:
    file = io.BytesIO()
    np.save(file, metres)
    return {"depth": file.getvalue(), "focal_length": FOCAL, "baseline": BASELINE}


def test_two_metres_have_half_the_disparity_of_one():
    got = depth.disparity(np.array([1.0, 2.0, 4.0]), FOCAL, BASELINE)
    expected = np.float32(FOCAL * BASELINE) / np.array([1, 2, 4], np.float32)
    np.testing.assert_array_equal(got, expected)
    assert got.dtype == np.float32


def test_no_depth_is_infinitely_far():
    invalid = np.array([0.0, -1.0, np.nan, np.inf, -np.inf])
    np.testing.assert_array_equal(depth.disparity(invalid, FOCAL, BASELINE), 0)


@of_any(st.floats(0.001, 65.535), st.floats(1, 5000), st.floats(0.001, 1))
def test_disparity_by_the_formula(metres, focal_length, baseline):
    got = depth.disparity(np.float32([metres]), focal_length, baseline)
    np.testing.assert_allclose(got, focal_length * baseline / metres, rtol=1e-6)


def test_omnivore_normalisation():
    values = depth.normalise(np.float32([0, 0.01, 7.5, 75, 500]), "omnivore")
    expected = (np.array([0.01 / 75, 0.01 / 75, 0.1, 1, 1]) - 0.0418) / 0.0295
    np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_metric_normalisation():
    values = depth.normalise(np.float32([24.82, 24.82 + 14.40]), "metric", 24.82, 14.40)
    np.testing.assert_allclose(values, [0, 1], atol=1e-6)


def test_a_file_of_the_grids_size_gives_the_formula_exactly():
    millimetres = np.random.default_rng(0).integers(500, 9000, (224, 224))
    got = depth.Disparity(**PLAIN)(record(millimetres), None)
    metres = millimetres.astype(np.float32) / np.float32(1000)
    np.testing.assert_array_equal(got[..., 0], np.float32(FOCAL * BASELINE) / metres)


def sun(millimetres: np.ndarray, size: int = 64) -> dict:
    """As SUN RGB-D stores it: the 16 bits rotated left by three."""
    millimetres = millimetres.astype(np.uint16)
    return record((millimetres << np.uint16(3)) | (millimetres >> np.uint16(13)))


def test_the_recipe_of_suns_toolbox():
    walls = np.repeat([[2000, 6000, 12_000]], 64, axis=0).repeat([22, 21, 21], axis=1)
    got = depth.Disparity.sun_toolbox(size=64)(sun(walls), None)
    true = FOCAL * BASELINE / np.minimum(walls / 1000, 8.0)
    np.testing.assert_allclose(got[..., 0], (true - 24.82) / 14.40, rtol=1e-4, atol=1e-5)


def test_the_recipe_of_omnivore():
    walls = np.repeat([[1, 2000, 6000, 8000]], 64, axis=0).repeat(16, axis=1)
    got = depth.Disparity.sun_omnivore(size=64)(sun(walls), None)
    assumed = FOCAL * BASELINE / np.clip(8 * walls / 1000, 0.01, 50)  # not what is true
    expected = (np.clip(assumed, 0.01, 75) / 75 - 0.0418) / 0.0295
    np.testing.assert_allclose(got[..., 0], expected, rtol=1e-4, atol=1e-5)


def test_the_recipe_of_nyu_in_both_units_and_from_sun():
    walls = np.repeat([[2000, 12_000]], 64, axis=0).repeat(32, axis=1)
    expected = (FOCAL * BASELINE / np.minimum(walls / 1000, 10.0) - 17.2064) / 8.6108
    nyu = depth.Disparity.nyu(size=64)
    for given_as in (record(walls), metres_record(walls / 1000)):
        np.testing.assert_allclose(nyu(given_as, None)[..., 0], expected, rtol=1e-4, atol=1e-5)
    shifted = depth.Disparity.nyu(size=64, reading="sun_shifted")
    np.testing.assert_array_equal(shifted(sun(walls), None), nyu(record(walls), None))


def test_both_recipes_nearly_agree_on_sun():
    for metres in (1.5, 3.0, 6.0):
        room = sun(np.full((64, 64), 1000 * metres))
        toolbox = depth.Disparity.sun_toolbox(size=64)(room, None)
        omnivore = depth.Disparity.sun_omnivore(size=64)(room, None)
        np.testing.assert_allclose(toolbox, omnivore, atol=0.3)


def test_a_wall_has_one_value_at_every_size():
    for shape in [(480, 640), (224, 224), (100, 60)]:
        wall = depth.Disparity()(record(np.full(shape, 2000)), None)
        assert wall.shape == (224, 224, 1) and wall.dtype == np.float32
        expected = (FOCAL * BASELINE / 2 - 17.2064) / 8.6108
        np.testing.assert_allclose(wall, expected, rtol=1e-5)


def test_what_is_not_said_is_as_for_nyu():
    assert depth.Disparity() == depth.Disparity.nyu()
    assert depth.Disparity(64, max_depth=5.0) == depth.Disparity.nyu(size=64, max_depth=5.0)
    worlds = depth.Disparity(64, "metric", mean=1.66, std=0.83)
    assert (worlds.mean, worlds.std, worlds.max_depth) == (1.66, 0.83, None)


@pytest.mark.parametrize("reading", ["auto", "millimetres", "metres", "sun_shifted"])
def test_omnivores_numbers_are_of_suns_raw_values(reading):
    with pytest.raises(UserError, match=f"'{reading}' does not go with .* Take Disparity.nyu"):
        depth.Disparity(normalisation="omnivore", reading=reading)
    depth.Disparity(normalisation="omnivore", reading=reading, mean=0.3, std=0.2)
    with pytest.raises(UserError, match="'sun_raw' does not go with .*'metric'"):
        depth.Disparity(reading="sun_raw")
    assert depth.Disparity(reading="sun_raw", mean=100.0, std=90.0).max_depth is None


def test_disparity_is_resized_and_not_depth():
    halves = np.full((64, 64), 1000)
    halves[:, 32:] = 3000
    got = depth.Disparity(size=32, **PLAIN)(record(halves), None)
    assert got[16, 2, 0] == pytest.approx(FOCAL * BASELINE, rel=1e-5)
    assert got[16, -3, 0] == pytest.approx(FOCAL * BASELINE / 3, rel=1e-5)
    assert got.mean() == pytest.approx(FOCAL * BASELINE * 2 / 3, rel=1e-3)


@of_any(st.integers(0, 2**32 - 1), st.floats(0.05, 0.9), st.integers(8, 60), examples=30)
def test_holes_stay_holes_and_bend_no_surface(seed, share, size):
    rng = np.random.default_rng(seed)
    millimetres = rng.integers(1000, 8001, (40, 50))
    coarse = rng.random((5, 5)) < share
    coarse[2, 2] = False
    coarse[0, 0] = True  # without any hole bicubic may ring
    millimetres[np.kron(coarse, np.ones((8, 10), bool))] = 0
    got = depth.Disparity(size=size, **PLAIN)(record(millimetres), None)
    near, far = FOCAL * BASELINE / 1, FOCAL * BASELINE / 8
    known = got > 0
    assert (got[known] >= far * 0.999).all() and (got[known] <= near * 1.001).all()
    assert (got[~known] == 0).all() and known.any()
    # A wall with the same holes is a wall, up to their very edges.
    wall = depth.Disparity(size=size, **PLAIN)(record(np.where(millimetres, 2000, 0)), None)
    np.testing.assert_allclose(wall[known], FOCAL * BASELINE / 2, rtol=1e-5)
    np.testing.assert_array_equal(wall > 0, known)


def test_without_holes_nothing_but_the_resizing_happens():
    disparities = np.random.default_rng(0).uniform(1, 40, (50, 70)).astype(np.float32)
    got = depth.resize_disparity(disparities, lambda image: resize_and_crop(image, 32))
    expected = np.asarray(resize_and_crop(Image.fromarray(disparities), 32))
    np.testing.assert_array_equal(got[..., 0], expected)


@pytest.mark.parametrize("shear", [0.25, 0.1])
def test_operations_in_a_row_invent_nothing_along_the_border(shear):
    moves = (("Rotate", 20.0), ("ShearX", shear))
    drawn = SampledAugmentation((0.0, 0.0, 1.0, 1.0), False, moves, (), None)
    wall = np.full((64, 64), 19.5, np.float32)
    got = depth.resize_disparity(wall, lambda image: drawn.pixels(image, 64), moved=True)
    assert set(np.unique(got.round(3))) == {0, 19.5}
    assert len(np.unique(depth.resize_disparity(wall, lambda image: drawn.pixels(image, 64)))) > 5
    # A transform says by itself that there are such operations.
    record_ = record(np.full((64, 64), 2000))
    transform = depth.Disparity(size=64, **PLAIN, augment=SpatialAugmentation(erase=0.0))
    for seed in (48, 100):  # two geometric ones are drawn
        view, rng = SharedAugmentation(seed), np.random.default_rng(0)
        got = transform(record_ | {"view": view}, rng)
        off = np.minimum(got, np.abs(got - FOCAL * BASELINE / 2))
        assert off.max() < 1e-3, (seed, view.operations(2, 9.0, 0.5))


def test_max_depth_brings_far_points_nearer_but_not_missing_ones():
    transform = depth.Disparity(**PLAIN, max_depth=8.0)
    far = transform(record(np.full((224, 224), 20_000)), None)
    np.testing.assert_allclose(far, FOCAL * BASELINE / 8, rtol=1e-6)
    sky = np.full((224, 224), 20.0)
    sky[:100] = np.inf
    got = transform(metres_record(sky), None)
    np.testing.assert_array_equal(got[:100], 0)
    np.testing.assert_allclose(got[100:], FOCAL * BASELINE / 8, rtol=1e-6)


@pytest.mark.parametrize("nothing", [0.0, -1.0, np.nan, np.inf])
def test_a_map_without_any_depth_is_an_error(nothing):
    with pytest.raises(MediaError, match="no pixel has a depth"):
        depth.Disparity()(metres_record(np.full((8, 8), nothing)), None)


def test_augmentation_follows_the_view_and_only_in_training():
    millimetres = np.tile(np.arange(1000, 1128), (96, 1))
    augmented = depth.Disparity(size=32, **PLAIN, augment=CROP_AND_FLIP)
    plain = depth.Disparity(size=32, **PLAIN)
    given = record(millimetres)
    np.testing.assert_array_equal(augmented(given, None), plain(given, None))
    rng = np.random.default_rng
    np.testing.assert_array_equal(plain(given, rng(0)), plain(given, None))
    views = []
    for seed in range(20):
        got = augmented(given | {"view": SharedAugmentation(seed)}, rng(seed))
        np.testing.assert_array_equal(
            got, augmented(given | {"view": SharedAugmentation(seed)}, rng(99))
        )
        left, top, right, bottom = SharedAugmentation(seed).box(128, 96, (0.08, 1.0))
        columns = np.sort([got[0, 0, 0], got[0, -1, 0]])
        disparities = FOCAL * BASELINE / (1 + 0.128 * np.array([right, left]))
        np.testing.assert_allclose(columns, disparities, rtol=5e-3)
        views.append((got[0, 0, 0] < got[0, -1, 0]) == SharedAugmentation(seed).flip(0.5))
    assert all(views)


def test_erasing_is_after_normalisation():
    erase = SpatialAugmentation(flip=0.0, operations=0, jitter=0.0, erase=1.0)
    transform = depth.Disparity(size=32, normalisation="metric", mean=5.0, std=2.0, augment=erase)
    wall = (FOCAL * BASELINE / 2 - 5) / 2
    got = transform(record(np.full((64, 64), 2000)), np.random.default_rng(0))
    erased = got == 0
    assert 0 < erased.sum() < got.size
    np.testing.assert_allclose(got[~erased], wall, rtol=1e-5)


def test_transform_is_one_value_that_can_be_sent_to_a_worker():
    transform = depth.Disparity.sun_toolbox(augment=SpatialAugmentation())
    assert pickle.loads(pickle.dumps(transform)) == transform
    assert depth.Disparity.sun_toolbox(max_depth=5.0).max_depth == 5
    assert depth.Disparity.nyu(max_depth=None).max_depth is None


def test_focal_length_is_the_first_number():
    assert depth.focal_length("529.5 0 365 0 529.5 265 0 0 1 \n") == 529.5
    assert depth.focal_length("\n5.1885e+02 0.0\n0 1 2") == 518.85
    for bad in ("", "fx 500", "0 0 1", "nan 1", "-5", "1e999"):
        with pytest.raises(MediaError, match="intrinsics.txt"):
            depth.focal_length(bad)
    assert set(depth.BASELINES) >= {"kv1", "kv2", "realsense", "xtion"}


@pytest.mark.parametrize("name", ["focal_length", "baseline"])
@pytest.mark.parametrize("value", [None, 0, -1.0, float("nan"), float("inf"), "wide", [1]])
def test_what_the_camera_must_be_known_for_says_so(name, value):
    given = record(np.ones((4, 4))) | {name: value, "id": "room/7"}
    with pytest.raises(MediaError, match=f"^room/7: {name} is .*SUN RGB-D"):
        depth.Disparity()(given, None)
    del given[name]
    with pytest.raises(MediaError, match=f"^room/7: {name} is None"):
        depth.Disparity()(given, None)


def test_wrong_settings_and_files_are_errors():
    for wrong in ({"mean": 5.0}, {"std": 5.0}):
        with pytest.raises(UserError, match="give both mean and std"):
            depth.Disparity(**wrong)
    eight_bits = record(np.ones((4, 4))) | {"depth": png(np.ones((4, 4), np.uint8))}
    for bad in (eight_bits, eight_bits | {"depth": b"no image"}, eight_bits | {"depth": None}):
        with pytest.raises(MediaError):
            depth.Disparity()(bad, None)
