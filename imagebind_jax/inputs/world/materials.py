"""How materials look: linear colour and gloss at points in their own frame."""

import numpy as np
from jaxtyping import Float

Points = Float[np.ndarray, "3 n"]

# Highlight strength, its exponent, mirror reflection seen head-on, and at grazing angles.
GLOSS = {
    "wood": (0.10, 12, 0.00, 0.08),
    "metal": (1.40, 40, 0.25, 0.60),
    "glass": (1.50, 160, 0.08, 0.90),
    "rubber": (0.06, 6, 0.00, 0.05),
    "stone": (0.00, 1, 0.00, 0.00),
    "ceramic": (0.90, 90, 0.05, 0.35),
    "plastic": (0.45, 30, 0.03, 0.20),
    "ice": (0.70, 40, 0.10, 0.50),
    "plaster": (0.00, 1, 0.00, 0.00),
    "brick": (0.00, 1, 0.00, 0.00),
}


def albedo(look: str, point: Points, color: tuple, phase: tuple) -> Points:
    """Linear colour at points in the object's own frame.

    `color` (three numbers in 0..1) and `phase` (three angles) make one piece differ from another
    of the same look.
    """
    return _TEXTURES[look](point, np.array(color, np.float32)[:, None], phase)


def _wood(p, color, phase):
    # Growth rings about a slightly tilted axis, bent by slow waves, with fine grain across.
    bend = 0.05 * _waves(p, 4.0, phase)
    ring = np.sqrt((p[0] + 0.25 + bend) ** 2 + (p[1] + 0.1 * p[2] + 0.12) ** 2)
    grain = 0.5 + 0.5 * np.sin(ring * (44 + 12 * color[0, 0]) + phase[0])
    fine = 0.06 * np.sin(p[2] * 9 + 70 * p[0] + 55 * p[1])
    mix = np.clip(grain * grain + fine, 0, 1)
    return _lerp((0.46, 0.23, 0.08), (0.22, 0.085, 0.025), mix) * (0.85 + 0.35 * color[1, 0])


def _metal(p, color, phase):
    # Brushed brass: bright and dark streaks, the broad ones as if it mirrored a room.
    streak = 0.25 * np.sin(5 * p[2] + 4 * (p[0] + p[1]) + phase[0]) + 0.12 * np.sin(61 * p[2])
    base = np.array([0.62, 0.43, 0.08], np.float32)[:, None] + 0.05 * (color - 0.5)
    return base * (1 + streak + 0.08 * np.sin(140 * p[2] + phase[1]))


def _glass(p, color, phase):
    base = np.array([0.02, 0.16, 0.10], np.float32)[:, None]
    return np.broadcast_to(base * (0.8 + 0.4 * color[0, 0]), p.shape)


def _rubber(p, color, phase):
    # Dark, with moulded grooves.
    groove = 1 - 0.55 * (np.sin(28 * p[2] + phase[0]) > 0.75)
    return (np.array([0.026, 0.024, 0.028], np.float32)[:, None] * (0.7 + 0.6 * color)) * groove


def _stone(p, color, phase):
    cloud, fleck = _waves(p, 7.0, phase), _waves(p, 31.0, phase[::-1]) + _waves(p, 47.0, phase)
    level = 0.18 + 0.06 * color[0, 0] + 0.05 * cloud
    level = level * np.where(fleck > 1.0, 1.5, np.where(fleck < -1.0, 0.4, 1.0))
    tint = np.array([1.05, 1.0, 0.92], np.float32)[:, None]
    return tint * np.clip(level, 0.02, 0.8)


def _ceramic(p, color, phase):
    # White glaze with cobalt bands.
    height = p[2] + 0.03 * np.sin(9 * p[0] + phase[0]) + 0.03 * np.sin(9 * p[1] + phase[1])
    band = np.sin(height * 12 + phase[2]) > 0.35
    return np.where(band, _shade(0.03, 0.06, 0.36 + 0.1 * color[0, 0]), _shade(0.82, 0.80, 0.74))


def _plastic(p, color, phase):
    # A toy's colour, between red and magenta.
    shade = _shade(0.85, 0.02, 0.03 + 0.5 * color[0, 0]) * (0.8 + 0.2 * color[1, 0])
    return np.broadcast_to(shade, p.shape)


def _ice(p, color, phase):
    # Pale blue, with white cracks where slow waves cross zero.
    crack = np.abs(_waves(p, 6.0, phase)) < 0.09
    cloud = 0.5 + 0.25 * _waves(p, 3.0, phase[::-1])
    return np.where(
        crack, _shade(0.95, 0.98, 1.0), _lerp((0.22, 0.55, 0.85), (0.48, 0.80, 0.96), cloud)
    )


def _plaster(p, color, phase):
    return np.broadcast_to(color * color, p.shape)


def _brick(p, color, phase):
    row = np.floor(p[2] / 0.22)
    across = p[0] / 0.5 + 0.5 * (row % 2)
    joint = (p[2] / 0.22 - row < 0.1) | (across - np.floor(across) < 0.05)
    tone = 0.9 + 0.12 * np.sin(12.9 * np.floor(across) + 78.2 * row)
    return color * color * np.where(joint, 0.7, tone)


_TEXTURES = {
    "wood": _wood,
    "metal": _metal,
    "glass": _glass,
    "rubber": _rubber,
    "stone": _stone,
    "ceramic": _ceramic,
    "plastic": _plastic,
    "ice": _ice,
    "plaster": _plaster,
    "brick": _brick,
}

_DIRECTIONS = ((0.8, 0.36, 0.48), (-0.6, 0.64, 0.48), (0.1, -0.7, 0.71), (0.55, 0.8, -0.24))


def _waves(p: Points, frequency: float, phase: tuple) -> Float[np.ndarray, " n"]:
    """A cheap smooth noise of about -1.5..1.5: plane waves whose phases bend each other."""
    total = np.zeros(p.shape[1], np.float32)
    for k, (x, y, z) in enumerate(_DIRECTIONS):
        f = np.float32(frequency * (1 + 0.23 * k))
        total = total + np.sin(f * (x * p[0] + y * p[1] + z * p[2]) + phase[k % 3] + 1.3 * total)
    return total / 2


def _lerp(one: tuple, two: tuple, mix: Float[np.ndarray, " n"]) -> Points:
    return _shade(*one) + (_shade(*two) - _shade(*one)) * mix


def _shade(red, green, blue) -> Float[np.ndarray, "3 1"]:
    return np.array([red, green, blue], np.float32).reshape(3, 1)
