"""The sound tracks of MP4, MOV, Matroska, WebM, AVI and ADTS files: any part, to the sample."""

import contextlib
import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
from jaxtyping import Float

from imagebind_jax.inputs.decoders.containers import open_container, start_time
from imagebind_jax.inputs.decoders.media import MediaError, Source, source_name

# Seconds decoded before the part that is wanted. An Opus decoder forgets by a factor of 1.7 a
# packet: after half a second it is right to 1e-6. MP3 needs 3 packets, at low bit rates up to 20,
# AAC-LC one.
WARM_UP = Fraction(1, 2)
TAIL = 1_000_000  # microseconds decoded of a file that does not say where its track ends
# Samples by which the packets of these differ in length; other codecs' are equally long.
VARYING = {"vorbis": 64, "opus": 120, "libopus": 120}


@dataclasses.dataclass(frozen=True)
class AudioTrack:
    """Where the samples of a file's sound lie. Time 0 is the file's: sound and video agree.

    A packet has its place by its time stamp alone, so what is decoded after a seek lies where it
    lies when all is decoded. The decoder's run-up (AAC's priming) does not count, and edit lists
    hold, where the file tells of them. Stamps in milliseconds (Matroska, WebM) are brought to the
    grid of the packets, `step` samples; PCM in packets of changing length stays within one tick of
    them. What the stamps leave out is silence. Values after a seek are exactly those of decoding
    all (Opus: within 1e-6), but for the noise that some decoders make up: AAC's noise
    substitution, AC-3's dither.
    """

    source: Source
    rate: int  # Hz
    channels: int
    frames: int  # samples a channel, from the file's time 0 to the end of the track
    anchor: int  # where the first packet ends, in samples: a point of the packets' grid
    step: int  # of that grid
    tick: Fraction  # samples between two time stamps
    begin: Fraction  # the file's time 0, in samples

    def decode(
        self, first: int, last: int, container: Any = None
    ) -> Float[np.ndarray, "channels n"]:
        """Samples [first, last), fewer where the track ends. Raises `MediaError`.

        container: of the same file, open already, where nothing was read but to make the track.
        """
        if first > WARM_UP * self.rate:
            waveform = self._decode(first, last, seek=True, container=container)
            if waveform is not None:
                return waveform
        waveform = self._decode(first, last, seek=False)
        assert waveform is not None
        return waveform

    def _decode(
        self, first: int, last: int, seek: bool, container: Any = None
    ) -> np.ndarray | None:
        """None where seeking is impossible or ends behind `first`."""
        waveform = np.zeros((self.channels, last - first), np.float32)
        reached, expected = first, None
        opened = contextlib.nullcontext(container) if container else open_container(self.source)
        with opened as container:
            stream = _best(container, self.source)
            if seek and not _seek(container, stream, (first + self.begin) / self.rate - WARM_UP):
                return None
            for frame in container.decode(stream):
                if (frame.sample_rate, len(frame.layout.channels)) != (self.rate, self.channels):
                    raise ValueError("rate or channels change within the track")
                at = self.place(frame.pts, frame.samples, expected)
                if seek and expected is None and at > first:
                    return None
                expected = at + frame.samples
                left, right = max(at, first), min(expected, last)
                if left < right:
                    part = _samples(frame, self.channels)[:, left - at : right - at]
                    waveform[:, left - first : right - first] = part
                reached = max(reached, min(expected, last))
                if expected >= last:
                    break
        return waveform[:, : reached - first]

    def place(self, stamp: int | None, samples: int, expected: int | None) -> int:
        """Where a packet lies, in samples; `expected`: where the one before it ends.

        Its end is what lies on the grid: decoders cut their run-up from the first one's beginning,
        also after a seek.
        """
        if stamp is None:
            return expected or 0
        tick, begin, parts = self._whole
        exact = stamp * tick - begin  # in parts of a sample
        near = max(self.step * parts, 2 * tick)  # twice that
        if expected is not None and 2 * abs(exact - expected * parts) <= near:
            return expected
        steps = Fraction(exact + (samples - self.anchor) * parts, self.step * parts)
        end = self.anchor + self.step * round(steps)
        return end - samples

    @functools.cached_property
    def _whole(self) -> tuple[int, int, int]:
        """`tick`, `begin` and a sample in whole numbers: fractions of every packet take a while."""
        parts = math.lcm(self.tick.denominator, self.begin.denominator)
        return int(self.tick * parts), int(self.begin * parts), parts


@contextlib.contextmanager
def open_audio_track(source: Source) -> Iterator[tuple[AudioTrack, Any]]:
    """The best sound track of the file, and its container for one `decode`. Raises `MediaError`.

    To open a container takes longer than to decode two seconds of sound.
    """
    with open_container(source) as container:
        stream = _best(container, source)
        head = list(itertools.islice(container.decode(stream), 3))
        if not head:
            raise ValueError("no samples")
        rate = head[0].sample_rate
        tick, begin = stream.time_base * rate, start_time(container) * rate
        step = math.gcd(*(frame.samples for frame in head[1:])) or 1  # the first may lack a run-up
        codec = stream.codec_context.name
        if codec.startswith("pcm") and tick <= 1:
            step = 1
        track = AudioTrack(
            source=source,
            rate=rate,
            channels=len(head[0].layout.channels),
            frames=0,
            anchor=round((head[0].pts or 0) * tick - begin) + head[0].samples,
            step=VARYING.get(codec, step),
            tick=tick,
            begin=begin,
        )
        yield dataclasses.replace(track, frames=_end(track, container, stream)), container


def _best(container: Any, source: Source) -> Any:
    stream = container.streams.best("audio")
    if stream is None:
        raise MediaError(source_name(source), "no sound")
    if stream.codec_context is None:
        raise MediaError(source_name(source), "its sound is in a coding that FFmpeg does not know")
    return stream


def _seek(container: Any, stream: Any, seconds: Fraction) -> bool:
    """To a packet not after that time stamp. Whether it was possible."""
    try:
        if container.format.name.startswith("matroska"):  # whose index is of its video
            container.seek(int(seconds * 1_000_000))
        else:
            container.seek(int(seconds / stream.time_base), stream=stream)
    except OSError:
        return False
    return True


def _end(track: AudioTrack, container: Any, stream: Any) -> int:
    """Samples to the end of the track: as the file says, or else of its last packet."""
    guessed = container.format.name == "aac"  # from the bit rate
    if stream.duration and not guessed:
        return round(((stream.start_time or 0) + stream.duration) * track.tick - track.begin)
    expected = None
    if container.duration and not guessed:
        container.seek(max(container.duration + (container.start_time or 0) - TAIL, 0))
        for frame in container.decode(stream):
            expected = track.place(frame.pts, frame.samples, expected) + frame.samples
    if expected is None:
        container.seek(0)
        ends = [p.pts + p.duration for p in container.demux(stream) if p.pts is not None]
        expected = round(max(ends, default=0) * track.tick - track.begin)
    return expected


def _samples(frame: Any, channels: int) -> Float[np.ndarray, "channels n"]:
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, channels).T
    if samples.dtype.kind == "f":
        return samples.astype(np.float32)
    bits = 8 * samples.dtype.itemsize
    zero = 128 if samples.dtype.kind == "u" else 0
    return (samples.astype(np.float32) - np.float32(zero)) / np.float32(2 ** (bits - 1))
