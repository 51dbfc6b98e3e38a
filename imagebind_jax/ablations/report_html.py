"""The report of ablations as one page: a forest of all verdicts, then each ablation beside the paper's."""

import importlib.resources
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from imagebind_jax.ablations import forest_plot, report_text
from imagebind_jax.reports import html
from imagebind_jax.reports.html import section, text


def write_page(path: pathlib.Path, results: Mapping[str, Any]) -> None:
    """Writes a page that needs no other file and no network; replaces `path` at once.

    results: what science.json holds.
    """
    body = [
        _header(results),
        _forest(
            "verdicts",
            "The paper's claims",
            f"{report_text.counted(results)} Right of 0 the claim holds; the interval decides.",
            report_text.verdicts(results, ours=False),
        ),
        _forest(
            "questions",
            "Beyond the paper",
            "Questions of our own, put to the same test.",
            report_text.verdicts(results, ours=True),
        ),
        section(
            "ablations",
            "Every ablation",
            "Percent, mean ± standard deviation over the seeds, the highest of a column in bold. In "
            "the charts a dot is a seed and a bar their mean; their scales do not begin at 0.",
            *(_article(ablation, results) for ablation in results["ablations"]),
        ),
        _towers(results),
        _left_out(results),
        f"<footer><p>{text(report_text.made(results))}</p><p>Again: <code>{text(results['command'])}"
        "</code></p></footer>",
    ]
    style = importlib.resources.files(__package__).joinpath("page.css").read_text("utf-8")
    html.write(path, f"imagebind_jax: {report_text.TITLE}", body, style)


def _header(results: Mapping[str, Any]) -> str:
    counts = report_text.counts(results)
    tiles = [(len(results["seeds"]), "seeds, paired")]
    if any(counts.values()):
        tiles = [*zip(counts.values(), ("reproduce", "do not", "are too close to call")), *tiles]
    cells = "".join(f"<li><b>{text(a)}</b><span>{text(b)}</span></li>" for a, b in tiles)
    says = (report_text.WORLD, report_text.tasks(results), report_text.tested(results))
    lead = "".join(f'<p class="says">{text(each)}</p>' for each in says if each)
    return (
        f'<div><p class="eyebrow">imagebind_jax · ablations</p><h1>{text(report_text.TITLE)}</h1>'
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
        scale = forest_plot.differences([verdict for _, verdict in some])
        lines = [
            f'<li><p><a href="#{text(ablation["name"])}">{text(verdict["says"])}</a>'
            f"<small>{text(report_text.task(verdict))}</small></p>{forest_plot.forest_line(verdict, scale)}"
            f'<p><span class="verdict {forest_plot.kind(verdict)}">{text(verdict["verdict"])}</span>'
            f"{_numbers(verdict)}</p></li>"
            for ablation, verdict in some
        ]
        unit = "distance" if distances else "points of percent"
        lines.append(
            f'<li class="scale-line"><p></p>{forest_plot.axis(scale, sign=True)}'
            f"<p><small>{unit}</small></p></li>"
        )
        parts.append(f'<ol class="forest">{"".join(lines)}</ol>')
    return section(
        name, title, says, *([forest_plot.legend(v for _, v in found), *parts] if parts else [])
    )


def _numbers(verdict: Mapping[str, Any]) -> str:
    difference = report_text.signed(verdict["difference"], verdict["number"])
    paper = f"<small>the paper {report_text.paper_difference(verdict)}</small>"
    said = f"<small>{difference} ({report_text.interval(verdict)})</small>"
    return said + paper if report_text.has_paper(verdict) else said


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
        f'<li><b class="verdict {forest_plot.kind(v)}">{text(v["verdict"])}</b>: {text(v["says"])}. '
        f"{text(report_text.sentence(v, results))}</li>"
        for v in ablation["verdicts"]
    )
    return (
        f'<article id="{text(ablation["name"])}"><h3>{text(ablation["title"])}</h3>'
        f'<p class="about">{text(ablation["about"])}</p><div class="tables">{tables}</div>'
        f'<div class="charts">{charts}</div>'
        f"{f'<ul class=found-here>{said}</ul>' if said else ''}</article>"
    )


def _numbers_of(title: str, names: Sequence[str], columns: Sequence[report_text.Column]) -> str:
    rows = [
        [text(name), *(f"<b>{c.cells[i]}</b>" if i in c.best else c.cells[i] for c in columns)]
        for i, name in enumerate(names)
    ]
    head = ['<span class="sr">Setting</span>', *(text(column.short) for column in columns)]
    return f"<div><h4>{text(title)}</h4>{_table(head, rows)}</div>"


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
    scale = forest_plot.Scale(min(every), max(every), about=3)
    drawn = "".join(
        f"<span>{text(label)}</span>{forest_plot.seeds_line(values, scale)}"
        for label, values in lines
    )
    return (
        f'<div class="chart"><h4>{text(column.short)}</h4><div>{drawn}<span></span>'
        f"{forest_plot.axis(scale)}</div></div>"
    )


# ---- the rest


def _towers(results: Mapping[str, Any]) -> str:
    lines = report_text.towers(results)
    if not lines:
        return ""
    head, *rows = ([text(cell) for cell in line] for line in lines)
    return section(
        "towers",
        "The frozen image towers",
        "What they find on images themselves, zero-shot, in percent.",
        f'<div class="tables">{_table(head, rows)}</div>',
    )


def _left_out(results: Mapping[str, Any]) -> str:
    lines = "".join(
        f"<li><b>{text(one['name'])}</b>: {text(one['why'])}</li>" for one in results["left_out"]
    )
    return section(
        "left-out",
        "Left out",
        "What was not measured, and why.",
        *([f'<ul class="missing">{lines}</ul>'] if lines else []),
    )
