"""What every page is built from: its frame, headings, escaped text, numbers, names, lines."""

import html
import importlib.resources
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from imagebind_jax.storage import atomic

NAMES = {
    "vision": "Vision",
    "text": "Text",
    "audio": "Audio",
    "depth": "Depth",
    "thermal": "Thermal",
    "imu": "IMU",
}


def write_html(path: pathlib.Path, title: str, body: Sequence[str], style: str = "") -> None:
    """Writes a page that needs no other file and no network; replaces `path` at once.

    title: plain text. body: HTML. style: CSS that this page has beside that of all.
    """
    folder = importlib.resources.files(__package__)
    page, shared = (folder.joinpath(name).read_text("utf-8") for name in ("page.html", "style.css"))
    page = page.format(title=html.escape(title), style=shared + style, body="\n".join(body))
    atomic.write_text_atomic(path, page)


def section_html(name: str, title: str, says: str, *parts: str) -> str:
    """A section of the page; empty without parts. All but `name` is HTML, escaped by the caller."""
    if not parts:
        return ""
    body = "".join(parts)
    return (
        f'<section id="{name}"><h2>{title}</h2><p class="says">'
        f'<b class="label">What you see</b> {says}</p>{body}</section>'
    )


def format_percent(share: float | int | None) -> str:
    """0.784 as "78.4 %", 0.0026 as "0.26 %", a missing number as a dash."""
    if share is None or not np.isfinite(share):
        return "–"
    return f"{100 * share:.{1 if share >= 0.01 or share == 0 else 2}f}\u202f%"


def format_cosine(value: float) -> str:
    """Two digits, a true minus sign, and no minus before zero."""
    return f"{value:.2f}".replace("-0.00", "0.00").replace("-", "−")


def escape(value: object) -> str:
    """Any value as HTML."""
    return html.escape(str(value))


def is_trained(results: Mapping[str, Any], one: str, other: str) -> bool:
    """Whether the pair was trained, in either order; all other pairs are emergent."""
    return bool({f"{one}+{other}", f"{other}+{one}"} & set(results["trained_pairs"]))


def svg_path(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> str:
    """The path of an SVG line through at most 300 of the points."""
    keep = np.unique(np.linspace(0, len(x) - 1, min(len(x), 300)).round().astype(int))
    return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(x[keep], y[keep], strict=True))
