"""Small good files of every format that a record may hold."""

import dataclasses
import io
import json
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import soundfile
from damage import repaired
from PIL import Image

from imagebind_jax.inputs.sources import manifest
from imagebind_jax.inputs.transforms.audio import LogMel, LogMelClips
from imagebind_jax.inputs.transforms.augment import IMAGES, VIDEO
from imagebind_jax.inputs.transforms.depth import Disparity
from imagebind_jax.inputs.transforms.imu import ImuWindow
from imagebind_jax.inputs.transforms.text import Tokenize
from imagebind_jax.inputs.transforms.thermal import Thermal
from imagebind_jax.inputs.transforms.vision import EvalViews, FramesTransform


def _pixels(width: int = 32, height: int = 24) -> np.ndarray:
    x, y = np.arange(width), np.arange(height)[:, None]
    return np.stack([x * 7 + y, x * 3 ^ y * 5, (x - y) ** 2], axis=-1).astype(np.uint8)


def _image(mode: str, format: str, **settings) -> bytes:
    image = Image.fromarray(_pixels())
    if mode in ("I;16", "F"):
        levels = _pixels()[..., 0] * 40.0 + 300
        metres = (levels / 1000).astype(np.float32)
        image = Image.fromarray(levels.astype(np.uint16) if mode == "I;16" else metres)
    else:
        image = image.convert(mode)
    file = io.BytesIO()
    image.save(file, format, **settings)
    return file.getvalue()


def _animated(format: str, **settings) -> bytes:
    frames = [Image.fromarray(np.roll(_pixels(), 4 * i, axis=1)) for i in range(3)]
    return _image("RGB", format, save_all=True, append_images=frames, duration=50, **settings)


def _rotated() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a phone's picture"
    return exif


def _tones(rate: int, seconds: float, channels: int = 2) -> np.ndarray:
    t = np.arange(round(rate * seconds))[:, None] / rate
    return 0.4 * np.sin(2 * np.pi * t * (300 + 200 * np.arange(channels)))


def _sound(format: str, subtype: str, rate: int = 16000, seconds: float = 0.1) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, _tones(rate, seconds), rate, format=format, subtype=subtype)
    data = bytearray(re.sub(rb"(PEAK.{8}).{4}", rb"\1time", file.getvalue(), flags=re.DOTALL))
    for page in re.finditer(b"OggS", data):  # whose serial numbers are random
        data[page.start() + 14 : page.start() + 18] = b"page"
    return bytes(repaired(data))


def film(container: str, video: str = "", audio: str = "", frames: int = 12, **options) -> bytes:
    """`frames` pictures at 25 Hz, a keyframe every 5, and as much sound."""
    import av

    file = io.BytesIO()
    options = {"fflags": "+bitexact", **options}
    with av.open(file, "w", format=container, options=options) as output:
        streams = []
        if video:
            kind = "yuvj420p" if video == "mjpeg" else "yuv420p"
            streams.append(output.add_stream(video, 25, width=32, height=24, pix_fmt=kind))
            streams[0].gop_size, streams[0].thread_count = 5, 1
            streams[0].options = {"x265-params": "log-level=none"}
        if audio:
            rate = 48000 if "opus" in audio else 16000
            streams.append(output.add_stream(audio, rate, layout="mono"))
        if video:
            for i in range(frames):
                picture = av.VideoFrame.from_ndarray(np.roll(_pixels(), 2 * i, axis=1))
                output.mux(streams[0].encode(picture))
        if audio:
            samples = _tones(rate, frames / 25, 1).T
            sound = av.AudioFrame.from_ndarray((samples * 32767).astype("<i2"), "s16", "mono")
            sound.sample_rate = rate
            output.mux(streams[-1].encode(sound))
        for stream in streams:
            output.mux(stream.encode(None))
    return file.getvalue()


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _exr(dtype: Any, compression: str, tiles: bool = False, parts: int = 1) -> bytes:
    import OpenEXR

    depth = (_pixels()[..., 0] / 40 + 0.5).astype(dtype)
    header = {"type": OpenEXR.tiledimage if tiles else OpenEXR.scanlineimage}
    header["compression"] = getattr(OpenEXR, f"{compression}_COMPRESSION")
    if tiles:
        header["tiles"] = OpenEXR.TileDescription()
        header["tiles"].xSize = header["tiles"].ySize = 16
    made = [OpenEXR.Part({**header, "name": str(i)}, {"Z": depth}) for i in range(parts)]
    file = io.BytesIO()
    OpenEXR.File(made).write(file)
    return file.getvalue()


def _csv() -> bytes:
    rows = [f"{i / 100:.3f},{i % 7},{i % 5},9.81,0.1,-0.{i % 9},1e-3" for i in range(60)]
    return "\r\n".join(["timestamp_s,ax,ay,az,gx,gy,gz", *rows, ""]).encode()


def _manifest(lines: bool) -> bytes:
    rows = [{"id": i, "text": f'a "dog", {i}', "vision": f"{i}.jpg", "label": i} for i in range(8)]
    if lines:
        return "".join(json.dumps({**row, "start": 0.5}) + "\n" for row in rows).encode()
    quoted = [f'{r["id"]},"a ""dog"", {r["id"]}",{r["vision"]},{r["label"]}\n' for r in rows]
    return ("id,text,vision,label\n" + "".join(quoted)).encode()


def _text() -> bytes:
    return ("A dog&#39;s <b>caf\u00e9</b>, naïve \u20ac 5 \U0001f415 l\u2019eau. " * 4).encode()


def read_manifest(record: Mapping[str, Any], rng: np.random.Generator | None) -> np.ndarray:
    """A manifest, in the form of a transform: the number of fields of each of its samples."""
    samples = manifest.Manifest(record["manifest"], root="/srv").open()
    return np.array([len(sample) for sample in samples])


@dataclasses.dataclass(frozen=True)
class Format:
    """A kind of file, the field of a record that holds it, and the transforms that read it."""

    suffix: str
    good: Callable[[], bytes]
    field: str
    transforms: tuple[Callable, ...]
    fields: tuple[tuple[str, Any], ...] = ()

    @property
    def loud(self) -> bool:
        """Whether its libraries print what they think: libtiff, OpenEXR, libmpg123 (of libsndfile)."""
        return self.suffix in ("tif", "exr") or self.field == "audio"

    def record(self, data: bytes, path: pathlib.Path | None = None) -> dict[str, Any]:
        """A record that holds it, as bytes or as the file `path`, which is written."""
        source: Any = data
        if self.field == "text":
            source = data.decode(errors="replace")
        elif path is not None:
            path.write_bytes(data)
            source = path
        return {"id": "record", **dict(self.fields), self.field: source}


VISION = (FramesTransform(32), FramesTransform(32, augment=IMAGES), EvalViews(clips=2, size=32))
FILM = (
    FramesTransform(32, seconds=0.2),
    FramesTransform(32, seconds=0.2, augment=VIDEO),
    EvalViews(clips=2, size=32, seconds=0.1),
    LogMel(0.1, 8),
)
SOUND = (LogMel(0.05, 4), LogMel(0.05, 4, mask_bands=12), LogMelClips(2, 0.05, 4))
DEPTH = (Disparity(32), Disparity(32, augment=IMAGES), Disparity.sun_toolbox(size=32))
CAMERA = (("focal_length", 50.0), ("baseline", 0.1))
HOT = (
    Thermal(32, low=0.0, high=50.0, scale="kelvin*100"),
    Thermal(32, low=0.0, high=50.0, scale="kelvin*100", augment=IMAGES),
)
MOTION, RATE = (ImuWindow(0.2, 50),), (("imu_rate", 100.0),)


def _picture(suffix: str, mode: str, format: str, **settings) -> Format:
    return Format(suffix, lambda: _image(mode, format, **settings), "vision", VISION)


def _recording(suffix: str, format: str, subtype: str, **settings) -> Format:
    return Format(suffix, lambda: _sound(format, subtype, **settings), "audio", SOUND)


def _depth_exr(*args, **settings) -> Format:
    return Format("exr", lambda: _exr(*args, **settings), "depth", DEPTH[:2], CAMERA)


def _video(suffix: str, *args, **settings) -> Format:
    return Format(suffix, lambda: film(*args, **settings), "vision", FILM)


FORMATS = {
    "jpeg": _picture("jpg", "RGB", "JPEG", quality=60, exif=_rotated()),
    "jpeg-progressive": _picture("jpg", "RGB", "JPEG", progressive=True, quality=40),
    "jpeg-cmyk": _picture("jpg", "CMYK", "JPEG", quality=40),
    "png": _picture("png", "RGB", "PNG", exif=_rotated()),
    "png-palette": _picture("png", "P", "PNG", transparency=b"\x00\x80"),
    "png-animated": Format("png", lambda: _animated("PNG"), "vision", VISION),
    "webp": _picture("webp", "RGB", "WEBP", quality=50),
    "webp-lossless": _picture("webp", "RGBA", "WEBP", lossless=True),
    "webp-animated": Format("webp", lambda: _animated("WEBP"), "vision", VISION),
    "gif": Format("gif", lambda: _animated("GIF"), "vision", VISION),
    "bmp": _picture("bmp", "P", "BMP"),
    "tiff": _picture("tif", "RGB", "TIFF", compression="tiff_lzw"),
    "tiff-deflate": _picture("tif", "RGBA", "TIFF", compression="tiff_adobe_deflate"),
    "tiff-jpeg": _picture("tif", "RGB", "TIFF", compression="jpeg"),
    "wav": _recording("wav", "WAV", "PCM_16"),
    "wav-float": _recording("wav", "WAV", "FLOAT"),
    "wav-adpcm": _recording("wav", "WAV", "IMA_ADPCM"),
    "wav-extensible": _recording("wav", "WAVEX", "PCM_24", rate=22050),
    "aiff": _recording("aiff", "AIFF", "PCM_16"),
    "flac": _recording("flac", "FLAC", "PCM_16", rate=44100),
    "vorbis": _recording("ogg", "OGG", "VORBIS"),
    "opus": _recording("opus", "OGG", "OPUS", rate=48000),
    "mp3": _recording("mp3", "MP3", "MPEG_LAYER_III", rate=44100),
    "caf": _recording("caf", "CAF", "ALAC_16"),
    "m4a": Format("m4a", lambda: film("ipod", "", "aac"), "audio", SOUND),
    "adts": Format("aac", lambda: film("adts", "", "aac"), "audio", SOUND),
    "mp4": _video("mp4", "mp4", "libx264", "aac"),
    "mp4-fragmented": _video("mp4", "mp4", "mpeg4", "aac", movflags="frag_keyframe+empty_moov"),
    "mov": _video("mov", "mov", "mjpeg", "pcm_s16le"),
    "hevc": Format("mp4", lambda: film("mp4", "libx265"), "vision", FILM[:3]),
    "mkv": _video("mkv", "matroska", "libx264", "aac"),
    "webm": _video("webm", "webm", "libvpx-vp9", "libopus"),
    "webm-vp8": _video("webm", "webm", "libvpx", "libopus"),
    "avi": _video("avi", "avi", "mpeg4", "libmp3lame"),
    "depth-png": Format("png", lambda: _image("I;16", "PNG"), "depth", DEPTH, CAMERA),
    "depth-tiff": Format("tif", lambda: _image("F", "TIFF"), "depth", DEPTH[:2], CAMERA),
    "depth-npy": Format("npy", lambda: _npy(_pixels()[..., 0] / 40.0), "depth", DEPTH[:2], CAMERA),
    "exr": _depth_exr(np.float32, "ZIP"),
    "exr-piz": _depth_exr(np.float16, "PIZ"),
    "exr-dwa": _depth_exr(np.float32, "DWAB"),
    "exr-b44": _depth_exr(np.float16, "B44"),
    "exr-tiles": _depth_exr(np.float32, "PXR24", tiles=True),
    "exr-parts": _depth_exr(np.float32, "RLE", parts=2),
    "thermal-png": Format("png", lambda: _image("I;16", "PNG"), "thermal", HOT),
    "thermal-jpeg": Format("jpg", lambda: _image("L", "JPEG"), "thermal", (Thermal(32),)),
    "imu-csv": Format("csv", _csv, "imu", MOTION),
    "imu-npy": Format("npy", lambda: _npy(np.ones((60, 6)).cumsum(0)), "imu", MOTION, RATE),
    "text": Format("txt", _text, "text", (Tokenize(),)),
    "jsonl": Format("jsonl", lambda: _manifest(True), "manifest", (read_manifest,)),
    "csv": Format("csv", lambda: _manifest(False), "manifest", (read_manifest,)),
}
