"""The report of ablations in Markdown: all verdicts at a glance, then each ablation's table and sentences."""

import re
from collections.abc import Mapping
from typing import Any

from imagebind_jax.ablations import report_text
from imagebind_jax.errors import one_line
from imagebind_jax.reports.markdown import escape_markdown, markdown_table

TOWERS_IN = "image-encoder"  # the ablation that they belong to
TOWERS = (
    "What the frozen image towers find on images themselves, zero-shot, in percent. (What is bound to one "
    "may do better than it: it is asked about another modality.)"
)


def render_markdown(results: Mapping[str, Any]) -> str:
    """The whole report; the same results give the same text."""
    names = {ablation["name"] for ablation in results["ablations"]}
    parts = [
        f"# {report_text.TITLE}",
        f"```bash\n{one_line(results['command'])}\n```",
        escape_markdown(report_text.describe_run(results)),
        report_text.WORLD,
        report_text.describe_tasks(results),
        escape_markdown(report_text.describe_test(results)),
        "Tables: percent (the modality gap: a distance from 0 to 2), mean ± standard deviation over the seeds, "
        "the highest of a column in bold.",
        "" if TOWERS_IN in names else _towers(results),
        *_summary(results),
        *_questions(results),
    ]
    for ablation in results["ablations"]:
        parts += _section(ablation, results)
    if results["left_out"]:
        left = [
            f"* {escape_markdown(one['name'])}: {escape_markdown(one['why'])}"
            for one in results["left_out"]
        ]
        parts += ["## Left out", "\n".join(left)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _summary(results: Mapping[str, Any]) -> list[str]:
    found = report_text.verdicts(results, ours=False)
    if not found:
        return []
    head = (
        "claim of the paper",
        "task",
        "the paper",
        f"ours ({report_text.confidence_level(results)} interval)",
        "verdict",
    )
    lines = [
        (
            _link(a, v),
            escape_markdown(report_text.task(v)),
            report_text.paper_difference(v),
            _ours(v),
            _verdict(v),
        )
        for a, v in found
    ]
    return [
        "## Verdicts",
        f"{report_text.summarize_counts(results)} Differences are in points of percent.",
        markdown_table(head, lines, right=[2]),
    ]


def _questions(results: Mapping[str, Any]) -> list[str]:
    found = report_text.verdicts(results, ours=True)
    if not found:
        return []
    head = (
        "question of our own",
        "task",
        f"difference ({report_text.confidence_level(results)} interval)",
        "verdict",
    )
    lines = [
        (_link(a, v), escape_markdown(report_text.task(v)), _ours(v), _verdict(v)) for a, v in found
    ]
    return ["## Beyond the paper", markdown_table(head, lines, right=[])]


def _section(ablation: Mapping[str, Any], results: Mapping[str, Any]) -> list[str]:
    columns = report_text.columns(ablation)
    source = (
        f" The paper's numbers: {escape_markdown(ablation['source'])}."
        if ablation["source"]
        else ""
    )
    rows = []
    for i, row in enumerate(ablation["rows"]):
        label = escape_markdown(row["label"])
        if row["paper_label"]:
            label += f" (the paper: {escape_markdown(row['paper_label'])})"
        cells = [f"**{c.cells[i]}**" if i in c.best else c.cells[i] for c in columns]
        rows.append((label, *cells))
    head = ("", *(escape_markdown(column.title) for column in columns))
    said = [
        f"* {_verdict(v)}: {escape_markdown(v['says'])}. {escape_markdown(report_text.verdict_sentence(v, results))}"
        for v in ablation["verdicts"]
    ]
    return [
        f"## {escape_markdown(ablation['title'])}",
        escape_markdown(ablation["about"]) + source,
        _towers(results) if ablation["name"] == TOWERS_IN else "",
        markdown_table(head, rows, right=range(1, len(head))) if rows else "",
        "\n".join(said),
    ]


def _towers(results: Mapping[str, Any]) -> str:
    lines = report_text.tower_table(results)
    if not lines:
        return ""
    head, *rows = [[escape_markdown(cell) for cell in line] for line in lines]
    return f"{TOWERS}\n\n{markdown_table(head, rows, right=range(1, len(head)))}"


def _link(ablation: Mapping[str, Any], verdict: Mapping[str, Any]) -> str:
    """As GitHub names headings."""
    anchor = re.sub(r"[^\w\- ]", "", one_line(ablation["title"]).lower()).replace(" ", "-")
    return f"[{escape_markdown(verdict['says'])}](#{anchor})"


def _ours(verdict: Mapping[str, Any]) -> str:
    number = verdict["number"]
    return f"{report_text.format_signed(verdict['difference'], number)} ({report_text.format_interval(verdict)})"


def _verdict(verdict: Mapping[str, Any]) -> str:
    return f"**{escape_markdown(verdict['verdict'])}**"
