"""Media of the sizes that the paper's datasets have, made on the spot, for feeding.py."""

import io
from typing import Any

import numpy as np
from pictures import jpeg
from PIL import Image

SENTENCE = "A brown dog runs along the wet beach while two children throw a red ball into the sea."
RATE, KEYFRAMES = 30, 150  # frames a second; a keyframe every 5 s


def film(width: int, height: int, seconds: int = 10, sound: bool = True) -> bytes:
    """An MP4 of H.264 (x264's defaults) and AAC: a smooth picture that moves, with grain."""
    import av

    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (36, 64, 3), np.uint8))
    wide = np.asarray(smooth.resize((2 * width, 2 * height)), np.int16)
    grain = rng.normal(0, 4, (8, height, width, 1)).astype(np.int16)
    encoded = io.BytesIO()
    with av.open(encoded, "w", format="mp4") as container:
        pictures: Any = container.add_stream("libx264", rate=RATE)
        pictures.width, pictures.height, pictures.pix_fmt = width, height, "yuv420p"
        pictures.gop_size = KEYFRAMES
        heard: Any = container.add_stream("aac", rate=44_100, layout="stereo") if sound else None
        for i in range(seconds * RATE):
            y, x = (round(side / 2 * (1 + np.sin(i / 40 + side))) for side in (height, width))
            pixels = wide[y : y + height, x : x + width] + grain[i % len(grain)]
            frame = av.VideoFrame.from_ndarray(np.clip(pixels, 0, 255).astype(np.uint8), "rgb24")
            container.mux(pictures.encode(frame))
        container.mux(pictures.encode())
        if heard:
            noise = rng.normal(0, 0.1, (2, seconds * 44_100)).astype(np.float32)
            samples = av.AudioFrame.from_ndarray(noise, format="fltp", layout="stereo")
            samples.sample_rate = 44_100
            container.mux(heard.encode(samples) + heard.encode(None))
    return encoded.getvalue()


def depth_map(width: int, height: int) -> bytes:
    """A 16-bit PNG as SUN RGB-D has them: millimetres of a room, rotated by three bits."""
    y, x = np.mgrid[:height, :width]
    rng = np.random.default_rng(0)
    metres = 1.5 + 3 * y / height + np.sin(x / 90) + rng.normal(0, 0.01, (height, width))
    millimetres = np.where(rng.random((height, width)) < 0.02, 0, metres * 1000).astype(np.uint16)
    encoded = io.BytesIO()
    Image.fromarray(millimetres << 3 | millimetres >> 13).save(encoded, "PNG")
    return encoded.getvalue()


def heat(width: int, height: int) -> bytes:
    """A thermal JPEG: grey, three channels, as LLVIP has them."""
    encoded = io.BytesIO()
    grey = Image.open(io.BytesIO(jpeg(width, height))).convert("L")
    grey.convert("RGB").save(encoded, "JPEG", quality=90)
    return encoded.getvalue()


def motion(seconds: int = 10, rate: int = 200) -> bytes:
    """A .npy of seconds, acceleration and angular velocity, as `prepare ego4d` stores them."""
    samples = np.random.default_rng(0).normal(0, 1, (seconds * rate, 7)).astype(np.float32)
    samples[:, 0] = np.arange(seconds * rate) / rate
    encoded = io.BytesIO()
    np.save(encoded, samples)
    return encoded.getvalue()


def record(pair: str) -> dict[str, Any]:
    """One record of a pair as its source gives it, media encoded."""
    match pair:
        case "vision+audio":  # AudioSet
            return {"vision": film(640, 360)}
        case "vision+depth":  # SUN RGB-D
            camera = {"focal_length": 529.5, "baseline": 0.075}
            return {"vision": jpeg(730, 530), "depth": depth_map(730, 530), **camera}
        case "vision+thermal":  # LLVIP
            return {"vision": jpeg(1280, 1024), "thermal": heat(1280, 1024)}
        case "vision+imu":  # Ego4D, whose videos' short side is 540
            return {"vision": film(960, 540, sound=False), "imu": motion()}
        case "vision+text":  # ImageNet's size
            return {"vision": jpeg(500, 375), "text": SENTENCE}
    raise ValueError(f"no footage for {pair}")
