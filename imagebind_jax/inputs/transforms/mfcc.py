"""MFCC: the classic features of speech, as librosa computes them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from imagebind_jax.errors import UserError
from imagebind_jax.inputs.decoders.audio_files import open_audio
from imagebind_jax.inputs.decoders.resampling import RATE
from imagebind_jax.inputs.transforms.audio import RecordingSpan, audio_source
from imagebind_jax.inputs.transforms.augment import shared_augmentation
from imagebind_jax.inputs.transforms.validation import check_int, check_positive

WINDOW, SHIFT, BANDS = 512, 160, 64  # samples at 16 kHz: 32 ms, 10 ms; mel bands


@dataclasses.dataclass(frozen=True)
class Mfcc:
    """record["audio"], or the sound of the video in record["vision"], to [coefficients, frames, 1].

    One clip of `seconds` at 16 kHz, all channels averaged: with rng it starts where record["view"]
    says, without it is the centre one. A shorter recording is followed by silence. The frames are
    1 + 100 * seconds, each around its moment: 301 for 3 s. The first coefficient is the loudness.
    """

    seconds: float = 3.0
    coefficients: int = 40

    def __post_init__(self):
        check_positive(seconds=self.seconds)
        check_int(coefficients=self.coefficients)
        if self.coefficients > BANDS:
            raise UserError(f"coefficients {self.coefficients} of {BANDS} mel bands: choose fewer")

    def __call__(
        self, record: Mapping[str, Any], rng: np.random.Generator | None
    ) -> Float[np.ndarray, "coefficients frames 1"]:
        with open_audio(audio_source(record)) as recording:
            part = RecordingSpan.of(record, recording)
            if rng is None:
                start = max(part.seconds - self.seconds, 0.0) * 0.5
            else:
                start = shared_augmentation(record, rng).start(part.seconds, self.seconds)
            waveform = part.read(recording, start, self.seconds).mean(axis=0)
        whole = np.zeros(round(self.seconds * RATE), np.float32)
        whole[: len(waveform)] = waveform[: len(whole)]
        return mfcc(whole, self.coefficients)[:, :, None]


def mfcc(
    waveform: Float[np.ndarray, "n"], coefficients: int = 40
) -> Float[np.ndarray, "coefficients frames"]:
    """Coefficients of 16 kHz samples in [-1, 1]: the cosine transform of a mel spectrogram in dB.

    Hann windows of 512 samples every 160, centred, the ends filled with zeros; 64 mel bands up to
    8 kHz as Slaney's; 10 log10 of the power, at most 80 dB below the loudest; orthonormal DCT-II.
    Source: librosa.feature.mfcc, whose defaults all others are.
    """
    import librosa  # whose import takes seconds

    return librosa.feature.mfcc(
        y=np.asarray(waveform, np.float32),
        sr=RATE,
        n_mfcc=coefficients,
        n_fft=WINDOW,
        hop_length=SHIFT,
        n_mels=BANDS,
    ).astype(np.float32, copy=False)
