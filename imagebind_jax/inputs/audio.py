"""Audio: a recording to clips of 128-band log-mel, as Kaldi and torchaudio compute it."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import scipy.fft
import soundfile
from jaxtyping import Float

from imagebind_jax.inputs.media import Source, decoding, open_source

RATE = 16_000  # Hz, of every spectrogram
MEAN, STD = -4.268, 9.138  # AudioSet log-mel: AST's mean and twice its standard deviation
WINDOW, SHIFT, FFT = 400, 160, 512  # samples: 25 ms, 10 ms, the next power of two
BANDS, LOW_HZ = 128, 20.0
PREEMPHASIS = 0.97
FLOOR = np.float32(1.1920929e-07)  # float32 epsilon, Kaldi's floor before the logarithm
ZERO_CROSSINGS, ROLLOFF = 6, 0.99  # torchaudio's default resampler
PHASES = 32  # of the resampler at once: faster than one by one and than all together
MAX_SAMPLES = 100_000_000  # 400 MB: an hour of silence is a FLAC of 188 KB


def audio_clips(
    source: Source, clips: int = 3, seconds: float = 2.0, frames: int = 204
) -> Float[np.ndarray, "clips 128 frames 1"]:
    """`clips` model inputs, spread uniformly over a recording (evaluation; the reference: 3)."""
    starts = clip_starts(duration(source), seconds, clips)
    return np.stack([audio_input(read_clip(source, t, seconds), frames) for t in starts])


def clip_starts(duration: float, seconds: float, count: int) -> list[Fraction]:
    """Starts in seconds: the first clip at 0, the last ending with the recording; exact.

    A recording no longer than `seconds` gives `count` equal starts. Fractions, because a start
    that float rounding moves by one sample changes the spectrogram of noise visibly.
    """
    last = Fraction(max(duration - seconds, 0))
    return [last * i / max(count - 1, 1) for i in range(count)]


def audio_input(
    waveform: Float[np.ndarray, "channels n"], frames: int = 204
) -> Float[np.ndarray, "128 frames 1"]:
    """The normalised log-mel of one clip at 16 kHz, cut or padded to `frames`.

    The mean over all channels is removed, then the first channel alone is used, as Kaldi does.
    Padding is 0 before normalising, so it becomes 0.467 and not 0.
    """
    mel = log_mel(waveform[0] - waveform.mean())[:, :frames]
    mel = np.pad(mel, ((0, 0), (0, frames - mel.shape[1])))
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
    power = np.square(spectrum.real) + np.square(spectrum.imag)
    return np.log(np.maximum(_mel_bank() @ power.T, FLOOR))


@functools.cache
def _hann() -> Float[np.ndarray, "400"]:
    return np.hanning(WINDOW).astype(np.float32)


@functools.cache
def _mel_bank() -> Float[np.ndarray, "128 257"]:
    """Triangles that are linear in mel, as Kaldi's; librosa's are linear in Hz.

    The lowest bands hold no FFT bin at all and stay at the floor, here as there.
    """
    low, high = _mel(LOW_HZ), _mel(RATE / 2)
    edges = np.linspace(low, high, BANDS + 2)
    step = (high - low) / (BANDS + 1)
    bins = _mel(np.arange(FFT // 2 + 1) * RATE / FFT)
    up, down = (bins - edges[:-2, None]) / step, (edges[2:, None] - bins) / step
    bank = np.maximum(np.minimum(up, down), 0)
    bank[:, -1] = 0  # Kaldi leaves the Nyquist bin out
    return bank.astype(np.float32)


def _mel(hertz):
    return 1127.0 * np.log1p(hertz / 700.0)


def resample(
    waveform: Float[np.ndarray, "*channels n"], rate: int, target: int = RATE
) -> Float[np.ndarray, "*channels m"]:
    """Hann-windowed sinc interpolation from `rate` to `target` Hz; m = ceil(n * target / rate).

    torchaudio's default filter: 6 zero crossings, cut-off at 0.99 of the lower Nyquist rate.
    """
    if rate == target:
        return waveform
    old, new = _reduced(rate, target)
    length = -(-waveform.shape[-1] * new // old)
    blocks = -(-length // new)  # of `old` inputs and `new` outputs, where the phases repeat
    before = _half_width(old, new)
    after = max((blocks + 1) * old + before + 2 - waveform.shape[-1], 0)
    padding = [(0, 0)] * (waveform.ndim - 1) + [(before, after)]
    padded = np.pad(np.asarray(waveform, np.float32, order="C"), padding)
    output = np.empty((*waveform.shape[:-1], blocks, new), np.float32)
    for phases, start, kernel in _sinc_kernels(old, new):
        inputs = np.lib.stride_tricks.sliding_window_view(padded, len(kernel), axis=-1)
        output[..., phases] = inputs[..., start::old, :][..., :blocks, :] @ kernel
    return output.reshape(*waveform.shape[:-1], blocks * new)[..., :length]


def _reduced(rate: int, target: int) -> tuple[int, int]:
    divisor = math.gcd(rate, target)
    return rate // divisor, target // divisor


def _half_width(old: int, new: int) -> int:
    """Input samples on each side that an output sample can feel."""
    return math.ceil(ZERO_CROSSINGS * old / (min(old, new) * ROLLOFF))


@functools.lru_cache(maxsize=16)
def _sinc_kernels(old: int, new: int) -> list[tuple[slice, int, np.ndarray]]:
    """For groups of output phases: the phases, the first input they need, kernel [input, phase].

    Each phase feels few inputs, so one dense kernel for all of them would be mostly zeros: twice
    as slow at 44.1 kHz, and 3 GB for a file that claims a rate of 47,999 Hz.
    """
    half, cutoff, kernels = _half_width(old, new), min(old, new) * ROLLOFF, []
    for first in range(0, new, PHASES):
        phase = np.arange(first, min(first + PHASES, new))
        start = first * old // new
        inputs = np.arange(start - half, phase[-1] * old // new + half + 2)[:, None]
        # In float32 like torchaudio's: exact times would differ from it by 1.5e-5 at 22.05 kHz.
        t = inputs.astype(np.float32) / np.float32(old) - phase.astype(np.float32) / np.float32(new)
        t = np.clip(t * np.float32(cutoff), -ZERO_CROSSINGS, ZERO_CROSSINGS)
        window = np.cos(t * np.float32(np.pi / 2 / ZERO_CROSSINGS)) ** 2
        kernel = np.sinc(t) * window * np.float32(cutoff / old)
        kernels.append((slice(first, first + len(phase)), start, kernel))
    return kernels


def read_audio(
    source: Source, start: float = 0.0, seconds: float | None = None
) -> tuple[Float[np.ndarray, "channels n"], int]:
    """Samples in [-1, 1] from `start` on (at most `seconds`), and their rate in Hz.

    Decodes no more than was asked for. WAV, FLAC, OGG, MP3. Raises `MediaError`.
    """
    with decoding(source), open_source(source) as file, soundfile.SoundFile(file) as sound:
        first = round(start * sound.samplerate)
        last = sound.frames if seconds is None else first + round(seconds * sound.samplerate)
        return _read(sound, first, last), sound.samplerate


def duration(source: Source) -> float:
    """Seconds of the recording, counted in samples at 16 kHz as the reference counts them."""
    with decoding(source), open_source(source) as file, soundfile.SoundFile(file) as sound:
        old, new = _reduced(sound.samplerate, RATE)
        return -(-sound.frames * new // old) / RATE


def read_clip(
    source: Source, start: float | Fraction, seconds: float = 2.0
) -> Float[np.ndarray, "channels n"]:
    """The samples of [start, start + seconds) at 16 kHz.

    Equal to resampling all of the recording and slicing, but only the clip is decoded, together
    with what its resampling filter reaches. Shorter where the recording ends. Raises `MediaError`.
    """
    first, last = int(start * RATE), int((start + seconds) * RATE)
    with decoding(source), open_source(source) as file, soundfile.SoundFile(file) as sound:
        old, new = _reduced(sound.samplerate, RATE)
        reach = _half_width(old, new) + 1
        block = max(first // new - -(-reach // old), 0)  # the filter's phases repeat every `old`
        end = -(-last * old // new) + reach
        waveform = resample(_read(sound, block * old, end), sound.samplerate)
        return waveform[:, first - block * new : last - block * new]


def _read(sound: soundfile.SoundFile, first: int, last: int) -> np.ndarray:
    if not (1_000 <= sound.samplerate <= 768_000 and sound.channels <= 32):
        raise ValueError(f"{sound.channels} channels at {sound.samplerate} Hz are not a recording")
    last = min(last, sound.frames)
    if first >= last:
        raise ValueError(f"no samples in [{first}, {last}) of {sound.frames}")
    if (last - first) * sound.channels > MAX_SAMPLES:
        raise ValueError(f"{last - first} samples at once: read shorter pieces with seconds=")
    sound.seek(first)
    waveform = sound.read(last - first, dtype="float32", always_2d=True).T
    # Float files hold anything; up to 2^31 (unscaled integers) the power spectrum stays finite.
    if waveform.size == 0 or not np.abs(waveform).max() <= 2.0**31:
        raise ValueError("samples are missing, not finite or beyond 2^31")
    return waveform


@dataclasses.dataclass(frozen=True)
class LogMel:
    """record["audio"], an encoded recording, to one clip [128, frames, 1].

    With rng the clip starts anywhere in the recording, without it the clip is the centre one.
    """

    seconds: float = 2.0
    frames: int = 204

    def __call__(
        self, record: Mapping[str, Any], rng: np.random.Generator | None
    ) -> Float[np.ndarray, "128 frames 1"]:
        source = record["audio"]
        slack = max(duration(source) - self.seconds, 0.0)
        start = slack * (0.5 if rng is None else rng.random())
        return audio_input(read_clip(source, start, self.seconds), self.frames)
