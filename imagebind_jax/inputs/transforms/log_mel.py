"""Log-mel spectrograms as Kaldi and torchaudio compute them, normalised for ImageBind."""

import functools

import numpy as np
import scipy.fft
from jaxtyping import Float

from imagebind_jax.inputs.decoders.resampling import RATE

MEAN, STD = -4.268, 9.138  # AudioSet log-mel: AST's mean and twice its standard deviation
WINDOW, SHIFT, FFT = 400, 160, 512  # samples: 25 ms, 10 ms, the next power of two
BANDS, LOW_HZ = 128, 20.0
PREEMPHASIS = 0.97
FLOOR = np.float32(1.1920929e-07)  # float32 epsilon, Kaldi's floor before the logarithm
TOGETHER = 32  # bands: few enough that their part of the mel matrix is not mostly zeros


def normalized_log_mel(
    waveform: Float[np.ndarray, "channels n"], frames: int = 204
) -> Float[np.ndarray, "128 frames 1"]:
    """The normalised log-mel of one clip at 16 kHz, cut or padded to `frames`."""
    return normalise(padded_log_mel(waveform, frames))


def padded_log_mel(
    waveform: Float[np.ndarray, "channels n"], frames: int = 204
) -> Float[np.ndarray, "128 frames"]:
    """The log-mel of one clip at 16 kHz, cut to `frames` or padded with 0.

    The mean over all channels is removed, then the first channel alone is used, as Kaldi does.
    """
    mel = log_mel(waveform[0] - waveform.mean())[:, :frames]
    return np.pad(mel, ((0, 0), (0, frames - mel.shape[1])))


def mask_bands(mel: Float[np.ndarray, "128 frames"], most: int, rng: np.random.Generator) -> None:
    """Sets up to `most` neighbouring bands to 0, in place: SpecAugment's frequency masking.

    The width is drawn uniformly from 0 to `most`, then the place among those where it fits. Before
    normalising, as AST and torchaudio do: 0 is 0.467 after it, louder than the mean.
    """
    width = int(rng.integers(most + 1))
    low = int(rng.integers(BANDS - width + 1))
    mel[low : low + width] = 0


def normalise(mel: Float[np.ndarray, "128 frames"]) -> Float[np.ndarray, "128 frames 1"]:
    """AudioSet's mean and spread out of it; padding becomes 0.467 and not 0."""
    return ((mel - np.float32(MEAN)) / np.float32(STD))[..., None]


def log_mel(waveform: Float[np.ndarray, "n"]) -> Float[np.ndarray, "128 frames"]:
    """Kaldi's filterbank features of 16 kHz samples in [-1, 1], low bands first.

    25 ms Hann windows every 10 ms, each without its mean and pre-emphasised; power spectrum;
    natural logarithm. Only whole windows count, 1 + (n - 400) // 160 frames: 198 for 2 s;
    fewer than 400 samples are zero-padded to one window.
    """
    waveform = np.asarray(waveform, np.float32)
    if len(waveform) < WINDOW:
        waveform = np.pad(waveform, (0, WINDOW - len(waveform)))
    windows = np.lib.stride_tricks.sliding_window_view(waveform, WINDOW)[::SHIFT]
    windows = windows - windows.mean(axis=-1, keepdims=True)
    padded = np.zeros((len(windows), FFT), np.float32)
    emphasised = padded[:, :WINDOW]
    np.multiply(windows[:, :-1], np.float32(-PREEMPHASIS), out=emphasised[:, 1:])
    emphasised[:, 0] = windows[:, 0] * np.float32(-PREEMPHASIS)  # before the first: the first
    emphasised += windows
    emphasised *= _hann()
    spectrum = scipy.fft.rfft(padded, axis=-1)
    power = np.square(spectrum.real)
    power += np.square(spectrum.imag)
    mel = np.empty((BANDS, len(windows)), np.float32)
    for bands, bins, weights in _mel_bank():
        np.matmul(weights, power[:, bins].T, out=mel[bands])
    return np.log(np.maximum(mel, FLOOR, out=mel), out=mel)


@functools.cache
def _hann() -> Float[np.ndarray, "400"]:
    return np.hanning(WINDOW).astype(np.float32)


@functools.cache
def _mel_bank() -> list[tuple[slice, slice, np.ndarray]]:
    """For groups of bands: the bands, the FFT bins they hold, weights [band, bin].

    Triangles that are linear in mel, as Kaldi's; librosa's are linear in Hz. The lowest bands hold
    no FFT bin at all and stay at the floor, here as there.
    """
    low, high = _mel(LOW_HZ), _mel(RATE / 2)
    edges = np.linspace(low, high, BANDS + 2)
    step = (high - low) / (BANDS + 1)
    bins = _mel(np.arange(FFT // 2 + 1) * RATE / FFT)
    up, down = (bins - edges[:-2, None]) / step, (edges[2:, None] - bins) / step
    bank = np.maximum(np.minimum(up, down), 0)
    bank[:, -1] = 0  # Kaldi leaves the Nyquist bin out
    groups = []
    for first in range(0, BANDS, TOGETHER):
        weights = bank[first : first + TOGETHER].astype(np.float32)
        used = np.flatnonzero(weights.any(axis=0))
        held = slice(used[0], used[-1] + 1)
        groups.append(
            (slice(first, first + TOGETHER), held, np.ascontiguousarray(weights[:, held]))
        )
    return groups


def _mel(hertz):
    return 1127.0 * np.log1p(hertz / 700.0)
