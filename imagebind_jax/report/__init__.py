"""The demo's report: one HTML page that shows what was trained, what emerged and how far."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from imagebind_jax.report import accuracy, elements, overview, searches, training
from imagebind_jax.report.accuracy import Similarity
from imagebind_jax.report.elements import percent
from imagebind_jax.report.searches import Retrieval

__all__ = ["Retrieval", "Similarity", "percent", "write_report"]


def write_report(
    path: pathlib.Path,
    *,
    results: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    similarity: Similarity | Sequence[Similarity],
    gallery: Sequence[Retrieval],
) -> None:
    """Writes a page that needs no other file and no network; replaces `path` at once.

    `results` is what `results.json` holds, `history` the lines of `metrics.jsonl`. A pair of
    modalities that is not in `results["trained_pairs"]` counts as emergent.
    """
    matrices = [similarity] if isinstance(similarity, Similarity) else similarity
    body = [
        overview.header(results),
        accuracy.zero_shot(results),
        accuracy.retrieval(results),
        accuracy.similarity(matrices),
        searches.gallery([row for row in gallery if len(row.queries) == 1]),
        searches.arithmetic(results, [row for row in gallery if len(row.queries) > 1]),
        training.losses(results, history),
        overview.footer(results),
    ]
    elements.write(path, f"imagebind_jax: {overview.headline(results)}", body)
