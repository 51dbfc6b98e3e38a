"""Marks on lines of one scale, as inline SVG: intervals beside the paper's differences, dots of seeds."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from imagebind_jax.ablations.paired_test import DOES_NOT, NO, REPRODUCES, YES, mean_and_std
from imagebind_jax.reports.html import escape

KINDS = {REPRODUCES: "right", YES: "right", DOES_NOT: "wrong", NO: "wrong"}  # classes of style.css
EDGE = 4.0  # percent of the width on each side, for what lies beyond the scale
# All x are in percent and all sizes in pixels: marks and letters keep their size on a phone.
ARROWS = {False: "M4-5L-4 0L4 5Z", True: "M-4-5L4 0L-4 5Z"}  # to the left, to the right
DIAMOND = "M0-6L6 0L0 6L-6 0Z"


class AxisScale:
    """Places between two values, in percent of a line's width; `steps` are round."""

    def __init__(self, low: float | int, high: float | int, about: int = 4):
        rough = max(high - low, 1e-6) / about
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        last = max(last, first + 1)
        self.steps = [round(k * step, 10) for k in range(first, last + 1)]

    def at(self, value: float | int) -> float:
        low, high = self.steps[0], self.steps[-1]
        return EDGE + (100 - 2 * EDGE) * (value - low) / (high - low)

    def holds(self, value: float | int) -> bool:
        return self.steps[0] <= value <= self.steps[-1]


def difference_scale(verdicts: Sequence[Mapping[str, Any]]) -> AxisScale:
    """A scale for nine tenths of all that is drawn, as far to the left of 0 as to the right."""
    ends = [abs(v[key]) for v in verdicts for key in ("low", "high", "difference")]
    ends += [abs(v["paper_difference"]) for v in verdicts if v["paper_difference"] is not None]
    most = max(float(np.quantile(ends, 0.9, method="higher")), 1e-3)
    return AxisScale(-most, most)


def verdict_class(verdict: Mapping[str, Any]) -> str:
    """The class of its colour."""
    return KINDS.get(verdict["verdict"], "close")


def forest_row(verdict: Mapping[str, Any], scale: AxisScale) -> str:
    """The interval with its mean as a dot, and the paper's difference as a hollow diamond."""
    mark, paper = verdict_class(verdict), verdict["paper_difference"]
    low, high = max(verdict["low"], scale.steps[0]), min(verdict["high"], scale.steps[-1])
    drawn = _rules(scale)
    if low <= high:
        drawn.append(_line(scale.at(low), scale.at(high), "50%", f"interval {mark}"))
    for off, right in ((verdict["low"] < low, False), (verdict["high"] > high, True)):
        if off:
            drawn.append(_mark(_edge(right), ARROWS[right], mark))
    if scale.holds(verdict["difference"]):
        drawn.append(
            f'<circle class="{mark}" cx="{scale.at(verdict["difference"]):.2f}%" cy="50%" r="5"/>'
        )
    if paper is not None:
        right = paper > 0
        place = scale.at(paper) if scale.holds(paper) else _edge(right)
        drawn.append(_mark(place, DIAMOND if scale.holds(paper) else ARROWS[right], "paper"))
    return _svg(drawn)


def legend(verdicts: Iterable[Mapping[str, Any]]) -> str:
    """What a forest's marks mean."""
    dot = '<circle class="close" cx="50%" cy="50%" r="5"/>'
    keys = {"ours with its interval": _line(5, 95, "50%", "interval close") + dot}
    if any(verdict["paper_difference"] is not None for verdict in verdicts):
        keys["the paper"] = _mark(50, DIAMOND, "paper")
    keys["beyond the scale"] = _mark(50, ARROWS[True], "close")
    said = "".join(
        f'<span class="key-of">{_svg([mark])}{name}</span>' for name, mark in keys.items()
    )
    return f'<p class="legend keys">{said}</p>'


def strip_plot(values: Sequence[float | int], scale: AxisScale) -> str:
    """A pale dot each seed, and their mean as a bar."""
    drawn = _rules(scale)
    drawn += [
        f'<circle class="seed" cx="{scale.at(each):.2f}%" cy="50%" r="4.5"/>' for each in values
    ]
    if values:
        at = scale.at(mean_and_std(values)[0])
        drawn.append(f'<line class="mean" x1="{at:.2f}%" x2="{at:.2f}%" y1="18%" y2="82%"/>')
    return _svg(drawn)


def axis(scale: AxisScale, *, sign: bool = False) -> str:
    """The steps of a scale, as numbers."""
    drawn = []
    for step in scale.steps:
        said = (f"{step:+g}" if sign and step else f"{step:g}").replace("-", "−")
        drawn.append(
            f'<text class="middle" x="{scale.at(step):.2f}%" y="70%">{escape(said)}</text>'
        )
    return _svg(drawn)


def _rules(scale: AxisScale) -> list[str]:
    """Longer than the line is high: where it is not cut off, they meet those of the next line."""
    return [
        f'<line class="{"zero" if step == 0 else "step"}" x1="{scale.at(step):.2f}%" '
        f'x2="{scale.at(step):.2f}%" y1="-300%" y2="400%"/>'
        for step in scale.steps
    ]


def _line(left: float | int, right: float | int, y: str, kind: str) -> str:
    return f'<line class="{kind}" x1="{left:.2f}%" x2="{right:.2f}%" y1="{y}" y2="{y}"/>'


def _edge(right: bool) -> float:
    return 100 - EDGE / 2 if right else EDGE / 2


def _mark(x: float | int, path: str, kind: str) -> str:
    """A path around a point whose place is given in percent, which paths themselves cannot be."""
    return f'<svg class="mark" x="{x:.2f}%" y="50%"><path class="{kind}" d="{path}"/></svg>'


def _svg(drawn: Sequence[str]) -> str:
    """What it shows stands beside it in words."""
    return f'<svg class="marks" aria-hidden="true">{"".join(drawn)}</svg>'
