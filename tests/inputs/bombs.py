"""Bombs, lies and mistakes in place of media, made on the spot; each maker is given a folder."""

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
import soundfile
from damage import repaired
from hostile_media import FORMATS, film
from PIL import Image

Make = Callable[[pathlib.Path], Any]  # in this folder, the value of a record's field


def file(name: str, data: Callable[[], bytes] | bytes, size: int | None = None) -> Make:
    """A file of that name, of those bytes; up to `size` zeros follow that take no room on the disk."""

    def make(folder: pathlib.Path) -> pathlib.Path:
        path = folder / name
        path.write_bytes(data() if callable(data) else data)
        if size is not None:
            os.truncate(path, size)
        return path

    return make


def good(name: str, suffix: str = "") -> Make:
    """A good file, with whatever suffix."""
    return file(f"a.{suffix or FORMATS[name].suffix}", FORMATS[name].good)


# ---- what is no file of media


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
    """A list beside the film that it names, which nobody may open."""

    def make(folder: pathlib.Path) -> pathlib.Path:
        file("good.mp4", FORMATS["mp4"].good)(folder)
        return file(name, text.replace("FOLDER", str(folder)).encode())(folder)

    return make


HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nFOLDER/good.mp4\n#EXT-X-ENDLIST\n"
CONCAT = "ffconcat version 1.0\nfile good.mp4\n"
SDP = b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"


# ---- pictures


def zeros(size: int) -> bytes:
    """A zlib stream that unpacks to so many zeros, made without packing them all."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    end = packer.compress(bytes(size % (1 << 20))) + packer.flush()
    return b"\x78\xda" + block * (size >> 20) + end + struct.pack(">HH", size % 65521, 1)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, depth: int = 8, channels: int = 3, extra: bytes = b"") -> bytes:
    """Black, of any size: a thousandth of what it decodes to."""
    colour = {1: 0, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pixels = zeros(height * (1 + width * depth * channels // 8))
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
    made = io.BytesIO()
    Image.new("P", (8, 8)).save(made, "GIF")
    data = made.getvalue()
    frame = data.rindex(b"\x2c\0\0\0\0\x08")
    return data[:frame] + data[frame:-1] * frames + b"\x3b"


def tiff(width: int, height: int, data: bytes, **tags: int) -> bytes:
    """8-bit grey in one strip; `tags` are further ones, or other values: t322=65536."""
    values = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: height}
    values |= {279: len(data)} | {int(tag[1:]): value for tag, value in tags.items()}
    entries = [struct.pack("<HHII", tag, 4, 1, values[tag]) for tag in sorted(values)]
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory


# ---- recordings and films


def wav(rate: int, channels: int = 1, samples: Any = (0.0,), claimed: int | None = None) -> bytes:
    """32-bit float, whatever the numbers; `claimed` bytes of them, if not those that there are."""
    data = np.asarray(samples, "<f4").tobytes()
    claimed = len(data) if claimed is None else claimed
    fields = 3, channels, rate, min(rate * channels * 4, 0xFFFFFFFF), channels * 4 & 0xFFFF, 32
    head = b"WAVEfmt " + struct.pack("<IHHIIHH", 16, *fields)
    body = head + b"data" + struct.pack("<I", claimed) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


def silence() -> bytes:
    """An hour of it, in 70 KB; decoded it has 230 MB."""
    made = io.BytesIO()
    with soundfile.SoundFile(made, "w", 16000, 1, format="FLAC") as sound:
        for _ in range(60):
            sound.write(np.zeros(60 * 16000, np.int16))
    return made.getvalue()


def mp3() -> bytes:
    """One whose first frame says that 2^32 follow: 3.5 years."""
    data = FORMATS["mp3"].good()
    found = re.search(b"Xing|Info", data)
    assert found is not None
    at = found.start() + 8
    return data[:at] + b"\xff\xff\xff\xf0" + data[at + 4 :]


def vorbis() -> bytes:
    """Its third header, of the codebooks, is damaged, and its checksum made good again."""
    data = bytearray(FORMATS["vorbis"].good())
    data[data.index(b"\x05vorbis") + 20] ^= 0xFF
    return bytes(repaired(data))


def boxes(name: bytes, at: int, value: bytes) -> Callable[[], bytes]:
    """An MP4 with `value` at that place in each of the boxes of that name."""

    def make() -> bytes:
        data = bytearray(FORMATS["mp4"].good())
        for found in re.finditer(name, bytes(data)):
            data[found.end() + at : found.end() + at + len(value)] = value
        return bytes(data)

    return make


def cover() -> bytes:
    """A sound with a picture of its cover, which is a video stream to FFmpeg."""
    import av

    made = io.BytesIO()
    with av.open(made, "w", format="mp4") as output:
        sound = output.add_stream("aac", 16000, layout="mono")
        art = output.add_stream("mjpeg", 25, width=32, height=24, pix_fmt="yuvj420p")
        art.disposition = av.stream.Disposition.attached_pic
        output.mux(art.encode(av.VideoFrame.from_ndarray(np.zeros((24, 32, 3), np.uint8))))
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 8000), "<i2"), "s16", "mono")
        samples.sample_rate = 16000
        output.mux(art.encode(None) + sound.encode(samples) + sound.encode(None))
    return made.getvalue()


def one_frame() -> bytes:
    return film("mp4", "libx264", frames=1)


def huge_film() -> bytes:
    """Motion JPEG: the pictures themselves, and not the file's header, are of 16,384 x 16,384."""
    data = bytearray(FORMATS["mov"].good())
    for found in re.finditer(b"\xff\xc0\x00\x11\x08", bytes(data)):
        data[found.end() : found.end() + 4] = struct.pack(">HH", 16384, 16384)
    return bytes(data)


# ---- arrays and tables


def npy(header: str, data: bytes = b"", pad: int = 0) -> bytes:
    text = header.encode() + b" " * pad + b"\n"
    return b"\x93NUMPY\x02\x00" + struct.pack("<I", len(text)) + text + data


def array(descr: str, shape: str, data: bytes = b"", pad: int = 0) -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"
    return npy(header, data, pad)


class Touch:
    """What a pickle would run."""

    def __reduce__(self):
        return os.mkdir, ("was-run",)


def objects() -> bytes:
    return array("'|O'", "(1,)", pickle.dumps(np.array([Touch()], object)))


def exr(*window: int) -> bytes:
    """Both of its windows claim that place."""
    place = struct.pack("<4i", *window)
    head = re.compile(rb"(Window\0box2i\0\x10\0\0\0).{16}", re.DOTALL)
    return head.sub(lambda found: found[1] + place, FORMATS["exr"].good())


TABLE = b"time_s,ax,ay,az,gx,gy,gz\n" + b"".join(b"%d,1,2,3,4,5,6\n" % i for i in range(60))
