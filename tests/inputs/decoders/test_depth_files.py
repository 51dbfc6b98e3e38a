import io
import os
import struct
import sys

import numpy as np
import OpenEXR
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from properties import of_any
from samples import png

from imagebind_jax.errors import UserError
from imagebind_jax.inputs.decoders import depth_files, exr
from imagebind_jax.inputs.decoders.depth_files import read_depth
from imagebind_jax.inputs.decoders.media import MediaError

RAW = np.array([[0, 1, 8, 8000], [12_345, 40_000, 65_528, 65_535]], np.uint16)


def tiff(levels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "TIFF")
    return file.getvalue()


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def encode_exr(channels: dict[str, np.ndarray], **header) -> bytes:
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage} | header
    file = io.BytesIO()
    OpenEXR.File(header, channels).write(file)
    return file.getvalue()


@pytest.mark.parametrize("encode", [png, tiff, npy])
def test_integers_of_16_bits_are_millimetres(encode):
    got = read_depth(encode(RAW))
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, RAW.astype(np.float32) / np.float32(1000))
    np.testing.assert_array_equal(got, read_depth(encode(RAW), "millimetres"))


@pytest.mark.parametrize("encode", [tiff, npy, lambda metres: encode_exr({"Z": metres})])
def test_floats_are_metres(encode):
    metres = np.array([[0.5, 1.25], [80.0, 1e-3]], np.float32)
    np.testing.assert_array_equal(read_depth(encode(metres)), metres)
    np.testing.assert_array_equal(read_depth(encode(metres), "metres"), metres)


@pytest.mark.parametrize("encode", [tiff, npy, lambda metres: encode_exr({"Z": metres})])
def test_what_is_no_depth_is_0(encode):
    metres = np.array([[0, -1, np.nan], [np.inf, -np.inf, 2]], np.float32)
    np.testing.assert_array_equal(read_depth(encode(metres)), [[0, 0, 0], [0, 0, 2]])


def test_big_endian_files_and_other_widths():
    image = Image.frombytes("I;16B", (4, 2), RAW.astype(">u2").tobytes())
    file = io.BytesIO()
    image.save(file, "TIFF")
    expected = RAW.astype(np.float32) / 1000
    np.testing.assert_array_equal(read_depth(file.getvalue()), expected)
    for dtype in (">u2", "<i4", ">i8"):
        np.testing.assert_array_equal(read_depth(npy(RAW.astype(dtype))), expected)
    metres = np.array([[1.5, 2.5]])
    for dtype in ("<f2", ">f4", ">f8"):
        np.testing.assert_array_equal(read_depth(npy(metres.astype(dtype))), metres)
    np.testing.assert_array_equal(read_depth(npy(np.full((1, 1), 1e300))), [[0]])  # not in float32


def test_a_reading_that_is_named_is_what_counts():
    np.testing.assert_array_equal(read_depth(npy(np.full((1, 1), 1500.0)), "millimetres"), [[1.5]])
    np.testing.assert_array_equal(read_depth(npy(np.full((1, 1), 3)), "metres"), [[3]])
    with pytest.raises(UserError, match="reading 'feet' is none of auto, "):
        read_depth(png(RAW), "feet")


@pytest.mark.parametrize("encode", [tiff, npy, lambda metres: encode_exr({"Z": metres})])
def test_floats_that_can_only_be_millimetres_are_not_taken_for_metres(encode):
    levels = np.array([[0, 1500, np.inf], [900, 50, np.nan]], np.float32)
    with pytest.raises(MediaError, match="900 looks like millimetres: say reading='millimetres'"):
        read_depth(encode(levels))
    np.testing.assert_allclose(read_depth(encode(levels), "millimetres")[0], [0, 1.5, 0])
    np.testing.assert_array_equal(read_depth(encode(levels), "metres")[0], [0, 1500, 0])
    far = np.array([[5, 80, 1e5]], np.float32)  # a sky does not make them millimetres
    np.testing.assert_array_equal(read_depth(encode(far)), far)


def test_one_axis_of_length_1_of_an_array_does_not_matter():
    metres = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], np.float32)
    for shaped in (metres[None], metres[..., None]):
        np.testing.assert_array_equal(read_depth(npy(shaped)), metres)


@of_any(hnp.arrays(np.uint16, (2, 3), elements=st.integers(0, 8191)), examples=50)
def test_suns_rotation_is_undone_and_left_by_name(millimetres):
    rotated = (millimetres << np.uint16(3)) | (millimetres >> np.uint16(13))
    expected = millimetres / np.float32(1000)
    np.testing.assert_array_equal(read_depth(png(rotated), "sun_shifted"), expected)
    eight_times = read_depth(png(rotated), "sun_raw")
    expected = np.where(millimetres > 0, np.clip(8 * expected, 0.01, 50), 0)
    np.testing.assert_allclose(eight_times, expected, rtol=1e-6)


def test_suns_rotation_wraps_the_low_bits_around():
    # 0b101 in the low bits came from the top: 5 * 8192 + (raw >> 3)
    raw = np.array([[(700 << 3) | 0b101]], np.uint16)
    assert read_depth(png(raw), "sun_shifted")[0, 0] == np.float32(5 * 8192 + 700) / 1000
    assert read_depth(png(raw), "sun_raw")[0, 0] == np.float32(5605) / 1000
    np.testing.assert_array_equal(read_depth(png(RAW[:1, :2]), "sun_raw"), [[0, np.float32(0.01)]])


@pytest.mark.parametrize(
    ("source", "reading", "reason"),
    [
        (png(np.zeros((4, 4), np.uint8)), "auto", "mode L is a picture"),
        (png(np.zeros((4, 4, 3), np.uint8)), "millimetres", "mode RGB is a picture"),
        (npy(np.zeros((4, 4), np.uint8)), "auto", "uint8 of shape"),
        (npy(np.ones((4, 4, 3))), "auto", "no depth map"),
        (npy(np.ones((4, 1, 4))), "auto", "no depth map"),
        (npy(np.ones((1, 4, 4, 1))), "auto", "no depth map"),
        (npy(np.ones(4)), "auto", "no depth map"),
        (npy(np.ones((0, 4))), "auto", "no depth map"),
        (npy(np.full((2, 2), 70_000)), "sun_shifted", "no 16-bit PNG"),
        (tiff(np.ones((2, 2), np.float32)), "sun_raw", "no 16-bit PNG"),
        (b"no image", "auto", "cannot identify"),
        (b"<html><body>404", "auto", "web page"),
        (b"", "auto", "empty"),
    ],
)
def test_what_is_no_depth_map_is_a_media_error(source, reading, reason):
    with pytest.raises(MediaError, match=reason):
        read_depth(source, reading)


def test_maps_are_bounded_before_they_are_decoded(monkeypatch, tmp_path):
    monkeypatch.setattr(depth_files, "MAX_PIXELS", 7)
    monkeypatch.setattr(exr, "MAX_SAMPLES", 7)
    for source in (png(RAW), npy(RAW.astype(np.float64)), encode_exr({"Z": np.ones((2, 4), "f")})):
        with pytest.raises(MediaError, match="more than"):
            read_depth(source)
    os.mkfifo(tmp_path / "pipe.npy")
    with pytest.raises(MediaError, match="not a regular file"):
        read_depth(tmp_path / "pipe.npy")


METRES = np.array([[0.5, 1.0, 2.0], [4.0, 8.0, 0.0]], np.float32)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("storage", [OpenEXR.scanlineimage, OpenEXR.tiledimage])
def test_exr_of_both_float_types(dtype, storage, tmp_path):
    tiles = {"tiles": OpenEXR.TileDescription()} if storage == OpenEXR.tiledimage else {}
    encoded = encode_exr({"Z": METRES.astype(dtype)}, type=storage, **tiles)
    np.testing.assert_array_equal(read_depth(encoded), METRES)
    (tmp_path / "a.exr").write_bytes(encoded)
    np.testing.assert_array_equal(read_depth(tmp_path / "a.exr"), METRES)


@pytest.mark.parametrize(
    ("names", "depth"),
    [
        ("Z R G B A", "Z"),
        ("ViewLayer.Depth.Z ViewLayer.Normal.Z ViewLayer.Normal.X", "ViewLayer.Depth.Z"),
        ("Y A", "Y"),
        ("R A", "R"),
        ("distance", "distance"),
    ],
)
def test_exr_channel_that_holds_the_depth(names, depth):
    channels = {name: np.full((2, 3), 9, np.float32) for name in names.split()} | {depth: METRES}
    np.testing.assert_array_equal(read_depth(encode_exr(channels)), METRES)


def test_exr_of_grey_and_of_several_parts():
    np.testing.assert_array_equal(read_depth(encode_exr(dict.fromkeys("RGB", METRES))), METRES)
    parts = [OpenEXR.Part({}, {name: METRES * k}, f"part {k}") for k, name in enumerate("AZ", 1)]
    file = io.BytesIO()
    OpenEXR.File(parts).write(file)
    np.testing.assert_array_equal(read_depth(file.getvalue()), METRES * 2)


def with_window(encoded: bytes, width: int, height: int) -> bytes:
    window, encoded = struct.pack("<4i", 0, 0, width - 1, height - 1), bytearray(encoded)
    for name in (b"dataWindow\0box2i\0", b"displayWindow\0box2i\0"):
        at = encoded.index(name) + len(name) + 4
        encoded[at : at + 16] = window
    return bytes(encoded)


ONE = encode_exr({"Z": METRES})
TILED = encode_exr({"Z": METRES}, type=OpenEXR.tiledimage, tiles=OpenEXR.TileDescription())


@pytest.mark.parametrize(
    ("encoded", "reason"),
    [
        (encode_exr({"a": METRES, "b": METRES}), "no depth channel among a, b"),
        (encode_exr({"R": METRES, "G": METRES + 1, "B": METRES}), "a picture in colour"),
        (encode_exr({"Z": np.ones((2, 3), np.uint32)}), "not of half or float"),
        (with_window(ONE, 20_000, 20_000), "400000000 samples"),
        (with_window(ONE, 2**31 - 1, 2**31 - 1), "samples"),
        (with_window(ONE, 0, 2), "a window of 0 x 2"),
        (with_window(ONE, 1000, 1), "times as long as wide"),
        (with_window(ONE, 200, 100), "its pixels are damaged"),
        (TILED.replace(b"\t\0\0\0 \0\0\0 \0", b"\t\0\0\0 \0\0\1 \0"), "samples"),  # 16 Mi wide
        (
            ONE.replace(
                b"displayWindow\0box2i\0\x10\0\0\0\0", b"displayWindow\0box2i\0\x10\0\0\0\1"
            ),
            "crop",
        ),
        (ONE[:4] + b"\2\x08\0\0" + ONE[8:], "deep pixels"),
        (ONE[:4] + b"\3" + ONE[5:], "version 3"),
        (ONE[:8] + b"x" * 300, "does not end"),
        (ONE[:8] + b"a\0int\0\xff\xff\xff\x7f", "a has 2147483647 bytes"),
        (ONE[:8] + b"".join(b"a%d\0int\0\1\0\0\0x" % i for i in range(1001)), "more than 1000"),
        (ONE[:8] + b"\0", "KeyError: 'channels'"),
        (ONE[:-20], "damaged"),
        (ONE[:40], "Error"),
    ],
)
def test_exr_that_cannot_be_used_is_refused(encoded, reason):
    with pytest.raises(MediaError, match=reason):
        read_depth(encoded)


@of_any(st.data(), examples=100)
def test_damaged_exr_gives_numbers_or_one_kind_of_error(data):
    encoded = bytearray(data.draw(st.sampled_from([ONE, TILED])))
    for _ in range(data.draw(st.integers(1, 3))):
        encoded[data.draw(st.integers(4, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    try:
        depth = read_depth(bytes(encoded))
    except MediaError:
        return
    assert depth.shape == METRES.shape and np.isfinite(depth).all() and (depth >= 0).all()


def test_without_the_library_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "OpenEXR", None)
    with pytest.raises(UserError, match=r"pip install 'imagebind-jax\[exr\]'") as caught:
        read_depth(ONE)
    assert not isinstance(caught.value, MediaError)  # which would only mask this record
