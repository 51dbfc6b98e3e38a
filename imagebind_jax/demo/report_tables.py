"""The tables of numbers: zero-shot accuracy, retrieval, and where the groups lie."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from imagebind_jax.reports.html import (
    NAMES,
    escape,
    format_cosine,
    format_percent,
    is_trained,
    section_html,
)


@dataclass(frozen=True)
class SimilarityTable:
    """Cosines between groups of embeddings: one group a row, one a column."""

    title: str
    matrix: Float[np.ndarray, "rows columns"]
    rows: Sequence[str]
    columns: Sequence[str]


def zero_shot_html(results: Mapping[str, Any]) -> str:
    rows = [
        (is_trained(results, modality, "text"), modality, entry)
        for modality, entries in results["zero_shot"].items()
        for entry in entries
    ]
    lines = []
    for trained, modality, entry in sorted(rows, key=lambda row: row[0]):
        kind = "trained" if trained else "emergent"
        marks = "".join(
            f'<i class="{name}" style="left:{100 * entry[name]:.2f}%"></i>'
            for name in ("chance", "probe")
            if entry.get(name) is not None
        )
        lines.append(
            f'<tr class="{kind}"><th scope="row">{escape(NAMES[modality])} '
            f'<span>{escape(entry["task"])}</span> <em class="badge">{kind}</em></th>'
            '<td><div class="bar" aria-hidden="true">'
            f'<b style="width:{100 * entry["top1"]:.2f}%"></b>{marks}</div></td>'
            f"<td><b>{format_percent(entry['top1'])}</b></td><td>{format_percent(entry['chance'])}</td>"
            f"<td>{format_percent(entry.get('probe'))}</td><td>{entry['n']}</td></tr>"
        )
    return section_html(
        "zero-shot",
        "Sentences name what other senses perceive",
        """Each class is described by a few sentences (“something made of glass.”), and a sample
is given the class whose sentences lie closest. <em>Chance</em> is what guessing gives. The
<em>linear probe</em> is a ceiling: a classifier fitted on the same frozen embeddings with the
labels that zero-shot never sees. Shape, material and camera motion occur here in combinations
that were held out of training, so remembering a training sample does not help. Vision was
trained with text; for all others this is emergent.""",
        '<p class="legend"><span class="bar"><b></b></span>by sentences '
        '<span class="bar"><i class="chance"></i></span>chance '
        '<span class="bar"><i class="probe"></i></span>linear probe</p>'
        '<div class="scroll" tabindex="0"><table class="accuracy"><thead><tr>'
        '<th scope="col">Modality, task</th><th scope="col">'
        '<span class="sr">Chart</span></th><th scope="col">Sentences</th>'
        '<th scope="col">Chance</th><th scope="col">Probe</th><th scope="col">Samples</th>'
        f"</tr></thead><tbody>{''.join(lines)}</tbody></table></div>",
    )


def retrieval_html(results: Mapping[str, Any]) -> str:
    table = results["retrieval"]
    lift = {k: entry["r1"] / entry["chance"] for k, entry in table.items()}
    most = max([2.0, *lift.values()])
    lines = []
    for a in NAMES:
        cells = []
        for b in NAMES:
            key = f"{a}->{b}"
            if key not in table:
                cells.append('<td class="none">–</td>')
                continue
            entry, kind = table[key], "trained" if is_trained(results, a, b) else "emergent"
            shade = 0.85 * np.log(max(lift[key], 1)) / np.log(most)
            cells.append(
                f'<td class="{kind}" style="--a:{shade:.2f}"><b>{format_percent(entry["r1"])}</b><small>'
                f"{format_percent(entry.get('probe'))} / {format_percent(entry['chance'])}</small></td>"
            )
        lines.append(f'<tr><th scope="row">{NAMES[a]}</th>{"".join(cells)}</tr>')
    head = "".join(f'<th scope="col">{NAMES[b]}</th>' for b in NAMES)
    count = next((f" of {entry['n']}" for entry in table.values()), "")
    return section_html(
        "retrieval",
        "One sense finds the other",
        f"""A sample in one modality (row) searches the same sample in another (column): how
often is the very first hit{count} the right one? Below each number, small: the linear probe
(here a linear map between the two modalities, fitted on samples that show both: a reference, not
an upper bound) and chance. The stronger the colour, the more times chance it is, on a logarithmic
scale. Samples that differ only in what the other modality cannot tell, such as light or place,
cannot be told apart.
Outlined cells were trained together; all others are emergent.""",
        '<div class="scroll" tabindex="0"><table class="heat retrieval"><thead><tr><th scope="col">'
        f'<span class="sr">Query</span></th>{head}</tr></thead><tbody>'
        f"{''.join(lines)}</tbody></table></div>"
        '<p class="legend"><span class="key trained"></span>trained together '
        '<span class="key"></span>emergent <span class="ramp"></span>chance → '
        f"{most:.0f} times chance</p>",
    )


def similarity(matrices: Sequence[SimilarityTable]) -> str:
    tables = []
    for each in matrices:
        low, high = float(np.min(each.matrix)), float(np.max(each.matrix))
        head = "".join(f'<th scope="col">{escape(name)}</th>' for name in each.columns)
        lines = []
        for name, values in zip(each.rows, each.matrix, strict=True):
            cells = "".join(
                f'<td style="--a:{0.85 * (float(value) - low) / max(high - low, 1e-9):.2f}"'
                f"{' class=match' if name == column else ''}>{format_cosine(float(value))}</td>"
                for value, column in zip(values, each.columns, strict=True)
            )
            lines.append(f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>')
        tables.append(
            f'<h3>{escape(each.title)}</h3><div class="scroll" tabindex="0"><table class="heat" '
            f'aria-label="{escape(each.title)}"><thead><tr><th scope="col"><span class="sr">Group'
            f"</span></th>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
        )
    return section_html(
        "similarity",
        "Where the groups lie",
        """The cosine between the mean embedding of each group (row) and of each description
(column). Where the two spaces have become one, the strongest cell of a row is the outlined one:
same name, same place. Strong cells beside it are what the model takes for one another.""",
        *tables,
    )
