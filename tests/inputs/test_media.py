import contextlib
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from samples import png

from imagebind_jax.inputs import images, media


def test_inputs_import_neither_jax_nor_a_decoder():
    code = (
        "import sys, imagebind_jax.inputs; print([m for m in "
        "('jax', 'numpy', 'scipy', 'soundfile', 'PIL', 'regex', 'ftfy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_modality_imports_jax():
    names = "audio, depth, imu, media, text, thermal, vision"
    code = f"from imagebind_jax.inputs import {names}; import sys; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_error_is_one_line_and_survives_pickling():
    error = pickle.loads(pickle.dumps(media.MediaError("a.png", "broken\nin two")))
    assert (error.source, str(error)) == ("a.png", "a.png: broken in two")


@pytest.mark.parametrize("error", [SyntaxError("x"), IndexError(), MemoryError(), OSError(5, "io")])
def test_decoding_turns_every_exception_into_one_kind(error):
    with pytest.raises(media.MediaError, match="^a.jpg: ") as caught, media.decoding("a.jpg"):
        raise error
    assert caught.value.__cause__ is error


def test_decoding_leaves_the_user_in_charge():
    with pytest.raises(KeyboardInterrupt), media.decoding("a.jpg"):
        raise KeyboardInterrupt


def test_damaged_png_is_a_media_error_whatever_the_byte():
    good = png(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    rng = np.random.default_rng(0)
    for at in range(len(good)):
        bad = bytearray(good)
        bad[at] ^= int(rng.integers(1, 256))
        with contextlib.suppress(media.MediaError):
            images.open_image(bytes(bad))
    for length in range(len(good) // 2):
        with pytest.raises(media.MediaError):
            images.open_image(good[:length])


def test_too_many_pixels_are_refused_before_decoding():
    with pytest.raises(media.MediaError, match="100 x 50 pixels are more than 4999"):
        images.open_image(png(np.zeros((50, 100), np.uint8)), max_pixels=4999)


def test_only_listed_formats_and_regular_files(tmp_path):
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
    os.mkfifo(tmp_path / "fifo.jpg")
    for source in [eps, b"", b"<html>", tmp_path, tmp_path / "fifo.jpg", tmp_path / "none.png"]:
        with pytest.raises(media.MediaError):
            images.open_image(source)


def test_path_and_bytes_are_the_same_image(tmp_path):
    encoded = png(np.arange(12, dtype=np.uint8).reshape(3, 4))
    (tmp_path / "a.png").write_bytes(encoded)
    image = images.open_image(tmp_path / "a.png")
    assert image.size == (4, 3)
    np.testing.assert_array_equal(np.asarray(image), np.asarray(images.open_image(encoded)))


@pytest.mark.parametrize("size", [(224, 224), (225, 225), (448, 224), (101, 57), (57, 101)])
def test_resize_and_crop_is_square_and_keeps_what_fits(size):
    image = Image.new("F", size, 3.5)
    square = images.resize_and_crop(image, 224)
    assert square.size == (224, 224)
    np.testing.assert_allclose(np.asarray(square), 3.5, atol=1e-5)
    assert (square is image) == (size == (224, 224))
