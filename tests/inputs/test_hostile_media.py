"""Bombs, lies and mistakes in place of media: each has one documented answer, in bounded time and memory."""

import io
import os
import pathlib
import pickle
import re
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import soundfile
from hostile_media import CAMERA, FORMATS, RATE
from judge import Judge
from PIL import Image

from imagebind_jax.inputs import media
from imagebind_jax.inputs.audio import Clips, LogMel
from imagebind_jax.inputs.depth import Disparity
from imagebind_jax.inputs.imu import Window
from imagebind_jax.inputs.text import Tokens
from imagebind_jax.inputs.thermal import Thermal
from imagebind_jax.inputs.vision import Clip, Views

Make = Callable[[pathlib.Path], Any]  # in this folder, the value of a record's field
FILM = FORMATS["mp4"].good


def file(name: str, data: Callable[[], bytes] | bytes) -> Make:
    """A file of that name, of those bytes."""

    def make(folder: pathlib.Path) -> pathlib.Path:
        path = folder / name
        path.write_bytes(data() if callable(data) else data)
        return path

    return make


def sparse(name: str, data: bytes, size: int) -> Make:
    """The same, and then zeros that take no room on the disk."""

    def make(folder: pathlib.Path) -> pathlib.Path:
        path = file(name, data)(folder)
        os.truncate(path, size)
        return path

    return make


# ---- files that are none


def fifo(folder: pathlib.Path) -> pathlib.Path:
    os.mkfifo(folder / "a.jpg")
    return folder / "a.jpg"


def link(to: str) -> Make:
    def make(folder: pathlib.Path) -> pathlib.Path:
        file("good.png", FORMATS["png"].good)(folder)
        (folder / "a.png").symlink_to(to)
        return folder / "a.png"

    return make


def playlist(name: str, text: str) -> Make:
    """A list beside the file that it names, which nobody may open."""

    def make(folder: pathlib.Path) -> pathlib.Path:
        file("good.mp4", FILM)(folder)
        return file(name, text.replace("FOLDER", str(folder)).encode())(folder)

    return make


HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nFOLDER/good.mp4\n#EXT-X-ENDLIST\n"
CONCAT = "ffconcat version 1.0\nfile good.mp4\n"
SDP = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
EPS = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
SVG = '<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"


# ---- pictures


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def zeros(size: int) -> bytes:
    """A zlib stream that unpacks to so many zeros, made without packing them."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    rest = zlib.compressobj(9, zlib.DEFLATED, -15)
    end = rest.compress(bytes(size % (1 << 20))) + rest.flush()
    checksum = struct.pack(">HH", size % 65521, 1)
    return b"\x78\xda" + block * (size >> 20) + end + checksum


def png(width: int, height: int, depth: int = 8, colour: int = 2, extra: bytes = b"") -> bytes:
    """Black, of any size: 1,000 times smaller than what it decodes to."""
    bits = depth * {0: 1, 2: 3, 6: 4}[colour]
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pixels = zeros(height * (1 + (width * bits + 7) // 8))
    parts = chunk(b"IHDR", header) + extra + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def jpeg(width: int, height: int, scans: int = 1) -> bytes:
    """A progressive JPEG whose header claims a size, and whose last scan is there several times."""
    data = FORMATS["jpeg-progressive"].good()
    at = data.index(b"\xff\xc2") + 5
    data = data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * scans + data[-2:]


def gif(frames: int) -> bytes:
    head = b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 8, 8, 0) + b"\x02\x05\x84\x8f\xa9\xcb\x0f\x00"
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 8, 8, 0) + GIF_PIXELS
    return head + frame * frames + b"\x3b"


def _gif_pixels() -> bytes:
    made = io.BytesIO()
    Image.new("P", (8, 8)).save(made, "GIF")
    data = made.getvalue()
    return data[data.index(b"\x2c") + 10 : -1]


GIF_PIXELS = _gif_pixels()


def tiff(width: int, height: int, data: bytes, *more: tuple[int, int, int]) -> bytes:
    """8-bit grey; `more` are further tags, or other values of these: (tag, type, value)."""
    tags = {256: (4, width), 257: (4, height), 258: (3, 8), 259: (3, 1), 262: (3, 1)}
    tags |= {273: (4, 8), 277: (3, 1), 278: (4, height), 279: (4, len(data))}
    tags |= {tag: (kind, value) for tag, kind, value in more}
    entries = [struct.pack("<HHII", tag, *tags[tag][:1], 1, tags[tag][1]) for tag in sorted(tags)]
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory


# ---- recordings and films


def wav(rate: int, channels: int = 1, samples: Any = (0.0,), claimed: int | None = None) -> bytes:
    """32-bit float, whatever the numbers."""
    data = np.asarray(samples, "<f4").tobytes()
    claimed = len(data) if claimed is None else claimed
    fields = 3, channels, rate, min(rate * channels * 4, 0xFFFFFFFF), channels * 4 & 0xFFFF, 32
    head = b"WAVEfmt " + struct.pack("<IHHIIHH", 16, *fields)
    body = head + b"data" + struct.pack("<I", claimed) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


def silence() -> bytes:
    """An hour, in about 190 KB."""
    made = io.BytesIO()
    with soundfile.SoundFile(made, "w", 16000, 1, format="FLAC") as sound:
        for _ in range(60):
            sound.write(np.zeros(60 * 16000, np.int16))
    return made.getvalue()


def mp3() -> bytes:
    """One whose first frame says that 2^32 follow: 3.5 years."""
    data = FORMATS["mp3"].good()
    at = re.search(b"Xing|Info", data).start() + 8
    return data[:at] + b"\xff\xff\xff\xf0" + data[at + 4 :]


def box(
    name: bytes, at: int, value: bytes, film: Callable[[], bytes] = FILM
) -> Callable[[], bytes]:
    """A film with `value` at that place in each of the boxes of that name."""

    def make() -> bytes:
        data = bytearray(film())
        for found in re.finditer(name, bytes(data)):
            data[found.end() + at : found.end() + at + len(value)] = value
        return bytes(data)

    return make


def cover() -> bytes:
    """A sound with a picture of its cover, which is a video stream to FFmpeg."""
    import av

    made = io.BytesIO()
    with (
        av.open(io.BytesIO(FORMATS["m4a"].good())) as sound,
        av.open(made, "w", format="ipod") as out,
    ):
        stream = out.add_stream_from_template(sound.streams.audio[0])
        art = out.add_stream("mjpeg", 25, width=32, height=24, pix_fmt="yuvj420p")
        art.disposition = av.stream.Disposition.attached_pic
        picture = av.VideoFrame.from_ndarray(np.zeros((24, 32, 3), np.uint8))
        out.mux(art.encode(picture) + art.encode(None))
        for packet in sound.demux(sound.streams.audio[0]):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    return made.getvalue()


def huge_film() -> bytes:
    """Motion JPEG, in whose pictures alone the size is another one."""
    data = bytearray(FORMATS["mov"].good())
    for found in re.finditer(b"\xff\xc0\x00\x11\x08", bytes(data)):
        data[found.end() : found.end() + 4] = struct.pack(">HH", 16384, 16384)
    return bytes(data)


# ---- arrays, tables, texts


def npy(header: str, data: bytes = b"", pad: int = 0) -> bytes:
    text = header.encode() + b" " * pad + b"\n"
    return b"\x93NUMPY\x02\x00" + struct.pack("<I", len(text)) + text + data


def array(descr: str, shape: str) -> str:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"


class Touch:
    """What a pickle runs when it is loaded."""

    def __reduce__(self):
        return os.mkdir, ("was-run",)


def objects() -> bytes:
    return npy(array("'|O'", "(1,)"), pickle.dumps(np.array([Touch()], object)))


def exr(window: tuple[int, int, int, int]) -> bytes:
    """Both windows claim that size."""
    data = FORMATS["exr"].good()
    return re.sub(
        rb"(Window\0box2i\0\x10\0\0\0).{16}", rb"\1" + struct.pack("<4i", *window), data, flags=re.S
    )


TABLE = "time_s,ax,ay,az,gx,gy,gz\n" + "".join(f"{i / 100},1,2,3,4,5,6\n" for i in range(60))
WANTED = {
    "vision": (Clip(32), Views(clips=2, size=32)),
    "audio": (LogMel(), Clips(2)),
    "depth": (Disparity(32),),
    "thermal": (Thermal(32),),
    "imu": (Window(0.2, 50),),
    "text": (Tokens(),),
}
FIELDS = {"depth": dict(CAMERA), "imu": dict(RATE)}
ARRAY = "array"

# What it is -> the field of the record, how to make it, and the answer: an array, or the words of a MediaError.
CASES: dict[str, tuple[str, Make, str]] = {
    "FIFO": ("vision", fifo, "not a regular file"),
    "directory": ("vision", lambda folder: folder, "not a regular file"),
    "/dev/zero": ("vision", lambda folder: pathlib.Path("/dev/zero"), "not a regular file"),
    "/dev/zero as sound": ("audio", lambda folder: pathlib.Path("/dev/zero"), "not a regular file"),
    "no such file": ("vision", lambda folder: folder / "none.jpg", "No such file"),
    "0 bytes": ("vision", file("a.jpg", b""), "empty: 0 bytes"),
    "0 bytes of bytes": ("audio", lambda folder: b"", "empty"),
    "a file of the system": ("audio", lambda folder: pathlib.Path("/proc/self/environ"), "empty"),
    "a link": ("vision", link("good.png"), ARRAY),
    "a link to nothing": ("vision", link("none.png"), "No such file"),
    "a link to itself": ("vision", link("a.png"), "symbolic links"),
    "a web page": ("vision", file("a.jpg", b"\n<!DOCTYPE html><html></html>"), "a web page"),
    "a web page as sound": ("audio", file("a.mp3", b"<html><body>404"), "a web page"),
    "a Git LFS pointer": ("vision", file("a.mp4", POINTER.encode()), "git lfs pull"),
    "ffconcat": ("vision", playlist("clip.mp4", CONCAT), "a playlist"),
    "ffconcat as sound": ("audio", playlist("clip.m4a", CONCAT), "a playlist"),
    "HLS": ("vision", playlist("clip.mp4", HLS), "a playlist"),
    "SDP": ("vision", file("clip.mp4", SDP.encode()), "neither|not|cannot identify"),
    "EPS": ("vision", file("a.png", EPS.encode()), "PostScript"),
    "SVG": ("vision", file("a.png", SVG.encode()), "SVG"),
    "text as a picture": ("vision", file("a.jpg", b"hello, world"), "not|cannot"),
    "text as sound": ("audio", file("a.wav", b"hello, world"), "not|known|recognised"),
    "a picture as sound": ("audio", file("a.wav", FORMATS["png"].good), "an image: no sound"),
    "sound as a picture": ("vision", file("a.png", FORMATS["wav"].good), "not|cannot"),
    "PNG of 179 megapixels": (
        "vision",
        file("a.png", lambda: png(13_000, 13_778)),
        "more than 64000000",
    ),
    "PNG of 64 megapixels": ("vision", file("a.png", lambda: png(8_000, 8_000)), ARRAY),
    "PNG of 64 megapixels, 16 bits, alpha": (
        "vision",
        file("a.png", lambda: png(8_000, 8_000, 16, 6)),
        ARRAY,
    ),
    "PNG with a gigabyte of text": (
        "vision",
        file("a.png", lambda: png(9, 9, extra=chunk(b"zTXt", b"k\0\0" + zeros(1 << 30)))),
        ARRAY,
    ),
    "PNG with a gigabyte of profile": (
        "vision",
        file("a.png", lambda: png(9, 9, extra=chunk(b"iCCP", b"k\0\0" + zeros(1 << 30)))),
        ARRAY,
    ),
    "PNG of 1 x 60,000,000": (
        "vision",
        file("a.png", lambda: png(1, 60_000_000)),
        "more than 256 times",
    ),
    "PNG of 60,000,000 x 1": (
        "vision",
        file("a.png", lambda: png(60_000_000, 1)),
        "more than 256 times",
    ),
    "JPEG of 65,535 x 65,535": (
        "vision",
        file("a.jpg", lambda: jpeg(65_535, 65_535)),
        "more than 64000000",
    ),
    "JPEG of 8,000 x 8,000, cut off": (
        "vision",
        file("a.jpg", lambda: jpeg(8_000, 8_000)),
        "JPEG|stream|truncated",
    ),
    "JPEG of 10,000 scans": ("vision", file("a.jpg", lambda: jpeg(4_000, 4_000, 10_000)), "scans"),
    "JPEG cut off": ("vision", file("a.jpg", lambda: FORMATS["jpeg"].good()[:-300]), "truncated"),
    "GIF of 100,000 frames": ("vision", file("a.gif", lambda: gif(100_000)), ARRAY),
    "animated WebP": ("vision", file("a.webp", FORMATS["webp-animated"].good), ARRAY),
    "TIFF whose strip claims 4 GB": (
        "vision",
        file("a.tif", lambda: tiff(32, 32, bytes(1024), (279, 4, 0xFFFFFFFF))),
        "not|cut|error|truncated",
    ),
    "TIFF with tiles of 4 gigapixels": (
        "vision",
        file(
            "a.tif",
            lambda: tiff(
                32,
                32,
                bytes(1024),
                (259, 3, 5),
                (322, 4, 65536),
                (323, 4, 65536),
                (324, 4, 8),
                (325, 4, 1024),
            ),
        ),
        "error|tile",
    ),
    "TIFF of 8,000 x 8,000, deflated": (
        "vision",
        file("a.tif", lambda: tiff(8_000, 8_000, zeros(64_000_000), (259, 3, 8))),
        ARRAY,
    ),
    "a JPEG named .png": ("vision", file("a.png", FORMATS["jpeg"].good), ARRAY),
    "a WAV named .mp3": ("audio", file("a.mp3", FORMATS["wav"].good), ARRAY),
    "palette": ("vision", file("a.png", FORMATS["png-palette"].good), ARRAY),
    "alpha": ("vision", file("a.webp", FORMATS["webp-lossless"].good), ARRAY),
    "CMYK": ("vision", file("a.jpg", FORMATS["jpeg-cmyk"].good), ARRAY),
    "16 bits where 8 are wanted": ("vision", file("a.png", FORMATS["depth-png"].good), ARRAY),
    "16 bits as thermal": (
        "thermal",
        file("a.png", FORMATS["thermal-png"].good),
        "holds temperatures",
    ),
    "8 bits as depth": ("depth", file("a.png", FORMATS["png"].good), "a picture: depth maps have"),
    "WAV of 1 Hz": ("audio", file("a.wav", wav(1)), "1 channels at 1 Hz are not a recording"),
    "WAV of 2 GHz": ("audio", file("a.wav", wav(2_000_000_000)), "not a recording"),
    "WAV of 65,535 channels": (
        "audio",
        file("a.wav", wav(16000, 65_535, np.zeros(65_535))),
        "channels|SF_INFO",
    ),
    "WAV of NaN": ("audio", file("a.wav", wav(16000, 1, [0, np.nan] * 999)), "not finite"),
    "WAV of infinity": ("audio", file("a.wav", wav(16000, 1, [0, np.inf] * 999)), "not finite"),
    "WAV of 1e30": ("audio", file("a.wav", wav(16000, 1, [0, 1e30] * 999)), "beyond 2\\^31"),
    "WAV of no samples": ("audio", file("a.wav", wav(16000, 1, [])), "no samples"),
    "WAV of one sample": ("audio", file("a.wav", wav(16000)), ARRAY),
    "WAV that claims 4 GB": (
        "audio",
        file("a.wav", wav(16000, 1, np.zeros(99), claimed=0xFFFFFFF0)),
        ARRAY,
    ),
    "an hour of silence": ("audio", file("a.flac", silence), ARRAY),
    "MP3 that claims 3.5 years": ("audio", file("a.mp3", mp3), "ends before|no samples"),
    "MP4 that claims 2^32 frames of no size": (
        "vision",
        file("a.mp4", box(b"stsz", 4, struct.pack(">II", 1, 0xFFFFFFFF))),
        "claims",
    ),
    "MP4 that claims 2^32 durations": (
        "vision",
        file("a.mp4", box(b"stts", 4, struct.pack(">III", 1, 0xFFFFFFFF, 1))),
        "|array",
    ),
    "MP4 that claims years": (
        "vision",
        file("a.mp4", box(b"mdhd", 16, b"\x7f\xff\xff\xff")),
        "no frames|over",
    ),
    "MP4 that claims years, as sound": (
        "audio",
        file("a.mp4", box(b"mdhd", 16, b"\x7f\xff\xff\xff")),
        "no samples",
    ),
    "MP4 without video": ("vision", file("a.mp4", FORMATS["m4a"].good), "no video"),
    "MP4 without sound": ("audio", file("a.mp4", FORMATS["hevc"].good), "no sound"),
    "M4A with a cover": ("vision", file("a.m4a", cover), "no video"),
    "M4A with a cover, as sound": ("audio", file("a.m4a", cover), ARRAY),
    "film of one frame": ("vision", file("a.mp4", lambda: FORMATS["hevc"].good()), ARRAY),
    "film of 16,384 x 16,384, cut off": (
        "vision",
        file("a.mov", huge_film),
        "does not decode|pixels",
    ),
    "npy of 3.6 TiB": (
        "depth",
        file("a.npy", npy(array("'<f4'", "(1000000, 1000000)"))),
        "more than",
    ),
    "npy of objects": ("depth", file("a.npy", objects), "not integers or floats"),
    "npy of objects as IMU": ("imu", file("a.npy", objects), "not integers or floats"),
    "npy with a header of 64 MB": (
        "depth",
        file("a.npy", npy(array("'<f4'", "(4, 4)"), bytes(64), 64 << 20)),
        "header",
    ),
    "npy with a program": (
        "depth",
        file("a.npy", npy("__import__('os').mkdir('was-run')")),
        "header",
    ),
    "npy of (-1, 4)": (
        "depth",
        file("a.npy", npy(array("'<f4'", "(-1, 4)"), bytes(64))),
        "not integers or floats|shape",
    ),
    "EXR of 2^62 pixels": (
        "depth",
        file("a.exr", lambda: exr((0, 0, 2**31 - 2, 2**31 - 2))),
        "more than",
    ),
    "EXR of 2^32 x 2^32": (
        "depth",
        file("a.exr", lambda: exr((-(2**31), -(2**31), 2**31 - 1, 2**31 - 1))),
        "more than",
    ),
    "CSV of one line of 100 MB": (
        "imu",
        sparse("a.csv", TABLE.encode() + b"1," * 999, 100 << 20),
        "line|bytes|long",
    ),
    "CSV of 100 MB of text": (
        "imu",
        file("a.csv", lambda: TABLE.encode() + b"1," * (50 << 20)),
        "line|bytes|long",
    ),
    "CSV of a million columns": (
        "imu",
        file("a.csv", b"a," * 1_000_000 + b"\n" + b"1," * 1_000_000),
        "line|bytes|columns",
    ),
    "CSV with NUL": ("imu", file("a.csv", TABLE.encode().replace(b"3,4", b"3\0,4")), "."),
    "text of 10 MB": ("text", lambda folder: "a dog " * 1_700_000, ARRAY),
    "text of one word of 10 MB": ("text", lambda folder: "x" * 10_000_000, ARRAY),
    "bytes as text": ("text", lambda folder: b"a dog", "expected a str"),
}


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    judge = Judge(tmp_path_factory.mktemp("judge"))
    yield judge
    judge.close()


@pytest.mark.parametrize("what", CASES)
def test_answer(what, judge, tmp_path):
    field, make, words = CASES[what]
    source = make(tmp_path)
    for transform in WANTED[field]:
        for seed in (None, 0):
            answer = judge.answer(transform, {field: source, **FIELDS.get(field, {})}, seed)
            print(what, "|", type(transform).__name__, seed, "|", answer)
            assert not answer.problems, answer
            if words == ARRAY:
                assert answer.kind == ARRAY, answer
            else:
                assert answer.kind == "MediaError", answer
                assert re.search(words, answer.text), answer
                assert answer.text.startswith(
                    (media.name(source) if not isinstance(source, str) else "record", "record")
                ), answer
