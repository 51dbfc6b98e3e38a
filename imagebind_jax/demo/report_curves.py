"""How it was learned: the losses of a run as curves."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from imagebind_jax.reports.html import section_html, svg_path


def loss_section_html(results: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> str:
    lines: dict[str, tuple[list, list]] = {}
    for line in history:
        if "pair" in line and np.isfinite(line.get("loss", np.nan)):
            steps, values = lines.setdefault(line["pair"], ([], []))
            steps.append(line["step"])
            values.append(line["loss"])
    if not lines:
        return ""
    chart = curves_svg(lines, results.get("chance_loss"))
    return section_html(
        "training",
        "How it was learned",
        """Each step trains one pair: every clip of a batch has to find its partner in the other
modality, and the other way round (symmetric InfoNCE, smoothed here; the batches themselves are
the pale lines). At the dashed line nothing is known yet. A modality that tells less about the
scene must stay higher.""",
        f'<div class="scroll" tabindex="0">{chart}</div>',
    )


def curves_svg(
    lines: Mapping[str, tuple[Sequence[int], Sequence[float | int]]],
    level: float | int | None = None,
    level_name: str = "chance",
) -> str:
    """Smoothed curves {name: (steps, values)} as an SVG with the names at their ends.

    A dashed line is drawn at `level`. A curve's class is the last part of its name: vision+audio
    is drawn in the colour of audio.
    """
    width, height, left, right, top, bottom = 1030, 380, 34, 170, 16, 38
    smooth = {name: _smoothed(values) for name, (_, values) in lines.items()}
    last = max(max(steps) for steps, _ in lines.values()) or 1
    most = 1.05 * max([*(y.max() for y in smooth.values()), level or 0, 1e-9])

    def x(step):
        return left + np.asarray(step, float) / last * (width - left - right)

    def y(value):
        return top + (1 - np.clip(np.asarray(value, float) / most, 0, 1)) * (height - top - bottom)

    parts = []
    for tick in _ticks(most):
        parts.append(f'<path class="rule" d="M{left} {y(tick):.1f}H{width - right}"/>')
        parts.append(f'<text class="end" x="{left - 8}" y="{y(tick) + 4:.1f}">{tick:g}</text>')
    for tick in _ticks(last):
        parts.append(f'<text class="middle" x="{x(tick):.1f}" y="{height - 18}">{tick:g}</text>')
    parts.append(f'<text class="end" x="{width - right}" y="{height - 2}">step</text>')
    if level is not None:
        parts.append(f'<path class="level" d="M{left} {y(level):.1f}H{width - right}"/>')
    names = [(float(y(level)), f"{level_name} {level:.2f}", "level")] if level is not None else []
    for name, (steps, values) in lines.items():
        colour = "m-" + html.escape(name.split("+")[-1])
        raw, ends = svg_path(x(steps), y(values)), svg_path(x(steps), y(smooth[name]))
        parts.append(f'<path class="raw {colour}" d="{raw}"/><path class="{colour}" d="{ends}"/>')
        final = smooth[name][-1]
        names.append((float(y(final)), f"{name} {final:.2f}", colour))
    for at, name, colour in _apart(names, 17.0, height - bottom):
        where = f'x="{width - right + 8}" y="{at + 4:.1f}"'
        parts.append(f'<text class="name {colour}" {where}>{html.escape(name)}</text>')
    said = html.escape("Loss by step. At the end: " + ", ".join(name for _, name, _ in names))
    svg = f'<svg class="curves" viewBox="0 0 {width} {height}" role="img" aria-label="{said}">'
    return svg + "".join(parts) + "</svg>"


def _smoothed(values: Sequence[float | int]) -> Float[np.ndarray, " n"]:
    """The mean of all values so far, weighted to the latest few percent of the curve."""
    keep = 1 - 1 / max(len(values) / 25, 1)
    total, weight, means = 0.0, 0.0, []
    for value in values:
        total, weight = keep * total + value, keep * weight + 1
        means.append(total / weight)
    return np.array(means)


def _ticks(most: float | int) -> list[float]:
    rough = most / 6
    power = 10.0 ** np.floor(np.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    return [float(round(k * step, 10)) for k in range(int(most / step + 1e-9) + 1)]


def _apart(names: list[tuple], gap: float, lowest: float | int) -> list[tuple]:
    """The same labels (y, ...) with at least `gap` between them and none below `lowest`."""
    placed: list[tuple] = []
    for at, *rest in sorted(names):
        placed.append((max(at, placed[-1][0] + gap) if placed else at, *rest))
    for k, (at, *rest) in reversed(list(enumerate(placed))):
        lowest = min(at, lowest)
        placed[k] = (lowest, *rest)
        lowest -= gap
    return placed
