"""Small real media, made on the spot, for the samples in the datasets' official layouts."""

import pathlib

import numpy as np
import soundfile

RATE = 16_000  # Hz
FRAMES = 10  # a second


def write_sound(path: pathlib.Path, index: int, seconds: float = 2.0, rate: int = RATE) -> None:
    """A tone with a slow beat, another one for each index; the ending says whether WAV or FLAC."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, _tone(index, seconds, rate), rate)


def write_video(
    path: pathlib.Path, index: int, seconds: float = 2.0, width: int = 96, height: int = 64
) -> None:
    """An MP4 (H.264, and AAC with the tone of the index) of a square that moves."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FRAMES)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"preset": "ultrafast", "threads": "1"}
        sound = container.add_stream("aac", rate=RATE, layout="mono")
        for step in range(round(seconds * FRAMES)):
            picture = _picture(index, step, width, height)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
        frame = av.AudioFrame.from_ndarray(
            _tone(index, seconds, RATE)[None], format="fltp", layout="mono"
        )
        frame.sample_rate = RATE
        container.mux([*sound.encode(frame), *sound.encode(None)])


def _tone(index: int, seconds: float, rate: int) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    pitch = 220.0 * 2 ** (index % 24 / 12)
    tone = np.sin(2 * np.pi * pitch * time) * (0.6 + 0.4 * np.sin(2 * np.pi * 2 * time))
    return (0.3 * tone).astype(np.float32)


def _picture(index: int, step: int, width: int, height: int) -> np.ndarray:
    picture = np.empty((height, width, 3), np.uint8)
    picture[:] = (40 * index % 256, 90, 160)
    side = height // 3
    left, top = (7 * index + 3 * step) % (width - side), (5 * index) % (height - side)
    picture[top : top + side, left : left + side] = (240, 200, 60 * index % 256)
    return picture
