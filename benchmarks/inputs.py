"""Making model inputs: calls a second on one core, as ratios to what others make in the same run.

    python benchmarks/inputs.py [--only WORD ...] [--rounds 15]

One process, one thread. The contestants of a row take turns, so that a slow minute is everybody's;
a row's ratio is the median over the turns of other / ours, both in seconds. torchaudio is timed
where it is installed (it is not needed), on one thread as well. feeding.py has the whole host path
of each pair, and how many cores feed a TPU's host and a GPU.
"""

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

# ruff: noqa: E402
import argparse
import dataclasses
import io
import statistics
import time
from collections.abc import Callable

import numpy as np
import pictures

from imagebind_jax.inputs.decoders import audio_files, resampling
from imagebind_jax.inputs.transforms import audio

Call = Callable[[], object]
TURN = 0.03  # seconds that a contestant has at a time, at least one call


@dataclasses.dataclass(frozen=True)
class Row:
    """What is timed. `make` returns ours and another one's, or None where that is not installed."""

    name: str
    make: Callable[[], tuple[Call, Call | None]]
    other: str = ""
    ratio: float | None = None  # goal: times as fast as the other
    rate: float | None = None  # goal: calls a second


# ---- audio


def noise(channels: int, rate: int, seconds: float) -> np.ndarray:
    samples = np.random.default_rng(0).normal(0, 0.1, (channels, int(rate * seconds)))
    return samples.astype(np.float32)


def torch():
    """torch on one thread and torchaudio, or None."""
    try:
        import torch
        import torchaudio
        import torchaudio.compliance.kaldi
    except (ImportError, OSError):
        return None
    torch.set_num_threads(1)
    return torch, torchaudio


def log_mel_by_torchaudio() -> tuple[Call, Call | None]:
    waveform = noise(1, 16_000, 2)
    found = torch()
    if found is None:
        return lambda: audio.log_mel(waveform[0]), None
    tensor, fbank = found[0].from_numpy(waveform), found[1].compliance.kaldi.fbank
    options = {"num_mel_bins": 128, "window_type": "hanning", "htk_compat": True, "dither": 0.0}
    return lambda: audio.log_mel(waveform[0]), lambda: fbank(tensor, **options)


def log_mel_by_definition() -> tuple[Call, Call]:
    """Against the formulas written down in float64 with nothing but numpy, one matrix for the bank."""
    waveform = noise(1, 16_000, 2)[0]
    edges = np.linspace(31.7486, 2840.0377, 130)  # mel of 20 and 8000 Hz
    bins = 1127 * np.log1p(np.arange(257) * 31.25 / 700)
    bank = np.stack([np.interp(bins, edges[i : i + 3], [0, 1, 0]) for i in range(128)])

    def plain() -> np.ndarray:
        windows = np.stack([waveform[i : i + 400] for i in range(0, len(waveform) - 399, 160)])
        windows = windows.astype(np.float64)
        windows -= windows.mean(axis=1, keepdims=True)
        windows = windows - 0.97 * np.concatenate([windows[:, :1], windows[:, :-1]], axis=1)
        power = np.abs(np.fft.rfft(windows * np.hanning(400), 512)) ** 2
        return np.log(np.maximum(bank @ power.T, 1.1920929e-07)).astype(np.float32)

    assert np.abs(plain() - audio.log_mel(waveform)).max() < 1e-3
    return lambda: audio.log_mel(waveform), plain


def resample(rate: int) -> Callable[[], tuple[Call, Call | None]]:
    def make() -> tuple[Call, Call | None]:
        waveform = noise(2, rate, 2)
        found = torch()
        if found is None:
            return lambda: resampling.resample(waveform, rate), None
        tensor, theirs = found[0].from_numpy(waveform), found[1].functional.resample
        return lambda: resampling.resample(waveform, rate), lambda: theirs(tensor, rate, 16_000)

    return make


def file(kind: str, rate: int = 44_100) -> bytes:
    """Ten seconds of stereo noise: the hardest to decode."""
    import soundfile

    encoded = io.BytesIO()
    soundfile.write(encoded, noise(2, rate, 10).T, rate, format=kind)
    return encoded.getvalue()


def m4a() -> bytes:
    import av

    encoded = io.BytesIO()
    with av.open(encoded, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=44_100, layout="stereo")
        frame = av.AudioFrame.from_ndarray(noise(2, 44_100, 10), format="fltp", layout="stereo")
        frame.sample_rate = 44_100
        container.mux(stream.encode(frame) + stream.encode(None))
    return encoded.getvalue()


def clip(make: Callable[[], bytes]) -> Callable[[], tuple[Call, None]]:
    def of() -> tuple[Call, None]:
        record = {"audio": make()}
        return lambda: audio.LogMel()(record, None), None

    return of


def parts() -> tuple[Call, Call]:
    """A clip from the middle of a file against all of the file."""
    encoded = file("FLAC")
    part = lambda: audio_files.read_audio(encoded, 4.0, 2.0)  # noqa: E731
    return part, lambda: audio_files.read_audio(encoded)


FBANK = "torchaudio fbank"
AUDIO = (
    Row("audio: 2 s to log-mel", log_mel_by_torchaudio, FBANK, ratio=1.5),
    Row("audio: 2 s to log-mel", log_mel_by_definition, "plain numpy, float64"),
    Row("audio: 2 s stereo, 44.1 to 16 kHz", resample(44_100), "torchaudio resample"),
    Row("audio: 2 s stereo, 48 to 16 kHz", resample(48_000), "torchaudio resample"),
    Row("audio: 2 s of a 10 s FLAC", parts, "reading all of it"),
    Row("audio: 10 s FLAC to a clip's log-mel", clip(lambda: file("FLAC")), rate=150),
    Row("audio: 10 s WAV to a clip's log-mel", clip(lambda: file("WAV"))),
    Row("audio: 10 s MP3 to a clip's log-mel", clip(lambda: file("MP3"))),
    Row("audio: 10 s Ogg Vorbis to a clip's log-mel", clip(lambda: file("OGG"))),
    Row("audio: 10 s M4A to a clip's log-mel", clip(m4a)),
)
BY_ONE = "Pillow, one by one"
IMAGES = (
    Row("image: JPEG 500 x 375 to augmented crop", pictures.augmented(500, 375), BY_ONE, rate=200),
    Row("image: JPEG 2000 x 1500 to augmented crop", pictures.augmented(2000, 1500), BY_ONE),
    Row("image: JPEG 500 x 375, evaluation form", pictures.evaluated(500, 375)),
    Row("image: JPEG 2000 x 1500, evaluation form", pictures.evaluated(2000, 1500)),
)

ROWS = (*AUDIO, *IMAGES)


def turn(call: Call) -> float:
    """Seconds a call."""
    begun, calls = time.perf_counter(), 0
    while calls == 0 or time.perf_counter() - begun < TURN:
        call()
        calls += 1
    return (time.perf_counter() - begun) / calls


def measured(row: Row, rounds: int) -> str:
    """The row's line of the table."""
    ours, theirs = row.make()
    contestants = [call for call in (ours, theirs) if call]
    for call in contestants:
        call()
    times = [[turn(call) for call in contestants] for _ in range(rounds)]
    rate = 1 / statistics.median(seconds[0] for seconds in times)
    cells = [row.name, f"{rate:,.0f}", row.other, "", "", ""]
    if theirs:
        ratios = sorted(seconds[1] / seconds[0] for seconds in times)
        cells[3] = f"{1 / statistics.median(seconds[1] for seconds in times):,.0f}"
        cells[4] = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    elif row.other:
        cells[3] = "not installed"
    if row.ratio:
        cells[5] = f"ratio {row.ratio:g}"
    if row.rate:
        cells[5] = f"{row.rate:g} a second"
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[""], help="rows with one of these words")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    print(
        "| what | ours, a second | other | other, a second | ratio (smallest to largest) | goal |"
    )
    print("|---|---|---|---|---|---|")
    for row in ROWS:
        if any(word in f"{row.name} {row.other}" for word in options.only):
            print(measured(row, options.rounds), flush=True)


if __name__ == "__main__":
    main()
