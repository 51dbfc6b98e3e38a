"""Video files: the wanted frames, each decoded from the keyframe before it and no further."""

import contextlib
import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from imagebind_jax.inputs.decoders.containers import (
    MAX_PIXELS,
    import_pyav,
    open_container,
    start_time,
)
from imagebind_jax.inputs.decoders.media import MediaError, Source, source_name

# From a keyframe to a wanted frame: pixels (77 s of 720p, 8.6 s of 4K at 30 Hz) and frames.
MAX_DECODED, MAX_FRAMES = 1 << 31, 20_000
MAX_PACKETS = 500_000  # looked through, not decoded: 4.6 hours at 30 Hz
REORDERED = 16  # frames stored before one that is shown earlier: what H.264 and HEVC allow
MAX_LATE_FRAMES = Fraction(
    1, 10
)  # s after the file's time 0 that the first frame may be, and count as 0
SKIPPING = ("h264", "hevc")  # decoders that can leave out the frames on which no other depends
MOMENT = Fraction(1, 1000)  # s: to which Matroska rounds times
SEEK_AHEAD_SECONDS = (
    1  # s: how old a picture may be that stands for one that the decoder does not give
)

Time = int | float | Fraction  # seconds


def duration(source: Source) -> float:
    """Seconds from the first frame to the end of the last. Raises `MediaError`."""
    with open_video(source) as video:
        return float(video.duration)


def frames_at(source: Source, times: Sequence[Time]) -> list[Image.Image]:
    """The frames that are being shown at these times, upright and RGB. Raises `MediaError`."""
    with open_video(source) as video:
        return video.decode([video.frames(time, 0)[0] for time in times])


def clip_starts(duration: Time, seconds: Time, count: int) -> list[Fraction]:
    """Starts in seconds: the first clip at 0, the last ending with the video; exact.

    i * (duration - seconds) / (count - 1): so the reference cut its golden views, those of 3 s at
    0, 0.25, 0.5, 0.75 and 1 s. A video no longer than `seconds` gives `count` equal starts.
    """
    last = max(Fraction(duration) - Fraction(seconds), Fraction(0))
    return [last * i / max(count - 1, 1) for i in range(count)]


class Frame(NamedTuple):
    """Where a frame is: its time stamp, its keyframe's, and where to seek to meet that."""

    stamp: int
    key: int
    place: int | None


@contextlib.contextmanager
def open_video(source: Source) -> Iterator["VideoFile"]:
    """The video of an MP4, MOV, Matroska, WebM or AVI file, for the length of the block.

    Whatever goes wrong within the block is a `MediaError` that names the source; so is a file
    without video, such as a sound file with cover art.
    """
    with contextlib.ExitStack() as stack:
        yield VideoFile(source, stack)


class VideoFile:
    """An opened video. Times are seconds from its first frame, as the reference counts them.

    Where the file's sound begins more than 0.1 s before that, they count from the sound, so that
    both are cut at the same moments. Pixels are taken to be square, as the reference takes them.
    """

    _container: Any
    _stream: Any

    def __init__(self, source: Source, stack: contextlib.ExitStack):
        self.source, self._stack, self._begun = source, stack, False
        self._open()
        width, height = self._codec.width, self._codec.height
        self._pixels = width * height
        if not 0 < self._pixels <= MAX_PIXELS:
            raise self._error(f"frames of {width} x {height} pixels, not of 1 to {MAX_PIXELS}")
        shown = (packet.stamp for packet in self._read(None) if packet.shown)
        if not (head := list(itertools.islice(shown, REORDERED + 1))):
            raise self._error("no frames in its video stream")
        self._first = Fraction(min(head))
        self._origin = start_time(self._container) / self._unit
        if abs(self._first - self._origin) * self._unit <= MAX_LATE_FRAMES:
            self._origin = self._first

    @functools.cached_property
    def duration(self) -> Fraction:
        """Seconds to the end of the last frame, by the file's header or else its last packets."""
        length = Fraction(self._stream.duration or 0)
        if length <= 0:
            end = self._container.duration  # in microseconds, of whichever stream is longest
            place = int(Fraction(end, 1_000_000) / self._unit + self._first) if end else None
            packets = list(self._read(place)) or list(self._read(None))
            length = max(packet.stamp + packet.lasts for packet in packets) - self._first
        return (self._first - self._origin + length) * self._unit

    def frames(self, start: Time, seconds: Time) -> list[Frame]:
        """The frames that begin within [start, start + seconds), in order; none is decoded yet.

        Where none does (a slide show, or 0 seconds) the one that is being shown at `start`, or the
        first if none is yet, as where sound begins before the pictures. Of a file that was cut off
        there are the frames before its end; a clip with none of them is a `MediaError`.
        """
        first = Fraction(start) / self._unit + self._origin
        last, moment = first + Fraction(seconds) / self._unit, MOMENT / self._unit
        for place in (math.floor(first + moment), math.floor(first - 1 / self._unit), None):
            packets = list(self._read(place, last))
            keys = sorted(packet.stamp for packet in packets if packet.key)
            if keys and (keys[0] <= first + moment or place is None):
                break  # else the seek came out behind the keyframe: once more, from further back
        shown = sorted(p for p in packets if p.shown and keys and keys[0] <= p.stamp)
        low, high = math.ceil(first - moment), math.ceil(last - moment)  # stamps are whole numbers
        found = [packet for packet in shown if low <= packet.stamp < high]
        if not found:
            found = [packet for packet in shown if packet.stamp <= first + moment][-1:]
            if found and found[0].stamp + found[0].lasts <= first >= shown[-1].stamp:
                found = []
        if not found and start >= 0:
            found = [packet for packet in shown if packet.stamp > first + moment][:1]
        if not found:
            clip = f"{float(start):.3f} to {float(start + seconds):.3f} s"
            raise self._error(f"the video has no frames from {clip}")
        return [Frame(p.stamp, max(k for k in keys if k <= p.stamp), place) for p in found]

    def decode(self, frames: Sequence[Frame]) -> list[Image.Image]:
        """The pictures of these frames, upright and RGB; nothing is decoded twice."""
        places = {frame.key: frame.place for frame in frames}
        pictures = {}
        for key, place in places.items():
            stamps = {frame.stamp for frame in frames if frame.key == key}
            decoded = self._decode(place, key, stamps)
            for stamp in stamps:
                if (
                    stamp not in decoded
                    or (stamp - decoded[stamp].pts) * self._unit > SEEK_AHEAD_SECONDS
                ):
                    time = float((stamp - self._origin) * self._unit)
                    raise self._error(f"the frame at {time:.3f} s does not decode")
                pictures[stamp] = Image.fromarray(_upright(decoded[stamp]))
        return [pictures[frame.stamp] for frame in frames]

    def _decode(self, place: int | None, key: int, stamps: set[int]) -> dict[int, Any]:
        """The decoder's frame for each stamp or, where it gives none, its last one before that."""
        waiting, decoded, found = set(stamps), 0, dict[int, Any]()

        def keep(frames: list) -> None:
            for frame in frames:
                for stamp in stamps:
                    if frame.pts is not None and frame.pts <= stamp:
                        found[stamp] = max(found.get(stamp, frame), frame, key=lambda f: f.pts)

        for packet in self._packets(place):
            stamp = _stamp(packet)
            if not decoded and not (packet.is_keyframe and stamp == key):
                continue
            decoded += 1
            if decoded > min(MAX_FRAMES, MAX_DECODED // self._pixels):
                reason = (
                    f"{decoded - 1} frames without a keyframe: encode with one every few seconds"
                )
                raise self._error(f"more than {reason}")
            skip = self._codec.name in SKIPPING and stamp not in waiting
            self._codec.skip_frame = "NONREF" if skip else "DEFAULT"
            waiting.discard(stamp)
            keep(self._codec.decode(packet))
            if not waiting:
                break
        keep(self._codec.decode(None))  # those that it holds back to put them in order
        return found

    def _read(self, place: int | None, last: Fraction | None = None) -> Iterator["_Packet"]:
        """What is said of the packets, up to those after which none can come before `last`."""
        later, end = 0, math.inf if last is None else math.ceil(last)
        for packet in itertools.islice(self._packets(place), MAX_PACKETS):
            stamp, lasts = _stamp(packet), packet.duration or 1
            yield _Packet(stamp, lasts, packet.is_keyframe, not packet.is_discard)
            later += stamp >= end
            if later > REORDERED:
                return

    def _packets(self, place: int | None) -> Iterator[Any]:
        """The packets from a keyframe before `place` on, if it can be found; None: from the first."""
        if place is not None:
            try:
                self._container.seek(place, stream=self._stream)
            except import_pyav().FFmpegError:
                return
        elif self._begun:
            self._open()
        self._begun = True
        for packet in self._container.demux(self._stream):
            # A file that was cut off ends with a damaged packet, every file with an empty one.
            if packet.size and not packet.is_corrupt and _stamp(packet) is not None:
                yield packet

    def _open(self) -> None:
        av = import_pyav()
        self._stack.close()
        self._container, self._begun = self._stack.enter_context(open_container(self.source)), False
        streams = self._container.streams
        best = (streams.best("video"), *streams.video)
        moving = [s for s in best if s and not s.disposition & av.stream.Disposition.attached_pic]
        if not moving:
            raise self._error("no video stream")
        self._stream = moving[0]
        self._codec, self._unit = self._stream.codec_context, Fraction(self._stream.time_base)
        if self._codec is None:
            raise self._error("its video is in a coding that FFmpeg does not know")
        self._codec.options = {"max_pixels": str(MAX_PIXELS)}  # frames may grow on the way
        for other in streams:
            if other is not self._stream:
                other.discard = av.stream.Discard.all

    def _error(self, reason: str) -> MediaError:
        return MediaError(source_name(self.source), reason)


class _Packet(NamedTuple):
    stamp: int
    lasts: int
    key: bool
    shown: bool


def _stamp(packet: Any) -> int:
    """When it is shown, or in AVI, which does not say, when it is decoded."""
    return packet.pts if packet.pts is not None else packet.dts


def _upright(frame: Any) -> UInt8[np.ndarray, "height width 3"]:
    """A frame's pixels, turned as its display matrix says: phones hold portraits on their side."""
    pixels = frame.to_ndarray(format="rgb24", threads=1)
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return pixels
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        pixels, a, d = pixels.swapaxes(0, 1), c, b
    return np.ascontiguousarray(pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])
