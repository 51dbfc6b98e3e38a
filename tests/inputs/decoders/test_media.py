import contextlib
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from samples import png

from imagebind_jax.inputs.decoders import images, media


@pytest.mark.parametrize(
    ("imported", "unneeded"),
    [
        (
            "import imagebind_jax.inputs",
            ("jax", "numpy", "scipy", "soundfile", "PIL", "regex", "ftfy"),
        ),
        (
            "from imagebind_jax.inputs.decoders import media; "
            "from imagebind_jax.inputs.transforms import audio, depth, imu, mfcc, text, thermal, vision",
            ("jax", "av", "librosa"),
        ),
    ],
    ids=["inputs", "every modality"],
)
def test_what_is_not_needed_yet_is_not_imported(imported, unneeded):
    code = f"{imported}; import sys; print([m for m in {unneeded} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_error_is_one_line_and_survives_pickling():
    error = pickle.loads(pickle.dumps(media.MediaError("a.png", "broken\nin two")))
    assert (error.source, str(error)) == ("a.png", "a.png: broken in two")


@pytest.mark.parametrize("error", [SyntaxError("x"), IndexError(), MemoryError(), OSError(5, "io")])
def test_decoding_turns_every_exception_into_one_kind(error):
    with (
        pytest.raises(media.MediaError, match="^a.jpg: ") as caught,
        media.wrap_decode_errors("a.jpg"),
    ):
        raise error
    assert caught.value.__cause__ is error


def test_decoding_leaves_the_user_in_charge():
    with pytest.raises(KeyboardInterrupt), media.wrap_decode_errors("a.jpg"):
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


KINDS = {
    b"\xff\xd8\xff\xe0": "image",
    b"\x89PNG\r\n\x1a\n": "image",
    b"RIFF\0\0\0\0WEBP": "image",
    b"RIFF\0\0\0\0WAVE": "audio",
    b"RIFF\0\0\0\0AVI ": "container",
    b"\0\0\0\x20ftypisom": "container",
    b"\x1aE\xdf\xa3": "container",
    b"\x93NUMPY": "array",
    b"v/1\x01": "exr",
    b"RIFF\0\0\0\0????": "",
    b"gyro_x,gyro_y": "",
}


@pytest.mark.parametrize("beginning", KINDS)
def test_kind_is_what_is_in_it(beginning, tmp_path):
    (tmp_path / "a.txt").write_bytes(beginning + bytes(9))
    assert (
        media.sniff_media_type(tmp_path / "a.txt")
        == media.sniff_media_type(beginning)
        == KINDS[beginning]
    )


@pytest.mark.parametrize(
    "text, told",
    [
        ("version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        ("\ufeff\n<!DOCTYPE html><html>", "a web page"),
        ("<html><body>404", "a web page"),
        ("#EXTM3U\nhttp://example.org/a.ts", "a playlist"),
        ("ffconcat version 1.0", "a playlist"),
        ("<svg xmlns=", "SVG"),
        ("%!PS-Adobe", "PostScript"),
        ("FLV\x01\x05", "a Flash video: convert it to MP4 first"),
    ],
)
def test_what_people_have_in_place_of_media_is_told(text, told):
    with pytest.raises(media.MediaError, match=told):
        media.sniff_media_type(text.encode())


@pytest.mark.parametrize("brand", media.STILL_IMAGE_BRANDS)
def test_heic_and_avif_are_told_to_be_converted(brand):
    picture = b"\0\0\0\x20ftyp" + brand + bytes(20)
    for read in (media.sniff_media_type, images.open_image, images.image_size):
        with pytest.raises(media.MediaError, match="HEIC or AVIF: convert it to JPEG or PNG first"):
            read(picture)


def test_a_folder_is_told_apart(tmp_path):
    with pytest.raises(media.MediaError, match="a folder, not a regular file: give its files"):
        media.open_media(tmp_path)


def test_a_record_without_the_field_is_named():
    assert media.first_field({"audio": None, "vision": b"x"}, "audio", "vision") == b"x"
    with pytest.raises(media.MediaError, match="^7: no field 'audio' or 'vision'"):
        media.first_field({"id": 7, "audio": None}, "audio", "vision")
