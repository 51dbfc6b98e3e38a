import itertools
import pickle

import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps
from properties import of_any

from imagebind_jax.errors import UserError
from imagebind_jax.inputs.transforms import augment, rand_augment
from imagebind_jax.inputs.transforms.augment import (
    IMAGES,
    VIDEO,
    SampledAugmentation,
    SharedAugmentation,
    SpatialAugmentation,
)

NOTHING = SpatialAugmentation((1.0, 1.0), flip=0.0, operations=0, jitter=0.0, erase=0.0)
MOVING = SpatialAugmentation(operations=2, jitter=0.0, erase=0.0)
COUNT = 1500


def rng(seed=0):
    return np.random.default_rng(seed)


def noise(width, height, seed=0):
    return Image.fromarray(rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def scene(width, height):
    """What holds its own place: x in red, y in green, and a map of 1 + x, in [1, 2]."""
    y, x = (np.mgrid[:height, :width] + 0.5) / np.array([height, width])[:, None, None]
    colour = np.stack([255 * x, 255 * y, 0 * x], axis=-1).round().astype(np.uint8)
    return Image.fromarray(colour), Image.fromarray((1 + x).astype(np.float32))


def assert_uniform(values):
    """Kolmogorov and Smirnov: uniform in [0, 1] except with a probability of 0.001."""
    values = np.sort(values)
    steps = np.arange(len(values) + 1) / len(values)
    assert max(np.max(values - steps[:-1]), np.max(steps[1:] - values)) < 1.95 / len(values) ** 0.5


# ---- a sample's modalities


def moved_only(count):
    """Seeds of views whose RandAugment moved pixels but left their colours alone."""
    for seed in itertools.count():
        names = [name for name, _ in SharedAugmentation(seed).operations(2, 9.0, 0.5)]
        if names and set(names) <= set(rand_augment.GEOMETRIC):
            yield seed
            count -= 1
        if count == 0:
            return


@pytest.mark.parametrize("width, height", [(500, 375), (250, 188), (333, 249)])
def test_image_and_depth_stay_aligned_whatever_their_sizes(width, height):
    image, depth = scene(500, 375)[0], scene(width, height)[1]
    everywhere, flips = Image.new("L", (640, 480), 255), 0
    for seed in moved_only(12):
        view = SharedAugmentation(seed)
        drawn = MOVING.draw(view, rng(), *image.size), MOVING.draw(view, rng(1), *depth.size)
        red = np.asarray(drawn[0].pixels(image, 64))[..., 0] / 255
        x = np.asarray(drawn[1].pixels(depth, 64)) - 1
        inside = np.asarray(drawn[1].pixels(everywhere, 64))  # 0 where all came from outside
        assert (inside == 255).mean() > 0.2
        assert np.abs(red - x)[inside == 255].max() < 2.5 / 255
        assert np.abs(red * 255 - 128)[inside == 0].max(initial=0) < 1.5  # grey
        assert np.abs(x + 1)[inside == 0].max(initial=0) < 0.01  # infinitely far
        flips += drawn[0].flip
    assert 0 < flips < 12


def test_with_two_views_they_are_not_aligned():
    image, depth = scene(500, 375)
    apart = []
    for seed in range(8):
        red = np.asarray(MOVING.draw(SharedAugmentation(seed), rng(), 500, 375).pixels(image, 64))[
            ..., 0
        ]
        x = (
            np.asarray(
                MOVING.draw(SharedAugmentation(seed + 100), rng(), 500, 375).pixels(depth, 64)
            )
            - 1
        )
        apart.append(np.abs(red / 255 - x)[x > -0.5].mean())
    assert np.mean(apart) > 0.1


def test_colour_operations_are_the_images_own():
    drawn = SampledAugmentation(
        (0.0, 0.0, 1.0, 1.0), False, (("Invert", 0.0),), (("Brightness", 0.5),), None
    )
    image = noise(32, 32)
    for mode in ("L", "F"):
        partner = image.convert(mode)
        assert drawn.pixels(partner, 32).tobytes() == partner.tobytes()
    expected = ImageEnhance.Brightness(ImageOps.invert(image)).enhance(0.5)
    assert drawn.pixels(image, 32).tobytes() == expected.tobytes()
    assert drawn.pixels(image.convert("RGBA"), 32).tobytes() == expected.tobytes()


def test_the_same_drawn_does_the_same_to_all_frames():
    for seed in range(20):
        drawn = IMAGES.draw(SharedAugmentation(seed), rng(seed), 100, 80)
        frames = np.stack([np.asarray(drawn.pixels(noise(100, 80), 32)) for _ in range(2)])
        erased = drawn.erase(frames.astype(np.float32) + 1)
        np.testing.assert_array_equal(erased[0], erased[1])
        assert (erased == 0).any() == (drawn.erased is not None)


# ---- views


CHOICES = {
    "start": lambda view: view.start(10.0, 2.0),
    "box": lambda view: view.box(500, 375, (0.08, 1.0)),
    "flip": lambda view: view.flip(0.5),
    "operations": lambda view: view.operations(2, 9.0, 0.5),
}


def test_no_choice_depends_on_which_others_were_asked_for():
    for seed in range(10):
        alone = {name: choose(SharedAugmentation(seed)) for name, choose in CHOICES.items()}
        for order in itertools.permutations(CHOICES):
            view = SharedAugmentation(seed)
            assert {name: CHOICES[name](view) for name in order} == alone


def test_choices_are_kept_for_other_sizes_and_settings():
    view = SharedAugmentation(3)
    box, operations = view.box(500, 375, (0.08, 1.0)), view.operations(3, 9.0, 0.5)
    assert view.box(640, 480, (0.5, 0.5)) == box
    assert view.operations(1, 1.0, 0.0) == operations
    for seed in range(20):  # one draw, whatever the probability: never both sides of it
        view = SharedAugmentation(seed)
        rising = [view.flip(p) for p in (0.0, 0.25, 0.5, 0.75, 1.0)]
        assert rising == sorted(rising) and not rising[0] and rising[-1]


def test_views_survive_pickling_with_their_choices():
    fresh, used = SharedAugmentation(7), SharedAugmentation(7)
    before = {name: choose(used) for name, choose in CHOICES.items()}
    for view in (fresh, used):
        copy = pickle.loads(pickle.dumps(view))
        assert {name: choose(copy) for name, choose in CHOICES.items()} == before
    assert SharedAugmentation(7).box(700, 300, (0.2, 0.3)) != before["box"]
    assert pickle.loads(pickle.dumps(used)).box(700, 300, (0.2, 0.3)) == before["box"]


def test_golden_choices():
    """Change these only on purpose: with them changes what every seed of training sees."""
    view = SharedAugmentation(2**62 + 1)
    np.testing.assert_allclose(view.start(10.0, 2.0), GOLDEN["start"], rtol=1e-12)
    np.testing.assert_allclose(view.box(500, 375, (0.08, 1.0)), GOLDEN["box"], rtol=1e-12)
    assert view.flip(0.5) == GOLDEN["flip"]
    names, strengths = zip(*view.operations(4, 9.0, 0.5))
    assert list(names) == GOLDEN["names"]
    np.testing.assert_allclose(strengths, GOLDEN["strengths"], rtol=1e-12)


GOLDEN = {
    "start": 6.044783811695053,
    "box": (0.052, 0.010666666666666666, 0.714, 0.9973333333333333),
    "flip": True,
    "names": ["Posterize", "Color", "TranslateX", "Equalize"],
    "strengths": [1.0, 1.882384104865566, -0.45, 0.0],
}


def test_a_record_without_a_view_gets_one_of_its_own():
    view = SharedAugmentation(1)
    assert augment.shared_augmentation({"view": view}, rng()) is view
    own = [
        augment.shared_augmentation({}, rng(seed)).box(500, 375, (0.1, 0.5)) for seed in (0, 0, 1)
    ]
    assert own[0] == own[1] != own[2]


# ---- crop and flip


def test_crops_are_uniform_in_area_place_and_log_shape():
    boxes = np.array(
        [SharedAugmentation(s).box(10**5, 10**5, (0.1, 0.5)) for s in range(COUNT)]
    )  # all fit
    left, top, right, bottom = boxes.T
    w, h = right - left, bottom - top
    assert_uniform((w * h - 0.1) / 0.4)
    low, high = np.log(augment.RATIO)
    assert_uniform((np.log(w / h) - low) / (high - low))
    assert_uniform(left / (1 - w))
    assert_uniform(top / (1 - h))
    # 2 of 3 pixels, at either end.
    assert {SharedAugmentation(s).box(3, 3, (0.44, 0.45))[::2] for s in range(20)} == {
        (0, 2 / 3),
        (1 / 3, 1),
    }


@of_any(
    st.integers(1, 500),
    st.integers(1, 500),
    st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(sorted).map(tuple),
    st.integers(0, 2**63 - 1),
)
def test_crops_are_whole_pixels_within_the_image(width, height, scale, seed):
    box = SharedAugmentation(seed).box(width, height, scale)
    pixels = np.array(box) * [width, height, width, height]
    np.testing.assert_allclose(pixels, pixels.round(), atol=1e-9)
    left, top, right, bottom = pixels.round().astype(int)
    assert 0 <= left < right <= width and 0 <= top < bottom <= height
    w, h = right - left, bottom - top
    centred = (left, top) == ((width - w) // 2, (height - h) // 2)  # where nothing fits
    assert w * h <= scale[1] * width * height + w + h or centred  # sides are rounded
    assert w - 1 <= h * 4 / 3 + 1 and h - 1 <= w * 4 / 3 + 1


def test_a_narrow_image_gives_its_centre():
    assert SharedAugmentation(0).box(1000, 10, (0.9, 1.0)) == pytest.approx((0.493, 0, 0.506, 1))
    assert SharedAugmentation(0).box(1, 1, (0.08, 1.0)) == (0, 0, 1, 1)


def test_the_flip_rate():
    for probability in (0.3, 0.5):
        flipped = np.mean([SharedAugmentation(seed).flip(probability) for seed in range(5000)])
        assert abs(flipped - probability) < 4 * (probability * (1 - probability) / 5000) ** 0.5


def test_nothing_drawn_is_a_plain_resize():
    image = noise(90, 90)
    drawn = NOTHING.draw(SharedAugmentation(0), rng(), 90, 90)
    expected = image.resize((32, 32), Image.Resampling.BILINEAR)
    assert drawn.pixels(image, 32).tobytes() == expected.tobytes()
    assert drawn.pixels(image, 90).tobytes() == image.tobytes()
    flipped = SpatialAugmentation((1.0, 1.0), 1.0, 0, jitter=0.0, erase=0.0).draw(
        SharedAugmentation(0), rng(), 90, 90
    )
    mirrored = np.asarray(flipped.pixels(image, 90))[:, ::-1]
    np.testing.assert_array_equal(mirrored, np.asarray(image))
    array = np.ones((1, 4, 4, 3), np.float32)
    assert drawn.erase(array) is array


def test_a_crop_is_the_resized_region():
    # Bit for bit torchvision's: nothing from outside the crop reaches its edges.
    for seed in range(20):
        image, view = noise(50, 37), SharedAugmentation(seed)
        box = [round(x * side) for x, side in zip(view.box(50, 37, (0.08, 1.0)), (50, 37, 50, 37))]
        expected = image.crop(box).resize((32, 32), Image.Resampling.BILINEAR)
        drawn = SampledAugmentation(view.box(1, 1, (1.0, 1.0)), False, (), (), None)
        assert drawn.pixels(image, 32).tobytes() == expected.tobytes()
    # A fraction of a pixel counts as such: three quarters of one and a quarter of the next.
    table = Image.fromarray(np.float32([[10, 20, 30, 40]] * 4))
    drawn = SampledAugmentation((0.0625, 0.0, 0.3125, 1.0), False, (), (), None)
    assert (
        10
        <= np.asarray(drawn.pixels(table, 4))[0, 0]
        < np.asarray(drawn.pixels(table, 4))[0, 3]
        <= 20
    )


def test_video_is_a_crop_and_nothing_else():
    for seed in range(30):
        drawn = VIDEO.draw(SharedAugmentation(seed), rng(seed), 500, 375)
        assert drawn == SampledAugmentation(
            SharedAugmentation(seed).box(500, 375, (0.08, 1.0)), False, (), (), None
        )


@of_any(
    st.sampled_from(["RGB", "L", "F", "P", "CMYK", "LA"]),
    st.integers(1, 70),
    st.integers(1, 70),
    st.integers(0, 2**32),
    examples=40,
)
def test_any_image_becomes_a_square(mode, width, height, seed):
    image = noise(width, height).convert("L" if mode == "LA" else mode).convert(mode)
    drawn = IMAGES.draw(
        SharedAugmentation(seed), rng(seed), 40, 30
    )  # the first image had another size
    square = drawn.pixels(image, 24)
    assert square.size == (24, 24) and square.mode == (mode if mode in "LF" else "RGB")


# ---- RandAugment


def test_strengths_of_the_levels():
    def at(name, level):
        return rand_augment.level_to_magnitude(name, level)

    assert [at("Rotate", x) for x in (0.0, 9.0, 10.0)] == [0, 27, 30]
    assert [at("ShearX", 10.0), at("TranslateY", 10.0)] == [0.3, 0.45]
    assert rand_augment.level_to_magnitude("Rotate", 9.0, -1.0) == -27
    assert [at("Posterize", x) for x in (0.0, 5.0, 9.0, 10.0)] == [4, 2, 1, 1]
    assert [at("Solarize", x) for x in (0.0, 9.0, 10.0)] == [256, 26, 0]
    assert [at("SolarizeAdd", x) for x in (0.0, 9.0, 10.0)] == [0, 99, 110]
    assert [at("Color", x) for x in (0.0, 10.0)] == [1, 1.9]
    assert rand_augment.level_to_magnitude("Contrast", 10.0, -1.0) == pytest.approx(0.1)
    # Level 0 leaves an image as it is, but for the operations that know no level and Posterize.
    image = noise(20, 20)
    for name in set(rand_augment.OPERATIONS) - {"AutoContrast", "Equalize", "Invert", "Posterize"}:
        assert (
            rand_augment.apply_operations(image, ((name, at(name, 0.0)),)).tobytes()
            == image.tobytes()
        )


def test_what_is_drawn():
    counts, angles = dict.fromkeys(rand_augment.OPERATIONS, 0), []
    for seed in range(COUNT):
        for name, value in SharedAugmentation(seed).operations(4, 7.0, 0.5):
            counts[name] += 1
            if name == "Rotate":
                angles.append(value)
    expected = 4 * COUNT * 0.5 / 15
    assert len(counts) == 15
    assert all(abs(n - expected) < 4.5 * expected**0.5 for n in counts.values())
    assert abs(np.mean(np.sign(angles))) < 4 / len(angles) ** 0.5
    assert np.mean(np.abs(angles)) == pytest.approx(21.0, abs=0.5)
    assert np.std(np.abs(angles)) == pytest.approx(1.5, abs=0.3)
    assert max(abs(v) for s in range(300) for n, v in SharedAugmentation(s).operations(2, 9.0, 5.0)
               if n == "Rotate") == 30  # levels are cut at 10  # fmt: skip
    assert SharedAugmentation(0).operations(0, 9.0, 0.5) == ()


@pytest.mark.parametrize(
    "name, value, reference",
    [
        ("AutoContrast", 0.0, ImageOps.autocontrast),
        ("Equalize", 0.0, ImageOps.equalize),
        ("Invert", 0.0, ImageOps.invert),
        ("Posterize", 3.0, lambda image: ImageOps.posterize(image, 3)),
        ("Posterize", 1.0, lambda image: ImageOps.posterize(image, 1)),
        ("Solarize", 26.0, lambda image: ImageOps.solarize(image, 26)),
        ("Color", 1.81, lambda image: ImageEnhance.Color(image).enhance(1.81)),
        ("Sharpness", 0.19, lambda image: ImageEnhance.Sharpness(image).enhance(0.19)),
        ("Rotate", 27.0, lambda image: image.rotate(27.0, Image.Resampling.BILINEAR, fillcolor=(128,) * 3)),
        *[("Contrast", x, lambda i, x=x: ImageEnhance.Contrast(i).enhance(x)) for x in (0.1, 0.73, 1.4)],
        *[("Brightness", x, lambda i, x=x: ImageEnhance.Brightness(i).enhance(x)) for x in (0.1, 0.73, 1.4)],
    ],
)  # fmt: skip
def test_operations_are_pillows_own(name, value, reference):
    for seed in range(4):
        picture = noise(6, 5, seed).resize((60, 48), Image.Resampling.BICUBIC)
        picture = picture.point([v // 2 + 40 for v in range(256)] * 3)  # contrast to be gained
        found = rand_augment.apply_operations(picture, ((name, value),))
        assert found.tobytes() == reference(picture).tobytes() != picture.tobytes()


def test_solarize_add_shift_and_shear_by_hand():
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).convert("RGB")
    values = np.arange(256)
    added = np.asarray(rand_augment.apply_operations(ramp, (("SolarizeAdd", 99.0),)))[
        ..., 0
    ].ravel()
    np.testing.assert_array_equal(added, np.where(values < 128, values + 99, values))
    table = Image.fromarray(values.reshape(16, 16).astype(np.float32))
    right = np.asarray(rand_augment.apply_operations(table, (("TranslateX", -0.25),)))
    np.testing.assert_allclose(right[:, 4:], values.reshape(16, 16)[:, :-4])
    assert (right[:, :4] == 0).all()
    up = np.asarray(rand_augment.apply_operations(table, (("TranslateY", 0.25),)))
    np.testing.assert_allclose(up[:-4], values.reshape(16, 16)[4:])
    # Row y, whose middle is y + 1/2, comes from 0.2 (y + 1/2) farther right: 1.5 for row 7.
    sheared = np.asarray(rand_augment.apply_operations(table, (("ShearX", 0.2),)))
    np.testing.assert_allclose(sheared[7, :14], 7 * 16 + np.arange(14) + 1.5, atol=1e-4)


def test_hue_is_a_turn_of_the_colour_circle():
    red = Image.new("RGB", (2, 2), (255, 0, 0))
    assert rand_augment.apply_operations(red, (("Hue", 1 / 3),)).getpixel((0, 0)) == (0, 255, 0)
    blue = rand_augment.apply_operations(red, (("Hue", -1 / 3),)).getpixel((0, 0))
    np.testing.assert_allclose(blue, (0, 0, 255), atol=8)  # hue has 8 bits


def test_an_unknown_operation_is_named():
    with pytest.raises(ValueError, match="no operation 'Blur'"):
        rand_augment.apply_operations(noise(4, 4), (("Blur", 1.0),))


# ---- jitter and erasing


def test_jitter_is_each_modalitys_own_and_in_any_order():
    orders, factors, hues = set(), [], []
    view = SharedAugmentation(0)
    for seed in range(300):
        drawn = SpatialAugmentation(hue=0.1).draw(view, rng(seed), 10, 10)
        orders.add(tuple(name for name, _ in drawn.jitter))
        values = dict(drawn.jitter)
        hues.append(values.pop("Hue"))
        factors.extend(values.values())
    assert len(orders) == 24
    assert_uniform((np.array(factors) - 0.6) / 0.8)
    assert_uniform((np.array(hues) + 0.1) / 0.2)
    assert {name for name, _ in IMAGES.draw(view, rng(), 10, 10).jitter} == set(augment.JITTER)


def test_erasing():
    view, shares, ratios = SharedAugmentation(0), [], []
    for seed in range(COUNT):
        erased = SpatialAugmentation(erase=0.25).draw(view, rng(seed), 10, 10).erased
        if erased is not None:
            left, top, right, bottom = erased
            assert 0 <= left < right <= 1 and 0 <= top < bottom <= 1
            shares.append((right - left) * (bottom - top))
            ratios.append((right - left) / (bottom - top))
    assert abs(len(shares) / COUNT - 0.25) < 4 * (0.25 * 0.75 / COUNT) ** 0.5
    assert_uniform((np.array(shares) - 0.02) / 0.31)  # nearly: a few large ones do not fit
    low, high = np.log(augment.ERASED_RATIO)
    assert_uniform((np.log(ratios) - low) / (high - low))


def test_erased_pixels():
    drawn = SampledAugmentation((0.0, 0.0, 1.0, 1.0), False, (), (), (0.25, 0.5, 0.5, 1.0))
    array = np.ones((2, 8, 8, 3), np.float32)
    expected = array.copy()
    expected[:, 4:8, 2:4] = 0
    np.testing.assert_array_equal(drawn.erase(array), expected)
    assert (array == 1).all()
    black = drawn.erase(array[0], np.float32([-1, -2, -3]))
    np.testing.assert_array_equal(black[6, 3], [-1, -2, -3])
    assert drawn.erase(array[0, ..., :1]).sum() == 64 - 8


@pytest.mark.parametrize(
    "field, value",
    [
        ("crop_scale", (0.0, 1.0)),
        ("crop_scale", (0.5, 0.4)),
        ("crop_scale", (0.5, 1.1)),
        ("crop_scale", (float("nan"), 1.0)),
        ("flip", 1.5),
        ("operations", -1),
        ("operations", 17),
        ("magnitude", 10.5),
        ("magnitude", float("nan")),
        ("magnitude_std", -0.5),
        ("magnitude_std", float("inf")),
        ("jitter", 1.1),
        ("hue", 0.6),
        ("erase", -0.1),
    ],
)
def test_a_value_out_of_its_range_is_refused_by_name(field, value):
    with pytest.raises(UserError) as error:
        SpatialAugmentation(**{field: value})
    assert field in str(error.value) and str(value) in str(error.value)
