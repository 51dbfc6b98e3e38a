import io

import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image
from properties import of_any
from samples import png, raw_png

from imagebind_jax.inputs.decoders import images
from imagebind_jax.inputs.decoders.media import MediaError

PICTURE = np.random.default_rng(0).integers(0, 256, (6, 8, 3)).repeat(8, 0).repeat(8, 1)
PICTURE = PICTURE.astype(np.uint8)  # 64 x 48


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


LOSSLESS: dict = {"PNG": {}, "BMP": {}, "TIFF": {}, "WEBP": {"lossless": True}}
OTHERS: dict = {"JPEG": {"quality": 95, "subsampling": 0}, "GIF": {}}


@pytest.mark.parametrize("kind", [*LOSSLESS, *OTHERS])
def test_every_format_is_read(kind):
    source = encoded(Image.fromarray(PICTURE), kind, **(LOSSLESS | OTHERS)[kind])
    got = np.asarray(images.to_rgb(images.open_image(source)))
    assert np.abs(got.astype(int) - PICTURE).mean() <= (0 if kind in LOSSLESS else 9)
    assert images.image_size(source) == (64, 48)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_many_frames_the_first(kind):
    frames = [Image.new("RGB", (4, 4), (level, level, level)) for level in (51, 204)]
    options = LOSSLESS.get(kind, {}) | {"save_all": True, "append_images": frames[1:]}
    image = images.open_image(encoded(frames[0], kind, **options))
    assert np.unique(images.to_rgb(image)).tolist() == [51]


# What a camera held so has stored, of a picture that is right.
STORED = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, 1),
    7: lambda x: np.rot90(x, 2).swapaxes(0, 1),
    8: lambda x: np.rot90(x, -1),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_pictures_come_upright(orientation, kind):
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](PICTURE)))
    source = encoded(stored, kind, exif=exif(orientation), **LOSSLESS[kind])
    image = images.open_image(source)
    np.testing.assert_array_equal(np.asarray(image), PICTURE)
    assert image.size == images.image_size(source) == (64, 48) and image.format == kind
    if kind != "TIFF":
        as_stored = images.open_image(source, upright=False)
        np.testing.assert_array_equal(np.asarray(as_stored), np.asarray(stored))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_says_nothing():
    for damage in (
        b"Exif\0\0",
        b"Exif\0\0MM\0*\xff\xff\xff\xff",
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01",
    ):
        source = encoded(Image.fromarray(PICTURE), "JPEG", exif=damage)
        assert images.open_image(source).size == images.image_size(source) == (64, 48)


def test_jpeg_may_be_decoded_smaller_and_nothing_else():
    smooth = Image.fromarray(PICTURE).resize((640, 480))
    source = encoded(smooth, "JPEG", exif=exif(6))
    for shrink, width in [(1, 480), (2, 240), (3, 240), (4, 120), (100, 60)]:
        small = images.open_image(source, shrink=shrink)
        assert small.size == (width, width * 4 // 3)
        difference = np.asarray(small, int) - np.asarray(
            smooth.transpose(4).resize(small.size), int
        )
        assert np.abs(difference).mean() < 8
    assert images.open_image(encoded(smooth, "PNG"), shrink=4).size == (640, 480)


def test_how_much_smaller_may_depend_on_the_upright_size():
    source, told = encoded(Image.fromarray(PICTURE).resize((640, 480)), "JPEG", exif=exif(6)), []
    small = images.open_image(source, shrink=lambda *size: told.append(size) or 2)
    assert told == [(480, 640)] and small.size == (240, 320)


@pytest.mark.parametrize("kind", [*LOSSLESS, *OTHERS])
def test_truncated_files_are_errors(kind):
    source = encoded(Image.fromarray(PICTURE), kind, **LOSSLESS.get(kind, {}))
    for length in range(0, len(source) * 9 // 10, max(len(source) // 40, 1)):
        with pytest.raises(MediaError):
            images.open_image(source[:length])


def test_too_many_pixels_are_refused_before_decoding():
    with pytest.raises(MediaError, match="100 x 50 pixels are more than 4999"):
        images.open_image(png(np.zeros((50, 100), np.uint8)), max_pixels=4999)
    for side, reason in [(9_000, "81000000|9000 x 9000"), (60_000, "DecompressionBomb")]:
        with pytest.raises(MediaError, match=reason):  # there is no picture, but that is not it
            images.open_image(raw_png(side, side, 8, 2, b""))


def progressive(scans: int) -> bytes:
    """A JPEG whose last scan, a pass over all pixels in 31 bytes, comes once more and again."""
    plain = encoded(Image.new("L", (640, 480), 128), "JPEG", progressive=True)
    last = plain.rindex(b"\xff\xda")
    return plain[:-2] + plain[last:-2] * scans + plain[-2:]


def test_a_jpeg_of_endless_scans_is_refused(monkeypatch):
    monkeypatch.setattr(images, "MAX_SCANNED", 50 * 640 * 480)
    assert images.open_image(progressive(40)).size == (640, 480)
    with pytest.raises(MediaError, match="scans of 307200 pixels"):
        images.open_image(progressive(60))
    # What comes behind the picture, such as a phone's film, is none of its scans.
    assert images.open_image(progressive(40) + b"\0\x02" + b"\xff\xda\0\x02" * 100).size == (
        640,
        480,
    )
    comment = b"\xff\xfe\0\xca" + b"\xff\xda" * 100
    assert images.open_image(progressive(40).replace(b"\xff\xd8", b"\xff\xd8" + comment, 1))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "CMYK", "YCbCr", "RGB"])
def test_modes_of_8_bits_are_as_pillow_and_so_the_reference_has_them(mode):
    image = Image.fromarray(PICTURE).convert("RGBA" if mode == "PA" else "RGB").convert(mode)
    np.testing.assert_array_equal(
        np.asarray(images.to_rgb(image)), np.asarray(image.convert("RGB"))
    )


def test_alpha_is_dropped_and_not_blended():
    clear = Image.new("RGBA", (2, 2), (10, 20, 30, 0))
    assert np.asarray(images.to_rgb(clear))[0, 0].tolist() == [10, 20, 30]
    palette = Image.fromarray(PICTURE).quantize(16)
    source = encoded(palette, "PNG", transparency=int(np.asarray(palette)[0, 0]))
    got = images.to_rgb(images.open_image(source))
    np.testing.assert_array_equal(np.asarray(got), np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bits_are_scaled_and_not_clipped(kind):
    levels = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
    image = images.open_image(encoded(Image.fromarray(levels), kind))
    assert np.asarray(images.to_rgb(image))[0].tolist() == [[x] * 3 for x in (0, 0, 1, 128, 255)]


def test_16_bit_colour_is_like_16_bit_grey():
    levels = np.array([0, 255, 256, 32768, 65535], ">u2")
    grey = raw_png(5, 1, 16, 0, b"\0" + levels.tobytes())
    colour = raw_png(5, 1, 16, 2, b"\0" + levels.repeat(3).tobytes())
    a, b = (np.asarray(images.to_rgb(images.open_image(source))) for source in (grey, colour))
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "levels",
    [
        np.array([[0, 1 << 16]], np.int32),
        np.array([[0, -1]], np.int32),
        np.float32([[0, np.nan]]),
        np.float32([[0, np.inf]]),
        np.float32([[0, 1.01]]),
        np.float32([[-0.01, 1]]),
    ],
)
def test_levels_without_a_meaning_are_errors(levels):
    image = images.open_image(encoded(Image.fromarray(levels), "TIFF"))
    with pytest.raises(ValueError, match="are not in"):
        images.to_rgb(image)


def test_32_bits_that_would_fit_into_8_are_refused_and_not_black():
    def rgb(levels: list[int]) -> list[int]:
        image = images.open_image(encoded(Image.fromarray(np.int32([levels])), "TIFF"))
        return np.asarray(images.to_rgb(image))[0, :, 0].tolist()

    with pytest.raises(ValueError, match="levels 0 to 255 in 32 bits: save it with 8 bits, or 16"):
        rgb([0, 255])
    assert rgb([0, 256, 65535]) == [0, 1, 255] and rgb([0, 0]) == [0, 0]


def test_a_sound_in_place_of_an_image_is_named():
    for source, what in [
        (b"fLaC" + bytes(99), "a sound file"),
        (b"v/1\x01" + bytes(99), "OpenEXR"),
    ]:
        with pytest.raises(MediaError, match=f"cannot identify it: .*{what}.*, none of JPEG"):
            images.open_image(source)


def test_floats_are_fractions():
    image = images.open_image(encoded(Image.fromarray(np.float32([[0, 0.2, 1]])), "TIFF"))
    assert np.asarray(images.to_rgb(image))[0, :, 0].tolist() == [0, 51, 255]
    with pytest.raises(ValueError, match="LAB"):
        images.to_rgb(Image.new("LAB", (2, 2)))


@pytest.mark.parametrize("size", [(224, 224), (225, 225), (448, 224), (101, 57), (57, 101)])
def test_resize_and_crop_is_square_and_keeps_what_fits(size):
    image = Image.new("F", size, 3.5)
    square = images.resize_and_crop(image, 224)
    assert square.size == (224, 224)
    np.testing.assert_allclose(np.asarray(square), 3.5, atol=1e-5)
    assert (square is image) == (size == (224, 224))


@of_any(st.integers(1, 100), st.integers(1, 100_000), st.booleans(), examples=30)
def test_the_resized_image_is_bounded(short, long, upright):
    size = (short, max(short, long))
    image = Image.new("L", size if upright else size[::-1])
    if size[1] > 256 * short:
        with pytest.raises(ValueError, match="more than 256 times as long"):
            images.resize_and_crop(image, 8)
    else:
        assert images.resize_and_crop(image, 8).size == (8, 8)
