import io
import struct

import numpy as np
import pytest
from hypothesis import strategies as st
from properties import of_any

from imagebind_jax.inputs.decoders import npy as npy_decoder
from imagebind_jax.inputs.decoders.media import MediaError


def npy(array: np.ndarray, version: tuple[int, int] | None = None) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version)
    return file.getvalue()


def with_header(text: str, data: bytes = b"", version: int = 1, length: int | None = None) -> bytes:
    field = "<H" if version == 1 else "<I"
    length = len(text) if length is None else length
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack(field, length) + text.encode() + data


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2", ">u2", "<u2", "<i4", ">i8", "u1"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_numbers_of_any_kind_come_back(dtype, order, version):
    array = np.asarray(np.arange(12).reshape(3, 4), dtype, order=order)
    got = npy_decoder.read_npy(npy(array, version))
    np.testing.assert_array_equal(got, array)
    assert got.dtype.isnative and got.dtype.kind + str(got.itemsize) == dtype.lstrip("<>")


def test_bytes_and_a_file_of_them_are_the_same(tmp_path):
    array = np.arange(6.0).reshape(2, 3)
    (tmp_path / "a.npy").write_bytes(npy(array))
    np.testing.assert_array_equal(npy_decoder.read_npy(tmp_path / "a.npy"), array)


FLOATS = "{'descr': '<f4', 'fortran_order': False, 'shape': %s}"


@pytest.mark.parametrize(
    ("encoded", "reason"),
    [
        (npy(np.zeros(4))[:-1], "31 of the 32 bytes"),
        (npy(np.zeros(4)) + b"x", "more than the 32 bytes"),
        (npy(np.array(["a"])), "not integers or floats"),
        (npy(np.zeros(2, complex)), "not integers or floats"),
        (npy(np.zeros(2, bool)), "not integers or floats"),
        (npy(np.zeros(2, "datetime64[s]")), "not integers or floats"),
        (npy(np.zeros(2, [("a", "f4")])), "not integers or floats"),
        (with_header("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", b"cos\n"), "object"),
        (with_header(FLOATS % "(1000000, 1000000)"), "more than 268435456"),
        (with_header(FLOATS % "(-1, -4)", bytes(16)), "not integers or floats"),
        (with_header(FLOATS % "(2, 2.0)", bytes(16)), "ValueError"),
        (with_header("__import__('os').getcwd()", bytes(16)), "ValueError"),
        (with_header("(" * 4000, version=2), "MediaError|Error"),
        (with_header("{}", version=2, length=2**32 - 1), "header of 4294967295 bytes"),
        (with_header("{}", version=9), "version"),
        (b"\x93NUMPY", "Error"),
        (b"\x93NUMPY\x01", "Error"),
    ],
)
def test_everything_else_is_refused_before_memory_is_taken(encoded, reason):
    with pytest.raises(MediaError, match=reason):
        npy_decoder.read_npy(encoded)


@of_any(st.data(), examples=100)
def test_damage_gives_numbers_or_one_kind_of_error(data):
    good = bytearray(npy(np.arange(6, dtype=np.float32).reshape(2, 3)))
    for _ in range(data.draw(st.integers(1, 3))):
        good[data.draw(st.integers(6, len(good) - 1))] = data.draw(st.integers(0, 255))
    try:
        array = npy_decoder.read_npy(bytes(good))
    except MediaError:
        return
    assert array.dtype.kind in "iuf" and array.nbytes == 24
