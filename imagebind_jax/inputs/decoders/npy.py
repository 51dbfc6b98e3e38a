"""NumPy's .npy files as untrusted input: checked before memory is taken, and never a pickle."""

import math

import numpy as np
from numpy.lib import format as npy

from imagebind_jax.inputs.decoders.media import Source, open_media, wrap_decode_errors

MAX_BYTES = 256 << 20  # of an array
MAX_HEADER = 4096  # bytes; NumPy writes 128
HEADERS = {
    (1, 0): (2, npy.read_array_header_1_0),
    (2, 0): (4, npy.read_array_header_2_0),
    (3, 0): (4, npy.read_array_header_2_0),  # differs in the names of fields, and there are none
}


def read_npy(source: Source, max_bytes: int = MAX_BYTES) -> np.ndarray:
    """The integers or floats in a .npy file, in the machine's byte order.

    Any shape, Fortran order too. Raises `MediaError`: for objects, records, text and complex
    numbers, for more than `max_bytes`, and where the file is not exactly as long as its header says.
    """
    with wrap_decode_errors(source), open_media(source) as file:
        version = npy.read_magic(file)
        if version not in HEADERS:
            raise ValueError(f"version {version} of the .npy format is not known")
        field, read_header = HEADERS[version]
        place = file.tell()
        length = int.from_bytes(file.read(field), "little")
        if length > MAX_HEADER:
            raise ValueError(f"a header of {length} bytes is not one of numbers")
        file.seek(place)
        shape, fortran, dtype = read_header(file)
        if dtype.kind not in "iuf" or min(shape, default=0) < 0:
            raise ValueError(f"{dtype} of shape {shape} are not integers or floats")
        size = math.prod(shape) * dtype.itemsize
        if size > max_bytes:
            raise ValueError(f"{shape} {dtype} are {size} bytes, more than {max_bytes}")
        data = file.read(size + 1)
        if len(data) != size:
            more = "more than" if len(data) > size else f"{len(data)} of"
            raise ValueError(f"{more} the {size} bytes of {shape} {dtype}")
        array = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
        return array.astype(dtype.newbyteorder("="), order="C", copy=False)
