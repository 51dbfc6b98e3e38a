"""What a search found as one HTML page: pictures, spectrograms, waveforms and sounds, all in the file."""

import base64
import html
import io
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import soundfile
from jaxtyping import Float

from imagebind_jax.inputs.decoders.audio_files import open_audio
from imagebind_jax.inputs.decoders.media import MediaError
from imagebind_jax.inputs.decoders.resampling import RATE, resample
from imagebind_jax.inputs.transforms.audio import RecordingSpan
from imagebind_jax.reports import html as html_parts
from imagebind_jax.reports.html import format_cosine, svg_path
from imagebind_jax.search.exact import Hit
from imagebind_jax.search.store import EmbeddingStore

SECONDS = 10.0  # of a sound that can be heard


class QueryCard(NamedTuple):
    """A part of what was asked."""

    modality: str
    said: str  # the text, or the file's name
    weight: float
    picture: bytes  # empty: none


def write_search_html(
    path: pathlib.Path, store: EmbeddingStore, queries: Sequence[QueryCard], hits: Sequence[Hit]
) -> None:
    """Writes a page that needs no other file and no network; replaces `path` at once."""
    asked = '<span class="sign" aria-label="plus">+</span>'.join(map(_query, queries))
    found = "".join(_hit(store, hit) for hit in hits) or "<p>No row may be an answer.</p>"
    title = ", ".join(f"{query.said:.60}" for query in queries)
    body = (
        f"<header><h1>{len(hits)} of {store.count:,} rows</h1><p>of {html.escape(str(store.folder))}, by "
        "cosine. Sounds play their first ten seconds.</p></header>"
        f'<section id="search"><div class="search"><div class="queries">{asked}</div>'
        f'<span class="sign" aria-label="finds">→</span><div class="found">{found}</div></div></section>'
    )
    html_parts.write_html(path, title, [body])


def _query(query: QueryCard) -> str:
    weight = f" × {query.weight:g}" if query.weight != 1 else ""
    words = f"<b>{html.escape(query.modality)}{weight}</b>"
    if not query.picture:
        return f"<figure><blockquote>{html.escape(query.said)}</blockquote><figcaption>{words}</figcaption></figure>"
    name = html.escape(pathlib.PurePath(query.said).name)
    return (
        f"<figure>{image_html(query.picture, name)}<figcaption>{words} {name}</figcaption></figure>"
    )


def _hit(store: EmbeddingStore, hit: Hit) -> str:
    name = html.escape(pathlib.PurePath(hit.file).name)
    media = image_html(store.picture(hit.row), name) if store.picture(hit.row) else ""
    if hit.modality == "audio":
        media += audio_html(hit, name)
    if hit.modality == "text":
        media += f"<blockquote>{html.escape(str(hit.item.get('text', '')))}</blockquote>"
    link = pathlib.Path(hit.file).as_uri() if os.path.isfile(hit.file) else ""
    words = f'<a href="{html.escape(link)}">{name}</a>' if link else name
    return (
        f'<figure class="hit">{media}<figcaption><b>{format_cosine(hit.cosine)}</b> {hit.modality}<br>{words}'
        f"<small>{_details(hit.item)}</small></figcaption></figure>"
    )


def _details(item: Mapping[str, Any]) -> str:
    shown = {k: v for k, v in item.items() if k not in ("key", "stamp", "modality", "file", "text")}
    return html.escape(" · ".join(f"{k} {v!s:.40}" for k, v in list(shown.items())[:4]))


def image_html(picture: bytes, alt: str) -> str:
    """A JPEG or PNG as an element; `alt` is HTML, escaped by the caller."""
    kind = "png" if picture.startswith(b"\x89PNG") else "jpeg"
    return f'<img src="{_uri(f"image/{kind}", picture)}" alt="{alt}">'


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def audio_html(hit: Hit, name: str) -> str:
    """A sound's waveform and its first ten seconds, where the file is still there; `name` is HTML."""
    try:
        with open_audio(hit.file) as recording:
            part = RecordingSpan.of(hit.item, recording)  # of it that was embedded
            first = round(float(part.start) * recording.rate)
            last = first + round(min(SECONDS, float(part.seconds)) * recording.rate)
            wave = resample(
                recording.read(first, min(last, recording.frames)).mean(axis=0, keepdims=True),
                recording.rate,
            )[0]
    except (MediaError, ValueError):
        return ""
    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(wave, -1, 1), RATE, format="FLAC", subtype="PCM_16")
    sound = _uri("audio/flac", buffer.getvalue())
    return (
        f'<svg class="wave" viewBox="0 0 160 40" role="img" aria-label="Waveform: {name}">'
        f'<path class="axis-z" d="{_wave(wave)}"/></svg>'
        f'<audio controls preload="none" src="{sound}" aria-label="Sound: {name}"></audio>'
    )


def _wave(wave: Float[np.ndarray, "n"]) -> str:
    """The envelope: of each of 160 stretches its highest and its lowest value."""
    parts = np.array_split(wave, min(160, len(wave)))
    peaks = np.array([value for part in parts for value in (part.max(), part.min())])
    scale = 19 / max(float(np.abs(peaks).max()), 1e-4)
    return svg_path(np.linspace(0.0, 160.0, len(peaks)), 20 - scale * peaks)
