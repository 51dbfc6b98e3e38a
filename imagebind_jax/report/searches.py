"""Searches one can see and hear: the gallery, and the arithmetic of embeddings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from imagebind_jax.report.elements import NAMES, cosine, percent, section, text
from imagebind_jax.report.pictures import figure, words


@dataclass(frozen=True)
class Retrieval:
    """One search: queries (modality, record), found (modality, record, score, right), best first.

    Two queries are added, as embeddings; their search is shown with the embedding arithmetic.
    """

    title: str
    queries: Sequence[tuple[str, Mapping[str, Any]]]
    found: Sequence[tuple[str, Mapping[str, Any], float | np.floating, bool | np.bool_]]


def gallery(rows: Sequence[Retrieval]) -> str:
    return section(
        "gallery",
        "See and hear it",
        """Single searches among held-out samples. The query is on the left, then the nearest
samples of another modality with their cosine, best first. Words in bold are shared with the
query. Colours: depth from far (violet) to near (yellow), temperature from cold (black) to warm
(pale), sound over two seconds with low notes below, motion as force along and turning about
three axes (red to the right, green down, blue ahead).""",
        *map(_row, rows),
    )


def arithmetic(results: Mapping[str, Any], rows: Sequence[Retrieval]) -> str:
    entry = results.get("arithmetic")
    if not entry:
        return ""
    bars = "".join(
        f'<tr class="{kind}"><th scope="row">{name}</th><td><div class="bar" aria-hidden="true"><b '
        f'style="width:{100 * entry[key]:.2f}%"></b></div></td>'
        f"<td><b>{percent(entry[key])}</b></td></tr>"
        for name, key, kind in (
            ("both, added", "top1", "emergent"),
            ("image alone", "image_alone", "trained"),
            ("chance", "chance", "trained"),
        )
        if key in entry
    )
    return section(
        "arithmetic",
        "Embeddings add up",
        f"""{text(entry["question"])} The embedding of an image and that of another modality are
added, and the sum searches. Top-1 over {entry["n"]} questions, beside the image alone (which
knows only half of the answer) and chance.""",
        f'<table class="accuracy"><thead class="sr"><tr><th scope="col">Query</th><th scope="col">'
        f'Chart</th><th scope="col">Top-1</th></tr></thead><tbody>{bars}</tbody></table>',
        *map(_row, rows),
    )


def _row(row: Retrieval) -> str:
    known = [words(record) for _, record in row.queries]
    queries = '<span class="sign" aria-label="plus">+</span>'.join(
        figure(modality, record, _caption(NAMES[modality], words(record)))
        for modality, record in row.queries
    )
    found = []
    for modality, record, score, right in row.found:
        mark = "right" if right else "wrong"
        says = (
            f'<b class="{mark}"><span role="img" aria-label="{mark}">{"✓" if right else "✗"}</span>'
        )
        says += f" {cosine(float(score))}</b>"
        found.append(figure(modality, record, says + _caption("", words(record), known)))
    return (
        f'<article><h3>{text(row.title)}</h3><div class="search">'
        f'<div class="queries">{queries}</div>'
        f'<span class="sign" aria-label="finds">→</span><div class="found">{"".join(found)}</div>'
        "</div></article>"
    )


def _caption(
    name: str, described: Mapping[str, str], known: Sequence[Mapping[str, str]] = ()
) -> str:
    parts = [
        f"<b>{text(word)}</b>" if word in [k.get(task) for k in known] else text(word)
        for task, word in described.items()
    ]
    return (
        f"<b>{name}</b>" if name else ""
    ) + f'<span class="words">{"&nbsp;· ".join(parts)}</span>'
