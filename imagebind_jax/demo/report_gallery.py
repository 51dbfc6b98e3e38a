"""Searches one can see and hear: the gallery, and the arithmetic of embeddings."""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from imagebind_jax.inputs.colormaps import INFERNO, MAGMA, VIRIDIS, apply_colormap, encode_png
from imagebind_jax.inputs.decoders.images import open_image
from imagebind_jax.inputs.transforms import audio
from imagebind_jax.inputs.world import ATTRIBUTES
from imagebind_jax.reports.html import (
    NAMES,
    escape,
    format_cosine,
    format_percent,
    section_html,
    svg_path,
)


@dataclass(frozen=True)
class ExampleSearch:
    """One search: queries (modality, record), found (modality, record, score, right), best first.

    Two queries are added, as embeddings; their search is shown with the embedding arithmetic.
    """

    title: str
    queries: Sequence[tuple[str, Mapping[str, Any]]]
    found: Sequence[tuple[str, Mapping[str, Any], float | np.floating, bool | np.bool_]]


def gallery_html(rows: Sequence[ExampleSearch]) -> str:
    return section_html(
        "gallery",
        "See and hear it",
        """Single searches among held-out samples. The query is on the left, then the nearest
samples of another modality with their cosine, best first. Words in bold are shared with the
query. Colours: depth from far (violet) to near (yellow), temperature from cold (black) to warm
(pale), sound over two seconds with low notes below, motion as force along and turning about
three axes (red to the right, green down, blue ahead).""",
        *map(_row, rows),
    )


def arithmetic_html(results: Mapping[str, Any], rows: Sequence[ExampleSearch]) -> str:
    entry = results.get("arithmetic")
    if not entry:
        return ""
    bars = "".join(
        f'<tr class="{kind}"><th scope="row">{name}</th><td><div class="bar" aria-hidden="true"><b '
        f'style="width:{100 * entry[key]:.2f}%"></b></div></td>'
        f"<td><b>{format_percent(entry[key])}</b></td></tr>"
        for name, key, kind in (
            ("both, added", "top1", "emergent"),
            ("image alone", "image_alone", "trained"),
            ("chance", "chance", "trained"),
        )
        if key in entry
    )
    return section_html(
        "arithmetic",
        "Embeddings add up",
        f"""{escape(entry["question"])} The embedding of an image and that of another modality are
added, and the sum searches. Top-1 over {entry["n"]} questions, beside the image alone (which
knows only half of the answer) and chance.""",
        f'<table class="accuracy"><thead class="sr"><tr><th scope="col">Query</th><th scope="col">'
        f'Chart</th><th scope="col">Top-1</th></tr></thead><tbody>{bars}</tbody></table>',
        *map(_row, rows),
    )


def _row(row: ExampleSearch) -> str:
    known = [label_names(record) for _, record in row.queries]
    queries = '<span class="sign" aria-label="plus">+</span>'.join(
        figure_html(modality, record, _caption(NAMES[modality], label_names(record)))
        for modality, record in row.queries
    )
    found = []
    for modality, record, score, right in row.found:
        mark = "right" if right else "wrong"
        says = (
            f'<b class="{mark}"><span role="img" aria-label="{mark}">{"✓" if right else "✗"}</span>'
        )
        says += f" {format_cosine(float(score))}</b>"
        found.append(figure_html(modality, record, says + _caption("", label_names(record), known)))
    return (
        f'<article><h3>{escape(row.title)}</h3><div class="search">'
        f'<div class="queries">{queries}</div>'
        f'<span class="sign" aria-label="finds">→</span><div class="found">{"".join(found)}</div>'
        "</div></article>"
    )


def _caption(
    name: str, described: Mapping[str, str], known: Sequence[Mapping[str, str]] = ()
) -> str:
    parts = [
        f"<b>{escape(word)}</b>" if word in [k.get(task) for k in known] else escape(word)
        for task, word in described.items()
    ]
    return (
        f"<b>{name}</b>" if name else ""
    ) + f'<span class="words">{"&nbsp;· ".join(parts)}</span>'


LOUDNESS = (-14.0, 4.0)  # log-mel from black to white, the same for all: loudness tells
FORCE, RATE = 1.0, 0.15  # m/s^2, rad/s: the least that a trace's height shows, so noise stays small


def figure_html(modality: str, record: Mapping[str, Any], caption: str = "") -> str:
    """One modality of a record as an HTML figure; `caption` is HTML, escaped by the caller."""
    draw = {
        "vision": _vision,
        "text": _text,
        "audio": _audio,
        "depth": _depth,
        "thermal": _thermal,
        "imu": _imu,
    }[modality]
    about = html.escape(
        ", ".join(label_names(record).values()) or str(record.get("id", "a sample"))
    )
    body = f'<div class="media">{draw(record, about)}</div>'
    return f'<figure class="{modality}">{body}<figcaption>{caption}</figcaption></figure>'


def label_names(record: Mapping[str, Any]) -> dict[str, str]:
    """The names of a record's labels, {"shape": "cube", ...}; empty for a record without labels."""
    labels = record.get("labels") or {}
    return {task: names[labels[task]] for task, names in ATTRIBUTES.items() if task in labels}


def _vision(record: Mapping[str, Any], about: str) -> str:
    frames = []
    for name, data in zip(("First", "Last"), record["vision"], strict=False):
        kind = str(open_image(data).format).lower()
        frames.append(_img(_uri(f"image/{kind}", data), f"{name} frame of a clip: {about}"))
    return "".join(frames)


def _text(record: Mapping[str, Any], about: str) -> str:
    return f"<blockquote>{html.escape(record['text'])}</blockquote>"


def _depth(record: Mapping[str, Any], about: str) -> str:
    millimetres = np.asarray(open_image(record["depth"]), np.float32)
    near = 1 / np.maximum(millimetres, 1)  # disparity up to a factor: near things matter
    near[millimetres == 0] = 0  # no depth is drawn as infinitely far
    low, high = near.min(), near.max()
    return _img(_painted((near - low) / max(high - low, 1e-12), VIRIDIS), f"Depth map: {about}")


def _thermal(record: Mapping[str, Any], about: str) -> str:
    level = np.asarray(open_image(record["thermal"]).convert("L"), np.float32) / 255
    return _img(_painted(level, INFERNO), f"Thermal image: {about}")


def _audio(record: Mapping[str, Any], about: str) -> str:
    waveform = audio.read_clip(record["audio"], 0.0)
    low, high = LOUDNESS
    level = (audio.log_mel(waveform[0])[::-1] - low) / (high - low)  # high bands on top
    sound = _uri("audio/flac", record["audio"])
    return (
        _img(_painted(level, MAGMA), f"Spectrogram of a sound: {about}")
        + f'<audio controls preload="none" src="{sound}" aria-label="Sound: {about}"></audio>'
    )


def _imu(record: Mapping[str, Any], about: str) -> str:
    readings = np.load(io.BytesIO(record["imu"]), allow_pickle=False)
    readings = readings[: len(readings) // 8 * 8].reshape(-1, 8, readings.shape[-1]).mean(axis=1)
    readings -= readings.mean(axis=0)  # without gravity, which would dwarf all else
    x = np.linspace(0, 200, len(readings))
    paths = []
    for middle, columns, least in ((28, slice(0, 3), FORCE), (84, slice(3, 6), RATE)):
        scale = 24 / max(float(np.abs(readings[:, columns]).max()), least)
        paths += [
            f'<path class="axis-{axis}" d="{svg_path(x, middle - scale * trace)}"/>'
            for axis, trace in zip("xyz", readings[:, columns].T, strict=True)
        ]
    return (
        f'<svg class="imu" viewBox="0 0 200 112" role="img" aria-label="Motion trace: {about}">'
        '<path class="rule" d="M0 56H200"/>' + "".join(paths) + '<text x="4" y="11">force</text>'
        '<text x="4" y="68">turn</text></svg>'
    )


def _img(uri: str, alt: str) -> str:
    return f'<img src="{uri}" alt="{alt}">'


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _painted(level: Float[np.ndarray, "h w"], colours: UInt8[np.ndarray, "256 3"]) -> str:
    """A PNG of values in [0, 1], those outside clipped, as a data URI."""
    return _uri("image/png", encode_png(apply_colormap(level, colours)))
