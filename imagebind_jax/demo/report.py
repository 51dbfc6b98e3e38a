"""The demo's report: one HTML page that shows what was trained, what emerged and how far."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from imagebind_jax.demo import report_curves, report_gallery, report_tables
from imagebind_jax.demo.report_gallery import ExampleSearch
from imagebind_jax.demo.report_tables import SimilarityTable
from imagebind_jax.reports import html
from imagebind_jax.reports.html import NAMES, escape, format_percent, is_trained


def write_demo_report(
    path: pathlib.Path,
    *,
    results: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    similarity: SimilarityTable | Sequence[SimilarityTable],
    gallery: Sequence[ExampleSearch],
) -> None:
    """Writes a page that needs no other file and no network; replaces `path` at once.

    `results` is what `results.json` holds, `history` the lines of `metrics.jsonl`. A pair of
    modalities that is not in `results["trained_pairs"]` counts as emergent.
    """
    matrices = [similarity] if isinstance(similarity, SimilarityTable) else similarity
    body = [
        header_html(results),
        report_tables.zero_shot_html(results),
        report_tables.retrieval_html(results),
        report_tables.similarity(matrices),
        report_gallery.gallery_html([row for row in gallery if len(row.queries) == 1]),
        report_gallery.arithmetic_html(results, [row for row in gallery if len(row.queries) > 1]),
        report_curves.loss_section_html(results, history),
        footer_html(results),
    ]
    html.write_html(path, f"imagebind_jax: {main_finding(results)}", body)


PLURALS = {
    "vision": "clips",
    "text": "sentences",
    "audio": "sounds",
    "depth": "depth maps",
    "thermal": "thermal images",
    "imu": "motion traces",
}


def header_html(results: Mapping[str, Any]) -> str:
    summary, trained = results.get("summary", {}), results["trained_pairs"]
    modalities = len(NAMES)
    tiles = [
        (format_percent(summary.get("emergent_top1")), "mean emergent zero-shot accuracy"),
        (
            format_percent(summary.get("fraction_of_probe")),
            "of what a linear probe with labels reaches",
        ),
        (f"{len(trained)} of {modalities * (modalities - 1) // 2}", "pairs of modalities trained"),
        (_minutes(results["seconds"]), f"from nothing to this page, seed\u00a0{results['seed']}"),
    ]
    cells = "".join(f"<li><b>{escape(a)}</b><span>{escape(b)}</span></li>" for a, b in tiles)
    return f"""<header><div><p class="eyebrow">imagebind_jax · first light</p>
<h1>{escape(main_finding(results)).replace("held-", "held&#8209;")}</h1>
<p class="lead">Six small encoders learned one embedding space from scratch. Only the pairs with
solid lines were trained, each on samples of its own, so no sample was ever met in two modalities
other than vision. Whatever works along a dashed line has <em>emerged</em>: the two sides were never
shown together and meet only because both were tied to what is seen.</p></div>{_hub(trained)}
</header><ul class="tiles">{cells}</ul>"""


def main_finding(results: Mapping[str, Any]) -> str:
    """The finding in one sentence: emergent zero-shot accuracy of audio, or else of the best."""
    entries = [
        (modality, entry)
        for modality, entries in results["zero_shot"].items()
        for entry in entries
        if not is_trained(results, modality, "text")
    ]
    if not entries:
        return "Six modalities in one space"
    modality, entry = next(
        (pair for pair in entries if pair[0] == "audio"),
        max(entries, key=lambda pair: pair[1]["top1"] / pair[1]["chance"]),
    )
    top1, chance = (
        format_percent(entry[name]).replace(".0\u202f", "\u202f") for name in ("top1", "chance")
    )
    works = entry["top1"] > 2 * entry["chance"]
    return (
        f"{NAMES[modality]} was never trained with text, {'yet' if works else 'and'} a sentence "
        f"finds the {entry['task']} in {'' if works else 'only '}{top1} of held-out "
        f"{PLURALS[modality]}: chance is {chance}"
    )


def _hub(trained: Sequence[str]) -> str:
    """Which pairs were trained, as a drawing: vision in the middle, the others around it."""
    around = [m for m in NAMES if m != "vision"]
    turn = 2 * np.pi * np.arange(len(around)) / len(around)
    at = {
        m: (170 + 128 * np.sin(a), 144 - 124 * np.cos(a)) for m, a in zip(around, turn, strict=True)
    }
    at["vision"] = (170, 144)
    lines: list[str] = []
    nodes = []
    for i, a in enumerate(at):
        for b in list(at)[:i]:
            kind = "trained" if {f"{a}+{b}", f"{b}+{a}"} & set(trained) else "emergent"
            (x1, y1), (x2, y2) = at[a], at[b]
            path = f'<path class="{kind}" d="M{x1:.0f} {y1:.0f}L{x2:.0f} {y2:.0f}"/>'
            lines.insert(0 if kind == "emergent" else len(lines), path)
    for modality, (x, y) in at.items():
        nodes.append(f'<rect x="{x - 36:.0f}" y="{y - 14:.0f}" width="72" height="28" rx="14"/>')
        nodes.append(f'<text x="{x:.0f}" y="{y + 4:.0f}">{NAMES[modality]}</text>')
    said = escape(f"Trained together: {', '.join(trained)}. All other pairs are emergent.")
    return f'<svg class="hub" viewBox="0 0 340 280" role="img" aria-label="{said}">' + "".join(
        [*lines, *nodes, "</svg>"]
    )


def _minutes(seconds: float | int) -> str:
    return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"


def footer_html(results: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {v}" for name, v in results.get("versions", {}).items())
    return (
        f"<footer><p>Seed {results['seed']} · {results['seconds']} s · {escape(versions)}</p><p>"
        f"Again: <code>imagebind-jax demo --seed {results['seed']}</code></p></footer>"
    )
