"""Small videos made on the spot, whose frames tell their number by their grey."""

import functools
import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import pytest

av = pytest.importorskip("av")

WIDTH, HEIGHT = 64, 48
QUIET = {"libx265": {"x265-params": "log-level=none"}}


def in_its_own_thread(function):
    """SVT-AV1, when run by root, gives the thread that calls it real-time priority, for ever.

    Whatever that thread starts inherits it: two hosts of a later test would wait for each other on
    two cores that neither leaves to the other.
    """

    @functools.wraps(function)
    def run(*args, **kwargs):
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(function, *args, **kwargs).result()

    return run


@in_its_own_thread
def movie(
    count: int,
    codec: str = "libx264",
    container: str = "mp4",
    rate: int = 30,
    gop: int = 12,
    stamps: Sequence[int] | None = None,
    paint: Callable[[int], np.ndarray] | None = None,
    muxer: dict[str, str] | None = None,
    file: io.RawIOBase | None = None,
) -> bytes:
    """`count` frames, one every 1 / rate s or at `stamps` milliseconds; frame i has grey 4 i."""
    file = file or io.BytesIO()
    unit = Fraction(1, 1000) if stamps else Fraction(1, rate)
    with av.open(file, "w", format=container, options=muxer or {}) as output:
        stream = output.add_stream(codec, rate=rate, options=QUIET.get(codec, {}))
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.gop_size, stream.codec_context.time_base = gop, unit
        for i in range(count):
            pixels = np.full((HEIGHT, WIDTH, 3), 4 * i % 256, np.uint8) if not paint else paint(i)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = stamps[i] if stamps else i, unit
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return bytes(file.getvalue())


def remuxed(source: bytes, container: str, shift: float = 0.0, **muxer: str) -> bytes:
    """The same packets in another file, all of them `shift` seconds later."""
    file = io.BytesIO()
    with av.open(io.BytesIO(source)) as old, av.open(file, "w", container, options=muxer) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.size:
                later = round(shift / packet.time_base)
                packet.pts, packet.dts = packet.pts + later, packet.dts + later
                packet.stream = stream
                new.mux(packet)
    return file.getvalue()


def numbers(images) -> list[int]:
    return [round(float(np.asarray(image).mean()) / 4) for image in images]
