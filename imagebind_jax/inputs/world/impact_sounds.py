"""Modal synthesis of strikes: material sets partials, decay, attack; shape and size set pitch."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

RATE, SECONDS = 16_000, 2.0

# How high each shape rings, relative to a plain block of the same size.
SHAPE_PITCH = {
    "sphere": 1.0,
    "cube": 0.92,
    "cylinder": 1.1,
    "cone": 1.2,
    "ring": 0.8,
    "cross": 0.86,
    "stairs": 0.75,
    "arch": 0.97,
}


@dataclass(frozen=True)
class ImpactSound:
    """How a struck material sounds."""

    pitch: float  # Hz of the lowest partial of a plain block of 1 m
    ratios: tuple[float, ...]  # partials over the lowest
    decay: float  # seconds in which the lowest partial falls to 1/e
    damping: float  # decay of a partial ~ ratio ** -damping
    tilt: float  # level of a partial ~ ratio ** -tilt
    noise: float  # level of the attack noise
    noise_decay: float  # seconds
    noise_cut: float  # its smoothing: 0 bright, towards 1 dull
    glide: float = 0.0  # relative pitch drop over the first 0.1 s
    strikes: tuple[int, int] = (1, 3)  # fewest, most


VOICES = {
    "wood": ImpactSound(330.0, (1.0, 2.57, 4.2, 6.4), 0.055, 0.6, 0.9, 0.35, 0.008, 0.6),
    "metal": ImpactSound(
        390.0, (1.0, 2.756, 5.404, 8.933, 13.34), 0.9, 0.5, 0.35, 0.10, 0.004, 0.0
    ),
    "glass": ImpactSound(1150.0, (1.0, 2.32, 4.25, 6.2), 0.30, 0.4, 0.5, 0.15, 0.003, 0.0),
    "rubber": ImpactSound(92.0, (1.0, 1.51), 0.085, 0.5, 1.2, 0.10, 0.02, 0.95, glide=0.45),
    "stone": ImpactSound(1450.0, (1.0, 1.37, 1.83, 2.45, 3.1), 0.014, 0.3, 0.2, 1.0, 0.012, 0.2),
    "ceramic": ImpactSound(760.0, (1.0, 1.58, 2.24, 3.55, 5.1), 0.12, 0.7, 0.3, 0.30, 0.006, 0.1),
    "plastic": ImpactSound(
        210.0, (1.0, 2.0, 3.0, 4.0, 5.0, 6.0), 0.035, 0.3, 0.25, 0.45, 0.025, 0.75
    ),
    "ice": ImpactSound(
        2300.0, (1.0, 1.19, 1.61), 0.05, 0.2, 0.2, 0.9, 0.003, 0.0, glide=0.6, strikes=(4, 7)
    ),
}


def synthesize(
    shape: str, material: str, scale: float, rng: np.random.Generator
) -> Float[np.ndarray, "32000"]:
    """Strikes on an object of `scale` metres, recorded for 2 s at 16 kHz; samples in -1..1."""
    voice = VOICES[material]
    samples = int(RATE * SECONDS)
    pitch = voice.pitch * SHAPE_PITCH[shape] / scale * rng.uniform(0.94, 1.06)
    decay = voice.decay * rng.uniform(0.8, 1.25)
    strikes = int(rng.integers(voice.strikes[0], voice.strikes[1] + 1))
    sound = np.zeros(samples, np.float32)
    ring = _strike(voice, pitch, decay, rng)
    onset = rng.uniform(0.05, 0.5)
    for _ in range(strikes):
        start = int(onset * RATE)
        if start >= samples:
            break
        end = min(start + len(ring), samples)
        sound[start:end] += np.float32(rng.uniform(0.4, 1.0)) * ring[: end - start]
        onset += rng.uniform(0.09, 0.22) if voice.strikes[0] > 1 else rng.uniform(0.25, 0.7)
    sound *= np.float32(rng.uniform(0.25, 0.8) / np.abs(sound).max())
    hiss = rng.standard_normal(samples, dtype=np.float32)
    hum = np.sin(np.arange(samples, dtype=np.float32) * np.float32(6.2832 * 50 / RATE))
    hiss_level, hum_level = 10 ** rng.uniform(-3.5, -2.3), 10 ** rng.uniform(-4, -2.3)
    sound += np.float32(hiss_level) * hiss + np.float32(hum_level) * hum
    return np.clip(sound, -1, 1)


def _strike(voice: ImpactSound, pitch: float, decay: float, rng: np.random.Generator):
    """One strike at full level, as long as it is audible."""
    length = int(RATE * min(SECONDS, 7 * max(decay, voice.noise_decay)))
    time = np.arange(length) / RATE
    # Integrated frequency: the pitch sinks by `glide` with a time constant of 50 ms.
    turns = time if voice.glide == 0 else (
        time * (1 - voice.glide) + voice.glide * 0.05 * (1 - np.exp(-time / 0.05))
    )  # fmt: skip
    ring = np.zeros(length, np.float32)
    for ratio in voice.ratios:
        frequency = pitch * ratio * rng.uniform(0.99, 1.01)
        level, phase = rng.uniform(0.6, 1.2) * ratio**-voice.tilt, rng.uniform(0, 1)
        if frequency > 0.47 * RATE:
            continue
        cycle = frequency * turns + phase
        cycle = (cycle - np.floor(cycle)).astype(np.float32)  # float32 would lose a long phase
        fade = np.exp(time.astype(np.float32) * np.float32(-(ratio**voice.damping) / decay))
        ring += np.float32(level) * fade * np.sin(np.float32(2 * np.pi) * cycle)
    ring /= np.float32(len(voice.ratios)) ** 0.5
    burst = min(length, int(7 * voice.noise_decay * RATE))
    noise = rng.standard_normal(burst, dtype=np.float32)
    if voice.noise_cut > 0:
        taps = (voice.noise_cut ** np.arange(24)).astype(np.float32)
        noise = np.convolve(noise, taps / np.sqrt((taps * taps).sum()))[:burst]
    noise *= np.exp(np.arange(burst, dtype=np.float32) * np.float32(-1 / voice.noise_decay / RATE))
    ring[:burst] += np.float32(voice.noise) * noise
    return ring
