"""Encoded media made on the spot, and the golden files beside them."""

import io
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

GOLDEN = Path(__file__).parents[1] / "golden"


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def wav(waveform: np.ndarray, rate: int, subtype: str = "FLOAT") -> bytes:
    """[channels, n] samples as a recording."""
    file = io.BytesIO()
    soundfile.write(file, waveform.T, rate, format="WAV", subtype=subtype)
    return file.getvalue()


def tone(hertz: float, rate: int, seconds: float, amplitude: float = 0.5) -> np.ndarray:
    times = np.arange(round(rate * seconds)) / rate
    return (amplitude * np.sin(2 * np.pi * hertz * times)).astype(np.float32)
