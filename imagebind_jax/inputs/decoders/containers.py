"""The one door to PyAV: MP4, MOV, Matroska, WebM, AVI and ADTS files, opened within limits."""

import contextlib
import io
import os
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from imagebind_jax.errors import UserError
from imagebind_jax.inputs.decoders.media import Source, open_media, wrap_decode_errors

ADTS = (b"\xff\xf0", b"\xff\xf1", b"\xff\xf8", b"\xff\xf9")  # AAC without a container
# What a file begins with, from which byte on -> the one demuxer that may read it: none of
# playlists, devices, scripts.
DEMUXERS = (
    (4, (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"styp"), "mov"),
    (0, (b"\x1aE\xdf\xa3",), "matroska"),
    (0, (b"RIFF",), "avi"),
    (0, ADTS, "aac"),
    (0, (b"fLaC",), "flac"),
)
MAX_STREAMS = 64
MAX_PIXELS = 17_000_000  # of a frame: 5760 x 2880; some codings need 17 of them in memory
MAX_HEADER = 256 << 20  # bytes of an MP4 file that are not media
# Bytes that are read: without an index, or where it is damaged, FFmpeg looks to the end of the file.
MAX_OPENING, MAX_READ = 64 << 20, 1 << 30  # of other files than MP4; of a part, 5 s long
MAX_BOXES = 500_000  # at the top of an MP4 file: a day in fragments of a second has 173,000


@contextlib.contextmanager
def open_container(source: Source) -> Iterator[Any]:
    """An `av.container.InputContainer` over `source`, closed at the end of the block.

    For sound tracks and for video alike. No decoder threads (many loaders run beside one another),
    no file but this one: only `DEMUXERS`, and no protocol by which a file could name another.
    Whatever is raised within the block becomes a `MediaError` that names the source. Raises
    `UserError` where PyAV is not installed.
    """
    av = import_pyav()
    options: dict[str, Any] = {
        "options": {"max_pixels": str(MAX_PIXELS)},  # FFmpeg decodes a frame to know the stream
        "container_options": {"protocol_whitelist": "none", "max_streams": str(MAX_STREAMS)},
    }
    if int(av.__version__.split(".")[0]) < 19:  # from 19 on titles may hold any bytes
        options["metadata_errors"] = "replace"
    with wrap_decode_errors(source), open_media(source) as file:
        demuxer = _demuxer(file)
        bounded = _ReadLimitedFile(file, MAX_READ if demuxer == "mov" else MAX_OPENING)
        with av.open(bounded, format=demuxer, **options) as container:
            bounded.left = MAX_READ
            for stream in (*container.streams.audio, *container.streams.video):
                if stream.codec_context is not None:  # FFmpeg knows its coding
                    stream.codec_context.thread_count = 1
            yield container


def import_pyav() -> Any:
    """The module `av`, imported where it is needed. Raises `UserError` where it is not installed."""
    try:
        import av
    except ImportError:
        remedy = "pip install 'imagebind-jax[video]'"
        raise UserError(f"video files and M4A need PyAV, which is missing: {remedy}") from None
    return av


class _ReadLimitedFile:
    """The file as PyAV wants it, of which no more than `left` bytes are read."""

    def __init__(self, file: io.BytesIO | io.BufferedReader, left: int):
        self.seek, self.tell, self._read, self.left = file.seek, file.tell, file.read, left

    def read(self, size: int) -> bytes:
        self.left -= size
        if self.left < 0:
            raise ValueError(
                "too much to look through for one part: its index is missing or damaged"
            )
        return self._read(size)


def start_time(container: Any) -> Fraction:
    """The time stamp in seconds at which the file begins: time 0 of its pictures and its sound.

    A cut of a longer recording may start at an hour; a stamp before 0 is only a decoder's run-up.
    """
    return max(Fraction(container.start_time or 0, 1_000_000), Fraction(0))


def _demuxer(file: io.BytesIO | io.BufferedReader) -> str:
    head = file.read(8)
    file.seek(0)
    for at, beginnings, demuxer in DEMUXERS:
        if head[at:].startswith(beginnings):
            if demuxer == "mov":
                _check_boxes(file)
            return demuxer
    raise ValueError("not MP4, MOV, Matroska, WebM, AVI, ADTS or FLAC")


def _check_boxes(file: io.BytesIO | io.BufferedReader) -> None:
    """Refuses an MP4 that claims more packets than it has bytes: 50 KB would take 1.8 GB of memory."""
    size = file.seek(0, os.SEEK_END)
    at = claimed = header = 0
    for _ in range(MAX_BOXES):
        file.seek(at)
        head = file.read(16)
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:], "big")
        length = length or size - at  # 0: to the end of the file
        if length < 8:
            break
        if head[4:8] != b"mdat":
            header += min(length, size - at)
            if header > MAX_HEADER:
                raise ValueError(f"a header of more than {MAX_HEADER} bytes")
            file.seek(at)
            box = file.read(length)
            if b"cmov" in box:
                raise ValueError("a compressed header: rewrite the file")
            claimed += _unlisted(box)
        at += length
        if at >= size:
            break
    else:
        raise ValueError(f"more than {MAX_BOXES} boxes")
    file.seek(0)
    if claimed > size:
        raise ValueError(f"claims {claimed} packets in {size} bytes")


def _unlisted(box: bytes) -> int:
    """How many packets it claims without listing them: anywhere in it, since boxes nest."""
    claimed = 0
    for kind in (b"stsz", b"trun"):
        at = box.find(kind)
        while at >= 0:
            body = box[at + 4 : at + 16]
            if kind == b"stsz" and any(body[4:8]):  # one size for all
                claimed += int.from_bytes(body[8:12], "big")
            if kind == b"trun" and body[2:3] and not body[2] & 0x0F:  # nothing said of each
                claimed += int.from_bytes(body[4:8], "big")
            at = box.find(kind, at + 4)
    return claimed
