"""Results as text: aligned for a terminal, in Markdown for a page."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from imagebind_jax.errors import one_line
from imagebind_jax.reports import formatting
from imagebind_jax.reports.formatting import (
    FormattedMetric,
    format_interval,
    format_signed,
    format_value,
)
from imagebind_jax.reports.markdown import escape_markdown, markdown_table

_NAME = 24  # characters of a benchmark's name, so that a line has at most 100
_OUTSIDE = "* the paper's number is outside our 95 % interval"
_UNPAIRED = "not paired: no interval"


def headline(name: str, results: Mapping[str, Any]) -> str:
    """The headline of one benchmark: esc50: top1 66.4 (64.3 to 68.5), paper 66.9, difference -0.5."""
    row = next(row for row in formatting.format_metrics(results) if row.benchmark == name)
    ours = f"{name}: {row.number} {row.ours}"
    paper = f", paper {row.paper}, difference {row.difference}" if row.paper else ""
    return f"{ours} {row.interval}".rstrip() + paper


def format_terminal(results: Mapping[str, Any]) -> list[str]:
    """Lines of at most 100 characters (but for remedies): headlines and what the paper reports."""
    found = [row for row in formatting.format_metrics(results) if row.headline or row.paper]
    cells = [["benchmark", "number", "ours", "95 % interval", "paper", "difference", "chance"]]
    cells += [
        [
            _short(row.benchmark) if row.headline else "",
            one_line(row.number, 18),
            row.ours,
            row.interval,
            row.paper,
            row.difference + (" *" if row.outside else "  "),
            row.chance,
        ]
        for row in found
    ]
    lines = _aligned(cells, right={2, 4, 5, 6}) if found else []
    if any(row.outside for row in found):
        lines.append(_OUTSIDE)
    for name, entry in results["benchmarks"].items():
        if entry["unusable"]:
            lines.append(f"{name}: unusable samples: {entry['unusable']} of {entry['samples']}")
    return lines + [f"missing {name}: {why}" for name, why in results["missing"].items()]


def _short(name: str) -> str:
    return name if len(name) <= _NAME else f"{name[: _NAME - 3]}..."


def _aligned(cells: Sequence[Sequence[str]], right: set[int]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*cells)]
    return [
        "  ".join(
            text.rjust(width) if i in right else text.ljust(width)
            for i, (text, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in cells
    ]


def format_comparison(comparison: Mapping[str, Any]) -> list[str]:
    """Lines for a terminal: ours, theirs, and the difference with its paired interval."""
    cells = [["benchmark", "number", "ours", "theirs", "difference", "95 % interval, paired"]]
    before = ""
    for row in comparison["rows"]:
        name = "" if row["benchmark"] == before else _short(row["benchmark"])
        before = row["benchmark"]
        ours, theirs, difference, within = comparison_cells(row)
        cells.append([name, one_line(row["number"], 18), ours, theirs, difference, within])
    lines = [f"ours: {comparison['ours']}; theirs: {one_line(comparison['theirs'], 200)}"]
    lines += _aligned(cells, right={2, 3, 4}) if comparison["rows"] else []
    return lines + [f"note: {one_line(text, 300)}" for text in comparison["warnings"]]


def comparison_cells(row: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """Ours, theirs, the difference, and its interval or why there is none."""
    share = row["share"]
    return (
        format_value(row["ours"], share),
        format_value(row["theirs"], share),
        format_signed(formatting.to_percent(row["difference"], share)),
        format_interval(row["low"], row["high"], share, sign=True) or _UNPAIRED,
    )


# ---- Markdown


def format_markdown(
    title: str, results: Mapping[str, Any], comparison: Mapping[str, Any] | None = None
) -> str:
    """Every number, what is missing, notes, the comparison, what it was made with."""
    head = ("benchmark", "number", "ours (95 % interval)", "paper", "difference", "others' reports",
            "chance", "n")  # fmt: skip
    parts = [
        f"# {escape_markdown(title)}",
        _table(head, map(_cells, formatting.format_metrics(results)), right=(3, 4, 6, 7)),
    ]
    if any(row.outside for row in formatting.format_metrics(results)):
        parts.append(escape_markdown(_OUTSIDE))
    notes = [
        f"* {escape_markdown(name)}: {escape_markdown(note)}"
        for name, note in notes_for_reader(results)
    ]
    parts.append("\n".join(notes))
    if results["missing"]:
        missing = [
            f"* {escape_markdown(name)}: {escape_markdown(why)}"
            for name, why in results["missing"].items()
        ]
        parts += ["## Missing", "\n".join(missing)]
    if comparison:
        theirs = ("benchmark", "number", "ours", "theirs", "difference", "95 % interval, paired")
        parts.append(
            f"## {escape_markdown(comparison['ours'])} and {escape_markdown(comparison['theirs'])}"
        )
        parts.append(
            _table(
                theirs,
                ([r["benchmark"], r["number"], *comparison_cells(r)] for r in comparison["rows"]),
                right=range(2, 5),
            )
        )
        parts.append("\n".join(f"* {escape_markdown(text)}" for text in comparison["warnings"]))
    made = [f"{name} {version}" for name, version in results["versions"].items()]
    parts.append(escape_markdown(", ".join(filter(None, [*made, results["device"]]))))
    return "\n\n".join(filter(None, parts)) + "\n"


def notes_for_reader(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(benchmark, what a reader should know of it)."""
    return [
        (name, note)
        for name, entry in results["benchmarks"].items()
        for note in [
            *([f"unusable samples: {entry['unusable']} of {entry['samples']}"]
              if entry["unusable"] else []),
            *entry["notes"],
        ]
    ]  # fmt: skip


def _cells(row: FormattedMetric) -> list[str]:
    spread = f", spread {row.spread}" if row.spread else ""
    star = " *" if row.outside else ""
    first = [
        row.benchmark if row.headline else "",
        row.number,
        f"{row.ours} {row.interval}{spread}",
    ]
    return [*first, row.paper, row.difference + star, row.others, row.chance, row.n]


def _table(head: Sequence[str], body: Iterable[Sequence[str]], right: Iterable[int]) -> str:
    return markdown_table(head, ([escape_markdown(text) for text in row] for row in body), right)
