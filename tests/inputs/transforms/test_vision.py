import io
import pickle

import numpy as np
import pytest
from PIL import Image
from samples import GOLDEN, png

from imagebind_jax.errors import UserError
from imagebind_jax.inputs.decoders.images import open_image
from imagebind_jax.inputs.decoders.media import MediaError
from imagebind_jax.inputs.transforms import vision
from imagebind_jax.inputs.transforms.augment import SharedAugmentation, SpatialAugmentation


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
    assert vision.FramesTransform(size=32)({"vision": frames[0]}, None).shape == (1, 32, 32, 3)
    for count, expected in [(2, [0, 4]), (3, [0, 2, 4]), (5, [0, 1, 2, 3, 4]), (4, [0, 1, 2, 4])]:
        clip = vision.FramesTransform(size=8, frames=count)({"vision": frames}, None)
        red = clip[:, 0, 0, 0] * vision.STD[0] + vision.MEAN[0]
        np.testing.assert_allclose(red, np.array([0, 0.2, 0.4, 0.6, 1])[expected], atol=1e-6)
    assert vision.FramesTransform(size=8)({"vision": frames[:1]}, None).shape == (2, 8, 8, 3)


def test_augmentation_is_the_same_for_all_frames_and_follows_the_generator():
    picture = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    record = {"vision": [png(picture)] * 3}
    clip = vision.FramesTransform(size=32, frames=3, augment=SpatialAugmentation((0.3, 0.6)))
    first, again, other = (clip(record, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first[0], first[2])
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    np.testing.assert_array_equal(
        clip(record, None), vision.FramesTransform(size=32, frames=3)(record, None)
    )


def test_without_augmentation_training_sees_what_evaluation_sees():
    record = {"vision": png(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8))}
    clip = vision.FramesTransform(size=32)
    np.testing.assert_array_equal(clip(record, np.random.default_rng(0)), clip(record, None))


def test_augmentation_is_what_the_view_says():
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    spatial = SpatialAugmentation((1.0, 1.0), flip=1.0, operations=0, jitter=0.0, erase=1.0)
    record = {"vision": png(pixels), "view": SharedAugmentation(0)}
    got = vision.FramesTransform(16, augment=spatial)(record, np.random.default_rng(0))
    drawn = spatial.draw(SharedAugmentation(0), np.random.default_rng(0), 60, 40)
    expected = np.asarray(drawn.pixels(Image.fromarray(pixels), 16), np.float32) / np.float32(255)
    expected = drawn.erase((expected - vision.MEAN) / vision.STD)
    np.testing.assert_array_equal(got, expected[None])
    assert (got == 0).any() and (got != 0).any()


def test_a_large_jpeg_is_decoded_smaller_for_training_only(monkeypatch):
    file, shrunk = io.BytesIO(), []
    pixels = np.random.default_rng(0).integers(0, 255, (6, 8, 3), np.uint8)
    Image.fromarray(pixels).resize((640, 480)).save(file, "JPEG")
    original = vision.open_image
    monkeypatch.setattr(
        vision,
        "open_image",
        lambda *a, **k: shrunk.append(original(*a, **k).size) or original(*a, **k),
    )
    record = {"vision": file.getvalue(), "view": SharedAugmentation(0)}
    clip = vision.FramesTransform(
        64, augment=SpatialAugmentation((0.5, 0.5), 0.0, 0, jitter=0.0, erase=0.0)
    )
    small = clip(record, np.random.default_rng(0))
    clip(record, None)
    vision.FramesTransform(300, augment=clip.augment)(record, np.random.default_rng(0))
    assert shrunk == [(160, 120), (640, 480), (640, 480)]
    monkeypatch.setattr(vision, "open_image", lambda source, **k: original(source))
    assert np.abs(small - clip(record, np.random.default_rng(0))).mean() < 0.05


def test_a_phones_portrait_is_upright():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8))
    turned, tags = io.BytesIO(), Image.Exif()
    tags[0x0112] = 6
    picture.transpose(Image.Transpose.ROTATE_90).save(turned, "PNG", exif=tags)
    got, expected = (
        vision.FramesTransform(16)({"vision": x}, None)
        for x in (turned.getvalue(), png(np.asarray(picture)))
    )
    np.testing.assert_array_equal(got, expected)


def test_views_of_images_are_one():
    frames = [png(np.full((8, 8, 3), value, np.uint8)) for value in (0, 51, 255)]
    views, clip = vision.EvalViews(size=16), vision.FramesTransform(size=16)
    for source, count in [(frames[0], 1), (frames, 2)]:
        got = views({"vision": source}, None)
        assert got.shape == (1, count, 16, 16, 3)
        np.testing.assert_array_equal(got[0], clip({"vision": source}, None))


def test_crops_lie_left_centre_and_right():
    # The red of a column is its number; 3 pixels high as wanted, nothing is resized.
    ramp = np.zeros((3, 256, 3), np.uint8)
    ramp[..., 0] = np.arange(256)
    red = vision.spatial_crops(ramp, 3)[..., 0] * vision.STD[0] + vision.MEAN[0]
    starts = np.round(red[:, 0, 0] * 255).tolist()
    assert starts == [0, 127, 253]  # ceil(253 / 2)
    down = vision.spatial_crops(ramp.swapaxes(0, 1), 3)
    np.testing.assert_array_equal(down, vision.spatial_crops(ramp, 3).swapaxes(1, 2))
    np.testing.assert_array_equal(
        vision.spatial_crops(ramp, 3, 1), vision.spatial_crops(ramp, 3)[1:2]
    )


def test_resizing_of_frames_is_linear_between_centres():
    # Twice as large: places 0.25 and 0.75 between two neighbours, the first before the first.
    row = np.array([[[0, 0, 0], [100, 100, 100]]], np.uint8).repeat(2, 0)
    got = vision.spatial_crops(row, 4, 1)[0, 0] * vision.STD + vision.MEAN
    np.testing.assert_allclose(got[:, 0] * 255, [0, 25, 75, 100], atol=1e-4)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_every_mode_becomes_rgb(mode):
    assert vision.image_input(Image.new(mode, (30, 20)), size=16).shape == (16, 16, 3)


def test_bad_frames_and_settings_are_errors():
    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, "JPEG")
    for media in ([], b"", b"no image", [file.getvalue()[:300]]):
        with pytest.raises(MediaError):
            vision.FramesTransform()({"vision": media}, None)
    thin = png(np.zeros((1, 300), np.uint8))
    for transform in (vision.FramesTransform(16), vision.EvalViews(size=16)):
        with pytest.raises(MediaError, match="300 x 1 pixels"):
            transform({"vision": thin}, None)
        assert pickle.loads(pickle.dumps(transform)) == transform
    with pytest.raises(MediaError, match="no field 'vision'"):
        vision.FramesTransform()({"id": 3}, None)
    with pytest.raises(UserError, match="crops must be 1 or 3, got 2"):
        vision.EvalViews(crops=2)


@pytest.mark.parametrize(
    "setting, wrong",
    [
        *(("size", wrong) for wrong in (0, True)),
        ("frames", 0),
        *(("seconds", wrong) for wrong in (-1.0, 0.0, np.nan, np.inf)),
        ("clips", 0),
    ],
)
def test_settings_out_of_range_are_refused_at_once(setting, wrong):
    for transform in (
        (vision.EvalViews,) if setting == "clips" else (vision.FramesTransform, vision.EvalViews)
    ):
        with pytest.raises(UserError, match=f"^{setting} must be ") as caught:
            transform(**{setting: wrong})
        assert not isinstance(caught.value, MediaError)
