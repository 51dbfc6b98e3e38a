"""Answers as HTML: the similarity matrix of some things, and what a search has found."""

import functools
import html
import os
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from imagebind_jax.reports.html import NAMES, format_cosine
from imagebind_jax.search import results_html
from imagebind_jax.search.exact import Hit
from imagebind_jax.search.store import EmbeddingStore
from imagebind_jax.web.uploads import EmbeddedItem

HEARD = 12  # sounds of one answer that can be played: each is part of the page
LOOKED_AT = 10_000  # items whose files show which folder all have in common

COSINES = (
    "<b>A cosine</b> says how alike two things are: 1 is the same direction, 0 nothing in common. "
    "It needs no third thing to compare with. Cosines within one modality are often larger than "
    "those between two, so look along a row."
)
SHARES = (
    "<b>A softmax</b> makes each row add up to 100 %: which of <em>these others</em> fits best, even "
    "where none fits. A lower temperature makes the best one win more clearly; cosines do not change."
)


def cosine_matrix(things: Sequence[EmbeddedItem]) -> Float[np.ndarray, "n n"]:
    """Of each with each."""
    z = np.stack([thing.vector for thing in things])
    return np.clip(z @ z.T, -1, 1)


def softmax_rows(
    cosines: Float[np.ndarray, "n n"], temperature: float | int
) -> Float[np.ndarray, "n n"]:
    """The softmax of each row over all others, at a temperature above 0; zero for the thing itself."""
    scores = np.where(np.eye(len(cosines), dtype=bool), -np.inf, cosines / temperature)
    if len(scores) < 2:
        return np.zeros_like(cosines)
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def similarity_matrix_html(
    things: Sequence[EmbeddedItem], temperature: float | int | None = None
) -> str:
    """A heat map with numbers: cosines or, at a temperature, softmax; the best of each row has a ring."""
    if not things:
        return _empty(
            "Drop files on the left, or write sentences: here is what they have in common."
        )
    values = cosine_matrix(things)
    others = ~np.eye(len(things), dtype=bool)
    if temperature is not None:
        values, low, high = softmax_rows(values, temperature), 0.0, 1.0
    elif len(things) > 1:  # or else one modality's, which are close to 1, would hide all others
        low, high = float(values[others].min()), float(values[others].max())
    else:
        low, high = 0.0, 1.0
    best = np.where(others, values, -np.inf).argmax(axis=-1)
    rows = []
    for i, thing in enumerate(things):
        cells = []
        for j, value in enumerate(values[i].tolist()):
            alone, ring = i == j, "best" if j == best[i] and len(things) > 1 else ""
            heat = 0.0 if alone else min(max((value - low) / max(high - low, 1e-6), 0.0), 1.0)
            shown = (
                ("–" if alone else f"{100 * value:.0f}&#8239;%")
                if temperature
                else format_cosine(value)
            )
            cells.append(
                f'<td class="{"self" if alone else ring}" style="--heat:{heat:.2f}">{shown}</td>'
            )
        rows.append(f'<tr><th scope="row">{_label(thing)}</th>{"".join(cells)}</tr>')
    head = "".join(f'<th scope="col">{_label(thing)}</th>' for thing in things)
    wide = " many" if len(things) > 7 else ""
    return (
        f'<div class="ib-scroll" tabindex="0" role="region" aria-label="Similarities"><table class="ib-matrix{wide}">'
        f"<thead><tr><td></td>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        f'<p class="ib-says">{COSINES if temperature is None else SHARES}</p>'
    )


def _label(thing: EmbeddedItem) -> str:
    name = html.escape(thing.name)
    shown = f"<q>{name}</q>" if thing.modality == "text" else f"<span>{name}</span>"
    picture = results_html.image_html(thing.picture, "") if thing.picture else ""
    return f'<div class="ib-label" title="{name}">{picture}<div>{shown}{_badge(thing.modality)}</div></div>'


def _badge(modality: str) -> str:
    known = modality if modality in NAMES else "other"
    return f'<i class="ib-badge {known}">{html.escape(NAMES.get(modality, modality))}</i>'


def problems_html(lines: Sequence[str]) -> str:
    """What could not be used, and why; nothing where all could."""
    if not lines:
        return ""
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    return f'<ul class="ib-problems" role="alert">{items}</ul>'


def query_chip_html(thing: EmbeddedItem | None) -> str:
    """A file that is a query."""
    return f'<div class="ib-chip">{_label(thing)}</div>' if thing else ""


def format_results(
    store: EmbeddingStore, asked: Sequence[tuple[EmbeddedItem, float]], hits: Sequence[Hit]
) -> str:
    """The query and its hits, best first, with pictures, texts and sounds; no file is linked."""
    parts = [
        f'<div class="ib-part">{_label(thing)}{f"<small>{100 * weight:.0f} %</small>" if len(asked) > 1 else ""}</div>'
        for thing, weight in asked
    ]
    head = '<span class="ib-sign">+</span>'.join(parts)
    shown = "".join(_hit(store, hit, rank < HEARD) for rank, hit in enumerate(hits))
    body = (
        f'<ol class="ib-hits">{shown}</ol>'
        if hits
        else _empty("Nothing is left to find: choose other modalities.")
    )
    return f'<div class="ib-asked">{head}<span class="ib-sign">→</span><b>{len(hits)} of {store.count:,}</b></div>{body}'


def format_empty_results() -> str:
    """Before the first question."""
    return _empty(
        "Ask on the left, in words or with a file: the nearest things of the store come here."
    )


def _hit(store: EmbeddingStore, hit: Hit, heard: bool) -> str:
    name = html.escape(display_name(store, hit.file))
    data = store.picture(hit.row)
    media = (
        results_html.image_html(data, f"{NAMES.get(hit.modality, hit.modality)}: {name}")
        if data
        else ""
    )
    if hit.modality == "text":
        media = f"<blockquote>{html.escape(str(hit.item.get('text', '')))}</blockquote>"
    sound = results_html.audio_html(hit, name) if hit.modality == "audio" and heard else ""
    return (
        f'<li><div class="ib-media {html.escape(hit.modality)}">{media}</div>{sound}<div class="ib-line">'
        f'<b title="cosine with the query">{format_cosine(hit.cosine)}</b>{_badge(hit.modality)}</div>'
        f'<div class="ib-name" title="{name}">{name}</div></li>'
    )


@functools.lru_cache(maxsize=4)
def _common(store: EmbeddingStore) -> str:
    """The folder that all files lie in; empty where there is none."""
    rows = range(min(len(store), LOOKED_AT))
    folders = {os.path.dirname(str(store.item(row).get("file", ""))) for row in rows}
    try:
        return os.path.commonpath(folders) if folders else ""
    except ValueError:  # absolute and relative ones
        return ""


def display_name(store: EmbeddingStore, file: str) -> str:
    """A file's name, relative to the folder of all: where that is is nobody's business."""
    common = _common(store)
    if common and file.startswith(common + os.sep):
        return os.path.relpath(file, common)
    return os.path.basename(file)


def _empty(line: str) -> str:
    return f'<div class="ib-empty">{line}</div>'
