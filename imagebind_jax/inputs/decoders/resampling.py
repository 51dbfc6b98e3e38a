"""Resampling as torchaudio does it: Hann-windowed sinc interpolation between any two rates."""

import functools
import math

import numpy as np
from jaxtyping import Float

RATE = 16_000  # Hz, of every spectrogram
ZERO_CROSSINGS, ROLLOFF = 6, 0.99  # torchaudio's default resampler
PHASES = 32  # output phases at once: faster than one by one and than all together


def resample(
    waveform: Float[np.ndarray, "*channels n"], rate: int, target: int = RATE
) -> Float[np.ndarray, "*channels m"]:
    """Hann-windowed sinc interpolation from `rate` to `target` Hz; m = ceil(n * target / rate).

    torchaudio's default filter: 6 zero crossings, cut-off at 0.99 of the lower Nyquist rate.
    """
    if rate == target:
        return waveform
    old, new = reduced_rates(rate, target)
    length = -(-waveform.shape[-1] * new // old)
    kernels = _kept_kernels(old, new) if new <= 1000 else _last_kernels(old, new)
    before, repeat = filter_support(old, new), _repeat(new)
    old, new = old * repeat, new * repeat
    blocks = -(-length // new)  # of `old` inputs and `new` outputs, where the phases repeat
    after = max((blocks + 1) * old + before + 2 - waveform.shape[-1], 0)
    padding = [(0, 0)] * (waveform.ndim - 1) + [(before, after)]
    padded = np.pad(np.asarray(waveform, np.float32, order="C"), padding)
    output = np.empty((*waveform.shape[:-1], blocks, new), np.float32)
    for phases, start, kernel in kernels:
        inputs = np.lib.stride_tricks.sliding_window_view(padded, len(kernel), axis=-1)
        output[..., phases] = inputs[..., start::old, :][..., :blocks, :] @ kernel
    return output.reshape(*waveform.shape[:-1], blocks * new)[..., :length]


def reduced_rates(rate: int, target: int = RATE) -> tuple[int, int]:
    """After how many input and output samples the two rates' instants coincide again."""
    divisor = math.gcd(rate, target)
    return rate // divisor, target // divisor


def filter_support(old: int, new: int) -> int:
    """Input samples on each side that an output sample can feel."""
    return math.ceil(ZERO_CROSSINGS * old / (min(old, new) * ROLLOFF))


def _repeat(new: int) -> int:
    """Periods to a block: windows longer than their distance would keep numpy from using BLAS."""
    return -(-2 * PHASES // new)


def _kernels(old: int, new: int) -> list[tuple[slice, int, np.ndarray]]:
    """For groups of output phases: the phases, the first input they need, kernel [input, phase].

    Each phase feels few inputs, so one dense kernel for all of them would be mostly zeros: twice
    as slow at 44.1 kHz, and 3 GB for a file that claims a rate of 47,999 Hz.
    """
    half, cutoff, kernels = filter_support(old, new), min(old, new) * ROLLOFF, []
    total = new * _repeat(new)
    for first in range(0, total, PHASES):
        phases = np.arange(first, min(first + PHASES, total))
        start = first * old // new
        inputs = np.arange(start - half, phases[-1] * old // new + half + 2)[:, None]
        period, phase = np.divmod(phases, new)
        # In float32 like torchaudio's: exact times would differ from it by 1.5e-5 at 22.05 kHz.
        t = (inputs - period * old).astype(np.float32) / np.float32(old)
        t -= phase.astype(np.float32) / np.float32(new)
        t = np.clip(t * np.float32(cutoff), -ZERO_CROSSINGS, ZERO_CROSSINGS)
        window = np.cos(t * np.float32(np.pi / 2 / ZERO_CROSSINGS)) ** 2
        kernel = np.sinc(t) * window * np.float32(cutoff / old)
        kernels.append((slice(first, first + len(phases)), start, kernel))
    return kernels


_kept_kernels = functools.lru_cache(maxsize=16)(_kernels)
_last_kernels = functools.lru_cache(maxsize=1)(_kernels)  # odd rates: up to 130 MB each
