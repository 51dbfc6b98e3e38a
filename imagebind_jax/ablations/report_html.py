"""The report of ablations as one page: a forest of all verdicts, then each ablation beside the paper's."""

import importlib.resources
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from imagebind_jax.ablations import forest_plot, report_text
from imagebind_jax.reports import html
from imagebind_jax.reports.html import escape, section_html


def write_html(path: pathlib.Path, results: Mapping[str, Any]) -> None:
    """Writes a page that needs no other file and no network; replaces `path` at once.

    results: what science.json holds.
    """
    body = [
        _header(results),
        _forest(
            "verdicts",
            "The paper's claims",
            f"{report_text.summarize_counts(results)} Right of 0 the claim holds; the interval decides.",
            report_text.verdicts(results, ours=False),
        ),
        _forest(
            "questions",
            "Beyond the paper",
            "Questions of our own, put to the same test.",
            report_text.verdicts(results, ours=True),
        ),
        section_html(
            "ablations",
            "Every ablation",
            "Percent, mean ± standard deviation over the seeds, the highest of a column in bold. In "
            "the charts a dot is a seed and a bar their mean; their scales do not begin at 0.",
            *(_article(ablation, results) for ablation in results["ablations"]),
        ),
        _towers(results),
        _left_out(results),
        f"<footer><p>{escape(report_text.describe_run(results))}</p><p>Again: <code>{escape(results['command'])}"
        "</code></p></footer>",
    ]
    style = importlib.resources.files(__package__).joinpath("page.css").read_text("utf-8")
    html.write_html(path, f"imagebind_jax: {report_text.TITLE}", body, style)


def _header(results: Mapping[str, Any]) -> str:
    counts = report_text.counts(results)
    tiles = [(len(results["seeds"]), "seeds, paired")]
    if any(counts.values()):
        tiles = [*zip(counts.values(), ("reproduce", "do not", "are too close to call")), *tiles]
    cells = "".join(f"<li><b>{escape(a)}</b><span>{escape(b)}</span></li>" for a, b in tiles)
    says = (
        report_text.WORLD,
        report_text.describe_tasks(results),
        report_text.describe_test(results),
    )
    lead = "".join(f'<p class="says">{escape(each)}</p>' for each in says if each)
    return (
        f'<div><p class="eyebrow">imagebind_jax · ablations</p><h1>{escape(report_text.TITLE)}</h1>'
        f'{lead}</div><ul class="tiles">{cells}</ul>'
    )


def _forest(
    name: str, title: str, says: str, found: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]
) -> str:
    """Differences in points on one scale, distances on another."""
    parts = []
    for distances in (False, True):
        some = [(a, v) for a, v in found if (v["number"] in report_text.DISTANCES) == distances]
        if not some:
            continue
        scale = forest_plot.difference_scale([verdict for _, verdict in some])
        lines = [
            f'<li><p><a href="#{escape(ablation["name"])}">{escape(verdict["says"])}</a>'
            f"<small>{escape(report_text.task(verdict))}</small></p>{forest_plot.forest_row(verdict, scale)}"
            f'<p><span class="verdict {forest_plot.verdict_class(verdict)}">{escape(verdict["verdict"])}</span>'
            f"{_numbers(verdict)}</p></li>"
            for ablation, verdict in some
        ]
        unit = "distance" if distances else "points of percent"
        lines.append(
            f'<li class="scale-line"><p></p>{forest_plot.axis(scale, sign=True)}'
            f"<p><small>{unit}</small></p></li>"
        )
        parts.append(f'<ol class="forest">{"".join(lines)}</ol>')
    return section_html(
        name, title, says, *([forest_plot.legend(v for _, v in found), *parts] if parts else [])
    )


def _numbers(verdict: Mapping[str, Any]) -> str:
    difference = report_text.format_signed(verdict["difference"], verdict["number"])
    paper = f"<small>the paper {report_text.paper_difference(verdict)}</small>"
    said = f"<small>{difference} ({report_text.format_interval(verdict)})</small>"
    return said + paper if report_text.has_paper_numbers(verdict) else said


# ---- an ablation


def _article(ablation: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    columns = report_text.columns(ablation)
    paper, ours = ([c for c in columns if bool(c.number) == mine] for mine in (False, True))
    source = f", {ablation['source']}" if ablation["source"] else ""
    names = [row["label"] for row in ablation["rows"]]
    theirs = [row["paper_label"] or row["label"] for row in ablation["rows"]]
    tables = _numbers_of(f"The paper{source}", theirs, paper) if paper else ""
    tables += _numbers_of("Ours", names, ours)
    asked = {v[key] for v in ablation["verdicts"] for key in ("number", "other")}
    asked |= set(ablation["numbers"][:1])
    charts = "".join(_chart(column, ablation) for column in ours if column.number in asked)
    said = "".join(
        f'<li><b class="verdict {forest_plot.verdict_class(v)}">{escape(v["verdict"])}</b>: {escape(v["says"])}. '
        f"{escape(report_text.verdict_sentence(v, results))}</li>"
        for v in ablation["verdicts"]
    )
    return (
        f'<article id="{escape(ablation["name"])}"><h3>{escape(ablation["title"])}</h3>'
        f'<p class="about">{escape(ablation["about"])}</p><div class="tables">{tables}</div>'
        f'<div class="charts">{charts}</div>'
        f"{f'<ul class=found-here>{said}</ul>' if said else ''}</article>"
    )


def _numbers_of(title: str, names: Sequence[str], columns: Sequence[report_text.Column]) -> str:
    rows = [
        [escape(name), *(f"<b>{c.cells[i]}</b>" if i in c.best else c.cells[i] for c in columns)]
        for i, name in enumerate(names)
    ]
    head = ['<span class="sr">Setting</span>', *(escape(column.short) for column in columns)]
    return f"<div><h4>{escape(title)}</h4>{_table(head, rows)}</div>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells are HTML; the first of a row names it."""
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    lines = (
        f'<tr><th scope="row">{name}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
        for name, *cells in rows
    )
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr>{top}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _chart(column: report_text.Column, ablation: Mapping[str, Any]) -> str:
    """A line each row that has numbers; empty where none has."""
    lines = [
        (row["label"], row["scores"][column.task][column.number])
        for row, cell in zip(ablation["rows"], column.cells)
        if cell != report_text.NONE
    ]
    if not lines:
        return ""
    every = [value for _, values in lines for value in values]
    scale = forest_plot.AxisScale(min(every), max(every), about=3)
    drawn = "".join(
        f"<span>{escape(label)}</span>{forest_plot.strip_plot(values, scale)}"
        for label, values in lines
    )
    return (
        f'<div class="chart"><h4>{escape(column.short)}</h4><div>{drawn}<span></span>'
        f"{forest_plot.axis(scale)}</div></div>"
    )


# ---- the rest


def _towers(results: Mapping[str, Any]) -> str:
    lines = report_text.tower_table(results)
    if not lines:
        return ""
    head, *rows = ([escape(cell) for cell in line] for line in lines)
    return section_html(
        "towers",
        "The frozen image towers",
        "What they find on images themselves, zero-shot, in percent.",
        f'<div class="tables">{_table(head, rows)}</div>',
    )


def _left_out(results: Mapping[str, Any]) -> str:
    lines = "".join(
        f"<li><b>{escape(one['name'])}</b>: {escape(one['why'])}</li>"
        for one in results["left_out"]
    )
    return section_html(
        "left-out",
        "Left out",
        "What was not measured, and why.",
        *([f'<ul class="missing">{lines}</ul>'] if lines else []),
    )
