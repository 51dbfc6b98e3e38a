"""The page of benchmark results: each a bar with its interval beside chance and what others report."""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from imagebind_jax.reports import formatting, html
from imagebind_jax.reports.formatting import FormattedMetric
from imagebind_jax.reports.html import escape, section_html

STYLE = """
.bench td, .bench th { padding:10px 0 10px 16px; border-bottom:1px solid var(--line);
 white-space:nowrap; text-align:right }
.bench th:first-child { padding-left:0; text-align:left; white-space:normal; min-width:190px }
.bench th span, .bench td span { color:var(--soft); font-weight:400 }
.bench td:nth-child(2) { width:100%; min-width:180px }
.bench .words, .bench .others { text-align:left; white-space:normal; display:table-cell }
.line { position:relative; height:16px; border-radius:3px; background:var(--line) }
.line b, .line u, .line i, .line s { position:absolute }
.line b { inset:0 auto 0 0; background:var(--emergent); opacity:.45; border-radius:3px 0 0 3px }
.line u { top:5px; bottom:5px; min-width:2px; background:var(--emergent); border-radius:2px }
.line u::before { content:""; position:absolute; inset:-5px 0; border:solid var(--emergent);
 border-width:0 2px }
.line i { top:-4px; bottom:-4px; width:2px; margin-left:-1px; background:var(--ink) }
.line i.chance { top:0; bottom:0; background:var(--soft) }
.line i.paper { width:11px; height:11px; top:2px; bottom:auto; margin-left:-6px; background:var(--card);
 border:2px solid var(--ink); transform:rotate(45deg) }
.line i.other { width:9px; height:9px; top:3px; bottom:auto; margin-left:-5px; border-radius:50%;
 background:var(--card); border:2px solid var(--soft) }
.line s { top:0; bottom:0; width:1px; background:var(--paper) }
.legend .line { width:30px; height:14px }
.scale { position:relative; height:16px; font-size:11px; color:var(--soft); font-weight:400 }
.scale i { position:absolute; transform:translateX(-50%); font-style:normal }
.scale i:first-child { transform:none } .scale i:last-child { transform:translateX(-100%) }
.outside { color:var(--wrong) } article table { margin:0 0 10px } article p { margin:6px 0 }
.full td, .full th { padding:5px 0 5px 14px; text-align:right; font-size:14px }
.full th:first-child { text-align:left; padding-left:0 }
.full .others { text-align:left; width:60%; color:var(--soft) }
.missing li, .notes li { margin:6px 0 } .notes { color:var(--soft); font-size:14px }
@media (max-width:700px) { .bench td:nth-child(n+5), .bench thead th:nth-child(n+5)
 { display:none } .bench td:nth-child(2) { min-width:90px } .bench th:first-child { min-width:0 } }
"""


def write_benchmark_html(
    path: pathlib.Path,
    *,
    title: str,
    results: Mapping[str, Any],
    comparison: Mapping[str, Any] | None = None,
) -> None:
    """Writes a page that needs no other file and no network; replaces `path` at once.

    results: what a results.json holds. comparison: {"ours", "theirs", "rows", "warnings"}.
    """
    found = formatting.format_metrics(results)
    body = [
        _header(title, results, found),
        _overview(found),
        _comparison(comparison) if comparison else "",
        _details(results, found),
        _missing(results),
        _footer(results),
    ]
    html.write_html(path, f"imagebind_jax: {title}", body, STYLE)


def _header(title: str, results: Mapping[str, Any], rows: Sequence[FormattedMetric]) -> str:
    said = [row for row in rows if row.paper and row.ours != "–"]
    samples = sum(entry["samples"] for entry in results["benchmarks"].values())
    tiles = [
        (len(results["benchmarks"]), "benchmarks measured"),
        (f"{samples:,}".replace(",", "\u202f"), "samples in them"),
        *([(f"{sum(not row.outside for row in said)} of {len(said)}",
            "numbers of the paper that lie within our 95\u202f% intervals")] if said else []),
        (len(results["missing"]), "benchmarks not measured"),
    ]  # fmt: skip
    cells = "".join(f"<li><b>{escape(a)}</b><span>{escape(b)}</span></li>" for a, b in tiles)
    return f"""<div><p class="eyebrow">imagebind_jax · evaluation</p><h1>{escape(title)}</h1>
<p class="lead">Each number comes with the interval in which it would lie in 95\u202f% of all draws of
other test samples of the same kind (bootstrap). The choice of samples alone hardly explains a number
of the paper that lies outside.</p></div><ul class="tiles">{cells}</ul>"""


def _overview(rows: Sequence[FormattedMetric]) -> str:
    lines = [
        f'<tr><th scope="row">{escape(row.benchmark)} <span>{escape(row.number)}</span></th>'
        f"<td>{_score_bar(row)}</td>{_numbers(row)}</tr>"
        for row in rows
        if row.headline
    ]
    scale = "".join(f'<i style="left:{at}%">{at}</i>' for at in (0, 25, 50, 75, 100))
    return section_html(
        "benchmarks",
        "All at a glance",
        """The first number of every benchmark, on a line from 0 to 100. Where the diamond is outside
the bracket, the paper reports something else than what was measured here.""",
        '<p class="legend"><span class="line"><b style="width:60%"></b><u style="left:45%;width:30%">'
        "</u></span>ours with its interval "
        '<span class="line"><i class="paper" style="left:50%"></i></span>the paper '
        '<span class="line"><i class="other" style="left:50%"></i></span>others '
        '<span class="line"><i class="chance" style="left:50%"></i></span>chance</p>',
        '<div class="scroll" tabindex="0"><table class="bench"><thead><tr><th scope="col">Benchmark'
        f'</th><th scope="col"><div class="scale" aria-hidden="true">{scale}</div></th>'
        '<th scope="col">Ours</th><th scope="col">Paper</th><th scope="col">Difference</th>'
        f'<th scope="col">Chance</th></tr></thead><tbody>{"".join(lines)}</tbody></table></div>',
    )


def _score_bar(row: FormattedMetric) -> str:
    """The bar, drawn; a rank has none."""
    at = {name: min(max(p, 0.0), 100.0) for name, p in row.places.items() if p is not None}
    if "value" not in at:
        return ""
    drawn = [f'<b style="width:{at["value"]:.2f}%"></b>']
    drawn += [f'<s style="left:{place}%"></s>' for place in (25, 50, 75)]
    if "low" in at and "high" in at:
        low, width = at["low"], at["high"] - at["low"]
        drawn.append(f'<u style="left:{low:.2f}%;width:{width:.2f}%"></u>')
    for name, place in at.items():
        kind = name.partition(" ")[0]
        if kind in ("chance", "paper", "other"):
            title = f' title="{escape(name.partition(" ")[2])}"' if kind == "other" else ""
            drawn.append(f'<i class="{kind}" style="left:{place:.2f}%"{title}></i>')
    return f'<div class="line" aria-hidden="true">{"".join(drawn)}</div>'


def _numbers(row: FormattedMetric) -> str:
    kind = ' class="outside"' if row.outside else ""
    return (
        f"<td><b>{row.ours}</b> <span>{row.interval}</span></td><td>{row.paper or '–'}</td>"
        f"<td{kind}>{_minus(row.difference) or '–'}</td><td>{row.chance or '–'}</td>"
    )


def _minus(number: str) -> str:
    return number.replace("-", "−")


def _details(results: Mapping[str, Any], rows: Sequence[FormattedMetric]) -> str:
    articles = []
    for name, entry in results["benchmarks"].items():
        lines = [
            f'<tr><th scope="row">{escape(row.number)}</th>{_numbers(row)}'
            f"<td>{row.spread and '± '}{row.spread or '–'}</td><td>{row.n}</td>"
            f'<td class="others">{escape(row.others)}</td></tr>'
            for row in rows
            if row.benchmark == name
        ]
        notes = [f"unusable samples: {entry['unusable']} of {entry['samples']}"]
        notes = [*(notes if entry["unusable"] else []), *entry["notes"]]
        said = "".join(f"<li>{escape(note)}</li>" for note in notes)
        made = ", ".join(f"{source} ({digest[:12]})" for source, digest in entry["records"].items())
        articles.append(
            f'<article><h3>{escape(name)}</h3><div class="scroll" tabindex="0"><table class="full">'
            '<thead><tr><th scope="col">Number</th><th scope="col">Ours</th><th scope="col">Paper'
            '</th><th scope="col">Difference</th><th scope="col">Chance</th><th scope="col">Spread'
            '</th><th scope="col">n</th><th scope="col" class="others">Others</th></tr></thead>'
            f"<tbody>{''.join(lines)}</tbody></table></div>"
            f"{f'<ul class=notes>{said}</ul>' if said else ''}"
            f'<p class="notes">{entry["seconds"]:.0f}\u202fs · records {escape(made)}</p></article>'
        )
    return section_html(
        "details",
        "Every number",
        """Percent, but for median ranks. <em>Spread</em> is the standard deviation over folds or
draws of training samples, <em>n</em> how many samples, or groups that belong together, the interval is drawn
from. Records are named with the beginning of their digest.""",
        *articles,
    )


def _comparison(comparison: Mapping[str, Any]) -> str:
    lines = []
    ends = [
        abs(formatting.to_percent(row[end], True))
        for row in comparison["rows"]
        for end in ("difference", "low", "high")
        if row["share"] and row[end] is not None and math.isfinite(row[end])
    ]
    most = max([1.0, *ends])
    for row in comparison["rows"]:
        share, low, high = (row[each] for each in ("share", "low", "high"))
        clear = low is not None and (low > 0 or high < 0)
        within = _minus(formatting.format_interval(low, high, share, sign=True)) or "not paired"
        change = _minus(formatting.format_signed(formatting.to_percent(row["difference"], share)))
        lines.append(
            f'<tr><th scope="row">{escape(row["benchmark"])} <span>{escape(row["number"])}</span></th>'
            f"<td>{_difference_bar(row, most)}</td><td>{formatting.format_value(row['ours'], share)}</td>"
            f"<td>{formatting.format_value(row['theirs'], share)}</td>"
            f"<td>{f'<b>{change}</b>' if clear else change}</td><td><span>{within}</span></td></tr>"
        )
    marks = ((0, _minus(f"-{most:.1f}")), (50, "0"), (100, f"+{most:.1f}"))
    scale = "".join(f'<i style="left:{at}%">{mark}</i>' for at, mark in marks)
    warnings = "".join(f"<li>{escape(warning)}</li>" for warning in comparison["warnings"])
    return section_html(
        "comparison",
        f"{escape(comparison['ours'])} and {escape(comparison['theirs'])}",
        """Ours less theirs. Where both were measured on the same samples, the interval is that of the
difference sample by sample, which is narrower than those of both numbers suggest; a difference whose
interval leaves out zero is bold.""",
        '<div class="scroll" tabindex="0"><table class="bench"><thead><tr><th scope="col">Number</th>'
        f'<th scope="col"><div class="scale" aria-hidden="true">{scale}</div></th><th scope="col">Ours</th><th scope="col">Theirs</th><th scope="col">'
        f'Difference</th><th scope="col">Interval</th></tr></thead><tbody>{"".join(lines)}</tbody>'
        "</table></div>",
        f'<ul class="notes">{warnings}</ul>' if warnings else "",
    )


def _difference_bar(row: Mapping[str, Any], most: float) -> str:
    """A difference with its interval, drawn on a line from -most to most."""
    if not row["share"] or row["low"] is None:
        return ""
    low, high, at = (50 + 5000 * row[end] / most for end in ("low", "high", "difference"))
    return (
        '<div class="line" aria-hidden="true"><i class="chance" style="left:50%"></i>'
        f'<u style="left:{low:.2f}%;width:{high - low:.2f}%"></u>'
        f'<i style="left:{at:.2f}%"></i></div>'
    )


def _missing(results: Mapping[str, Any]) -> str:
    lines = "".join(
        f"<li><b>{escape(name)}</b>: {escape(why)}</li>" for name, why in results["missing"].items()
    )
    says = "What was not measured, and what it takes to measure it."
    return section_html(
        "missing", "Missing", says, *([f'<ul class="missing">{lines}</ul>'] if lines else [])
    )


def _footer(results: Mapping[str, Any]) -> str:
    made = [f"{name} {version}" for name, version in results["versions"].items()]
    settings = [
        f"{name} {results['config'][name]}"
        for name in ("seed", "resamples", "dtype")
        if name in results["config"]
    ]
    lines = [*made, results["device"], *settings]
    return f"<footer><p>{escape(' · '.join(filter(None, lines)))}</p></footer>"
