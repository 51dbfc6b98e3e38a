"""Audio: a recording, or the sound of a video, to clips of 128-band log-mel."""

import dataclasses
import math
import os
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np
from jaxtyping import Float

from imagebind_jax.errors import UserError
from imagebind_jax.inputs.decoders import media
from imagebind_jax.inputs.decoders.audio_files import MAX_SAMPLES, AudioFile, Time, open_audio
from imagebind_jax.inputs.decoders.media import MediaError, Source
from imagebind_jax.inputs.decoders.resampling import RATE, filter_support, reduced_rates, resample
from imagebind_jax.inputs.transforms.augment import shared_augmentation
from imagebind_jax.inputs.transforms.log_mel import (
    BANDS,
    mask_bands,
    normalise,
    normalized_log_mel,
    padded_log_mel,
)
from imagebind_jax.inputs.transforms.log_mel import MEAN as MEAN
from imagebind_jax.inputs.transforms.log_mel import STD as STD
from imagebind_jax.inputs.transforms.log_mel import log_mel as log_mel
from imagebind_jax.inputs.transforms.validation import check_int, check_positive

MAX_CLIPS = 1800  # 188 MB: an hour in clips of two seconds


@dataclasses.dataclass(frozen=True)
class LogMel:
    """record["audio"], or the sound of the video in record["vision"], to one clip [128, frames, 1].

    With rng the clip starts where record["view"] says, for all modalities of the sample, without
    it the clip is the centre one. Of a record with "start" or "seconds" only that part is heard.
    `mask_bands`: with rng up to that many neighbouring bands are silenced, as in SpecAugment; the
    paper has 12.
    """

    seconds: float = 2.0
    frames: int = 204
    mask_bands: int = 0

    def __post_init__(self):
        check_positive(seconds=self.seconds)
        check_int(frames=self.frames)
        check_int(0, mask_bands=self.mask_bands)
        if self.mask_bands > BANDS:
            raise UserError(f"mask_bands {self.mask_bands} is not within 0 and {BANDS}")

    def __call__(
        self, record: Mapping[str, Any], rng: np.random.Generator | None
    ) -> Float[np.ndarray, "128 frames 1"]:
        with open_audio(audio_source(record)) as recording:
            part = RecordingSpan.of(record, recording)
            if rng is None:
                start = max(part.seconds - self.seconds, 0.0) * 0.5
            else:
                start = shared_augmentation(record, rng).start(part.seconds, self.seconds)
            waveform = part.read(recording, start, self.seconds)
        mel = padded_log_mel(waveform, self.frames)
        if rng is not None and self.mask_bands:
            mask_bands(mel, self.mask_bands, rng)
        return normalise(mel)


@dataclasses.dataclass(frozen=True)
class LogMelClips:
    """The same record to `count` clips spread uniformly, [clips, 128, frames, 1]: for evaluation.

    `count` None: as many as it takes to hear all, ceil(duration / seconds), the paper's rule; the
    reference has 3. Each clip's own mean is removed from its own samples. The reference removes it
    in place, from the samples that clips of a recording shorter than 6 s share, so there its later
    clips hold steps that ours do not: the two agree from 6 s on.
    """

    count: int | None = 3
    seconds: float = 2.0
    frames: int = 204

    def __post_init__(self):
        check_positive(seconds=self.seconds)
        check_int(frames=self.frames)
        if self.count is not None:
            check_int(count=self.count)
            if self.count > MAX_CLIPS:
                raise UserError(f"count {self.count} is not within 1 and {MAX_CLIPS}")

    def __call__(
        self, record: Mapping[str, Any], rng: np.random.Generator | None
    ) -> Float[np.ndarray, "clips 128 frames 1"]:
        with open_audio(audio_source(record)) as recording:
            part = RecordingSpan.of(record, recording)
            starts = clip_starts(part.seconds, self.seconds, self.count)
            clips = (part.read(recording, start, self.seconds) for start in starts)
            return np.stack([normalized_log_mel(clip, self.frames) for clip in clips])


def audio_source(record: Mapping[str, Any]) -> Source:
    """What is heard of a record: its "audio", or the video in "vision". Raises `MediaError`."""
    source = media.first_field(record, "audio", "vision")
    if not isinstance(source, (bytes, str, os.PathLike)):
        raise MediaError(f"record {record.get('id', '?')}", "images without 'audio': no sound")
    return source


@dataclasses.dataclass(frozen=True)
class RecordingSpan:
    """The part of a recording that is the sample."""

    start: Fraction  # exact, so that adding it to another keeps that exact
    seconds: float
    limit: float  # what a record says of its length; infinite if nothing

    @classmethod
    def of(cls, record: Mapping[str, Any], recording: AudioFile) -> "RecordingSpan":
        """As record["start"] and record["seconds"] say, if they do. Raises ValueError if empty."""
        start, limit = record.get("start"), record.get("seconds")
        start = 0.0 if start is None else float(start)
        limit = math.inf if limit is None else float(limit)
        seconds = min(recording.seconds - start, limit)
        if not (start >= 0 and limit > 0 and seconds > 0):
            given = f"start {start} and seconds {limit}"
            raise ValueError(f"{given} lie outside a recording of {recording.seconds} s")
        return cls(Fraction(start), seconds, limit)

    def read(
        self, recording: AudioFile, start: Time, seconds: float
    ) -> Float[np.ndarray, "channels n"]:
        """The clip that starts `start` seconds into the part, no longer than the part."""
        return decode_clip(recording, self.start + start, min(seconds, self.limit))


def clip_starts(duration: float, seconds: float, count: int | None) -> list[Fraction]:
    """Starts in seconds: the first clip at 0, the last ending with the recording; exact.

    i * (duration - seconds) / (count - 1), as the released code does with the pytorchvideo that it
    pins; older ones divide by `count`. count None: ceil(duration / seconds) clips. A recording no
    longer than `seconds` gives `count` equal starts. Fractions, because a start that float
    rounding moves by one sample changes the spectrogram of noise visibly. Raises ValueError for
    more than `MAX_CLIPS`.
    """
    if count is None:
        count = max(math.ceil(duration / seconds), 1)
        if count > MAX_CLIPS:
            raise ValueError(
                f"{count} clips in {duration} s: say which part with 'start', 'seconds'"
            )
    last = Fraction(max(duration - seconds, 0))
    return [last * i / max(count - 1, 1) for i in range(count)]


def read_clip(source: Source, start: Time, seconds: float = 2.0) -> Float[np.ndarray, "channels n"]:
    """The samples of [start, start + seconds) at 16 kHz, fewer at the end. Raises `MediaError`."""
    with open_audio(source) as recording:
        return decode_clip(recording, start, seconds)


def decode_clip(
    recording: AudioFile, start: Time, seconds: float
) -> Float[np.ndarray, "channels n"]:
    """The same of an open recording.

    Equal to resampling all of the recording and slicing, but only the clip is decoded, together
    with what its resampling filter reaches. Raises ValueError.
    """
    first, last = int(start * RATE), int((start + seconds) * RATE)
    if (last - first) * recording.channels > MAX_SAMPLES:
        raise ValueError(f"{last - first} samples at once: ask for shorter clips")
    old, new = reduced_rates(recording.rate)
    margin = filter_support(old, new) + 1
    block = max(first // new - -(-margin // old), 0)  # the filter's phases repeat every `old`
    end = -(-last * old // new) + margin
    waveform = resample(recording.read(block * old, end), recording.rate)
    waveform = waveform[:, first - block * new : last - block * new]
    if waveform.size == 0:
        raise ValueError(f"no samples in [{first / RATE}, {last / RATE}) s")
    return waveform
