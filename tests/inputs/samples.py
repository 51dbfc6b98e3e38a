"""Encoded media made on the spot, and the golden files beside them."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

GOLDEN = Path(__file__).parents[1] / "golden"


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def raw_png(width: int, height: int, bits: int, colour: int, rows: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">II5B", width, height, bits, colour, 0, 0, 0)
    chunks = {b"IHDR": header, b"IDAT": zlib.compress(rows), b"IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks.items())


def wav(waveform: np.ndarray, rate: int, subtype: str = "FLOAT") -> bytes:
    """[channels, n] samples as a recording."""
    file = io.BytesIO()
    soundfile.write(file, waveform.T, rate, format="WAV", subtype=subtype)
    return file.getvalue()


def tone(hertz: float, rate: int, seconds: float, amplitude: float = 0.5) -> np.ndarray:
    times = np.arange(round(rate * seconds)) / rate
    return (amplitude * np.sin(2 * np.pi * hertz * times)).astype(np.float32)
