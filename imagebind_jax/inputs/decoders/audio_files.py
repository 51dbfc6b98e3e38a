"""Recordings in whatever file: opened within limits, any part decoded and no more."""

import contextlib
import dataclasses
import functools
import io
import math
import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import soundfile
from jaxtyping import Float

from imagebind_jax.inputs.decoders import media
from imagebind_jax.inputs.decoders.audio_tracks import WARM_UP, open_audio_track
from imagebind_jax.inputs.decoders.media import MediaError, Source
from imagebind_jax.inputs.decoders.resampling import RATE, reduced_rates

Time = int | float | Fraction  # seconds

RATES, MAX_CHANNELS = (1_000, 768_000), 32
MAX_SAMPLES = 100_000_000  # 400 MB: an hour of silence is a FLAC of 188 KB
MAX_OGG = 1 << 30  # bytes, a day of 96 kbit/s: libsndfile reads all of it to know how long it is
MAX_SEARCH = 64 << 20  # bytes that are read beyond a clip: where a FLAC is damaged, 20 s a GB
UNKNOWN = 2**63 - 1  # libsndfile's number of samples where a FLAC was written to a pipe


@dataclasses.dataclass(frozen=True)
class AudioFile:
    """An open recording: `frames` samples a channel at `rate` Hz, decoded by `decode(first, last)`."""

    rate: int
    channels: int
    frames: int  # as the file says; what is there may be less
    decode: Callable[[int, int], np.ndarray]

    def __post_init__(self):
        if not (RATES[0] <= self.rate <= RATES[1] and 1 <= self.channels <= MAX_CHANNELS):
            raise ValueError(f"{self.channels} channels at {self.rate} Hz are not a recording")
        if self.frames < 1:
            raise ValueError("no samples")

    @property
    def seconds(self) -> float:
        """Its length, counted in samples at 16 kHz as the reference counts it."""
        old, new = reduced_rates(self.rate)
        return -(-self.frames * new // old) / RATE

    def read(self, first: int, last: int) -> Float[np.ndarray, "channels n"]:
        """Samples [first, last), fewer where the recording ends. Raises ValueError if none."""
        last = min(last, self.frames)
        if not 0 <= first < last:
            raise ValueError(f"no samples in [{first}, {last}) of {self.frames}")
        if (last - first) * self.channels > MAX_SAMPLES:
            raise ValueError(f"{last - first} samples at once: read shorter pieces with seconds=")
        waveform = self.decode(first, last)
        if waveform.size == 0:
            raise ValueError(f"no samples at {first}: the file says {self.frames}, but ends before")
        # Float files hold anything; up to 2^31 (unscaled integers) the power spectrum stays finite.
        if not (waveform.max() <= 2.0**31 and waveform.min() >= -(2.0**31)):
            raise ValueError("samples are not finite or beyond 2^31")
        return waveform


@contextlib.contextmanager
def open_audio(source: Source) -> Iterator[AudioFile]:
    """Opens WAV, FLAC, Ogg, MP3, AIFF, ... with libsndfile, the sound of MP4, MOV, ... with PyAV.

    What the file holds decides, not its name. Whatever is raised within the block becomes a
    `MediaError` that names the source.
    """
    kind = media.sniff_media_type(source)
    if kind in ("image", "exr", "array"):
        raise MediaError(media.source_name(source), f"{media.MEDIA_TYPE_LABELS[kind]}: no sound")
    if kind != "container":
        with media.wrap_decode_errors(source), media.open_media(source) as file:
            flac = _Handle(file, MAX_SEARCH) if _begins(source) == b"fL" else None
            plain = _Handle(file) if isinstance(source, bytes) else file.fileno()
            with _sound_file(flac or plain) as sound:
                if sound.subtype == "VORBIS":
                    _check_vorbis(sound)
                if sound.frames < UNKNOWN:
                    yield AudioFile(
                        sound.samplerate,
                        sound.channels,
                        sound.frames,
                        functools.partial(_decode, sound, flac),
                    )
                    return
    with open_audio_track(source) as (track, container):
        unused = [container]  # for one part: what may be read of a container is limited

        def decode(first: int, last: int) -> np.ndarray:
            if unused:
                return track.decode(first, last, unused.pop())
            with open_audio_track(source) as (
                again,
                fresh,
            ):  # alike: the noise AAC makes up goes on
                return again.decode(first, last, fresh)

        yield AudioFile(track.rate, track.channels, track.frames, decode)


class _Handle:
    """A file as libsndfile wants it, that ends where `left` bytes have been read."""

    def __init__(self, file: io.BytesIO | io.BufferedReader, left: int | float = math.inf):
        self._file, self.tell, self.left = file, file.tell, left

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        with contextlib.suppress(ValueError, OSError):  # damaged files seek before their beginning
            self._file.seek(offset, whence)
        return self.tell()

    def readinto(self, buffer: Any) -> int:
        self.left -= len(buffer)
        return self._file.readinto(buffer) if self.left >= 0 else 0


def _sound_file(handle: Any) -> soundfile.SoundFile:
    try:
        return soundfile.SoundFile(handle, closefd=False)
    except soundfile.LibsndfileError as error:
        reason = error.error_string  # without the handle, which says nothing
        if error.code == 1:  # "Format not recognised."
            reason += " Text, or none of WAV, FLAC, Ogg, MP3, AIFF, MP4, MOV, Matroska, WebM, AVI"
        raise ValueError(reason) from error


def _check_vorbis(sound: soundfile.SoundFile) -> None:
    """Where the codebooks are damaged, libsndfile (1.2.2) crashes on seeking, but not on reading."""
    if not len(sound.read(1)):
        raise ValueError("nothing of it decodes")
    sound.seek(0)  # or else its next seek is off


def _decode(sound: soundfile.SoundFile, flac: _Handle | None, first: int, last: int) -> np.ndarray:
    if flac is not None:
        flac.left = MAX_SEARCH + (last - first) * sound.channels * 4
    # These two decoders need what came before, and libsndfile's own seek gives them too little.
    lacking = sound.format == "MP3" or sound.subtype == "OPUS"
    begin = max(first - int(WARM_UP * sound.samplerate), 0) if lacking else first
    sound.seek(begin)
    return sound.read(last - begin, dtype="float32", always_2d=True)[first - begin :].T


def _begins(source: Source) -> bytes:
    with media.open_media(source) as file:
        head = file.read(4)
        if head == b"OggS" and file.seek(0, os.SEEK_END) > MAX_OGG:
            raise MediaError(media.source_name(source), f"more than {MAX_OGG} bytes of Ogg")
        return head[:2]


def read_audio(
    source: Source, start: Time = 0.0, seconds: Time | None = None
) -> tuple[Float[np.ndarray, "channels n"], int]:
    """Samples in [-1, 1] from `start` on (at most `seconds`), and their rate in Hz.

    Decodes no more than was asked for. Raises `MediaError`.
    """
    with open_audio(source) as recording:
        first = round(start * recording.rate)
        last = recording.frames if seconds is None else first + round(seconds * recording.rate)
        return recording.read(first, last), recording.rate


def duration(source: Source) -> float:
    """Seconds of the recording, counted in samples at 16 kHz as the reference counts them."""
    with open_audio(source) as recording:
        return recording.seconds
