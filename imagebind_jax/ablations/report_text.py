"""Results of ablations in words: the numbers, tables and sentences that the page and the Markdown share."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from imagebind_jax.ablations.paired_test import DOES_NOT, REPRODUCES, TOO_CLOSE, mean_and_std
from imagebind_jax.ablations.spec import TASK_DESCRIPTIONS

NUMBERS = {
    "top1": "top-1",
    "top1_centred": "top-1, centred",
    "r1": "recall@1 of images",
    "r1_centred": "recall@1, centred",
    "r10": "recall@10 of images",
    "r10_centred": "recall@10, centred",
    "gap": "modality gap",
}
DISTANCES = {"gap"}  # all others are in percent
TITLE = "The ablations of ImageBind's paper, in a small world"
WORLD = (
    "The world is procedural: one concept, such as a shape and a material, is seen, heard, measured "
    "and told. A seed is a world, with frozen towers of image and text of its own (6,144 captioned "
    "pictures), and test scenes that no training has met. The baseline binds a small transformer to the "
    "image tower with 1,024 pairs, each in six augmented views (of sounds: three moments with two "
    "pictures each), for 32 epochs at a learning rate of 1e-3: depth at a temperature of 0.2 with strongly "
    "augmented images, audio at 0.05 with basically augmented ones, both as in the paper, in batches of 32 "
    "and 128, a sixteenth of the paper's. Encoders are hundreds of times smaller than the paper's, data up to thousands of times, so "
    "heights of numbers do not compare with it; what is put to the test is whether the same setting "
    "comes out ahead. How hard the world is was set beforehand, on seeds below 100, so that the "
    "baselines are neither near chance nor near 100 %. The paper's columns are SUN RGB-D (depth; batch "
    "size: NYU v2) and ESC-50 (audio; of the ablations, its first fold)."
)
NONE = "–"


def describe_test(results: Mapping[str, Any]) -> str:
    """What a verdict is, and how many would be called by chance."""
    n = len(verdicts(results))
    chance = (
        f" If no setting made any difference, {(1 - results['confidence']) * n:.2g} of these {n} "
        "verdicts would be expected to be called by chance."
    )
    return (
        f"Each verdict is Student's paired t test over {len(results['seeds'])} seeds: a claim "
        f"{REPRODUCES} where the whole {confidence_level(results)} interval of the difference lies above 0, {DOES_NOT} "
        f"where it lies below, and is {TOO_CLOSE} where the interval holds 0, which is no proof that "
        "nothing differs. The interval is of the mean difference over worlds like these, not over the "
        "paper's data. Ablations share the runs of the baseline, so one unlucky run of it moves several "
        "verdicts at once. Whoever adds seeds to what was too close should judge by the new ones alone."
    ) + (chance if n else "")


def describe_tasks(results: Mapping[str, Any]) -> str:
    """The tasks that occur: depth (depth maps, which shape is it?)."""
    used = {task for ablation in results["ablations"] for task in ablation["tasks"]}
    said = [f"{task} ({TASK_DESCRIPTIONS[task]})" for task in TASK_DESCRIPTIONS if task in used]
    return (
        f"Tasks, zero-shot but for what is bound to class names: {'; '.join(said)}." if said else ""
    )


def describe_run(results: Mapping[str, Any]) -> str:
    """The machine, seeds, time and versions on one line."""
    seeds, minutes = results["seeds"], max(round(results["seconds"] / 60), 1)
    hours, rest = divmod(minutes, 60)
    time = f"{hours} h {rest} min" if hours else f"{minutes} min"
    versions = [f"{library} {version}" for library, version in results["versions"].items()]
    drawn = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
    return " · ".join([results["machine"], drawn, time, *versions])


# ---- verdicts


def verdicts(results: Mapping[str, Any], ours: bool | None = None) -> list[tuple[Any, Any]]:
    """(ablation, verdict), in their order: of the paper's claims, of ours, or all."""
    return [
        (ablation, verdict)
        for ablation in results["ablations"]
        for verdict in ablation["verdicts"]
        if ours in (None, verdict["ours"])
    ]


def counts(results: Mapping[str, Any]) -> dict[str, int]:
    """How many of the paper's claims got which verdict."""
    said = [verdict["verdict"] for _, verdict in verdicts(results, ours=False)]
    return {each: said.count(each) for each in (REPRODUCES, DOES_NOT, TOO_CLOSE)}


def summarize_counts(results: Mapping[str, Any]) -> str:
    """Of 12 claims 5 reproduce, 2 do not, and 5 are too close to call."""
    yes, no, close = counts(results).values()
    n = yes + no + close
    return (
        f"Of {n} claim{'' if n == 1 else 's'} {yes} reproduce{'s' if yes == 1 else ''}, "
        f"{no} {'does' if no == 1 else 'do'} not, and {close} {'is' if close == 1 else 'are'} "
        f"{TOO_CLOSE}."
    )


def task(verdict: Mapping[str, Any]) -> str:
    """The task, and the number where it is another than top-1."""
    if verdict["number"] == "top1" or verdict["other"]:
        return verdict["task"]
    return f"{verdict['task']}, {metric_label(verdict['number'])}"


def format_interval(verdict: Mapping[str, Any]) -> str:
    """+1.2 to +5.0."""
    low, high = (format_signed(verdict[end], verdict["number"]) for end in ("low", "high"))
    return f"{low} to {high}"


def verdict_sentence(verdict: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    """All that a verdict rests on; the verdict itself is said before it, in bold."""
    number, sides = verdict["number"], [verdict["better"], verdict["worse"]]
    if verdict["other"]:
        names = [metric_label(number), metric_label(verdict["other"])]
        same = sides[0] == sides[1]
        sides = [f"{side} ({each})" for side, each in zip(sides, names)]
        sides = [sides[0], names[1]] if same else sides
    p = "p below 0.001" if verdict["p"] < 0.0005 else f"p = {verdict['p']:.3f}"
    paper = f"; the paper {paper_difference(verdict)}" if has_paper_numbers(verdict) else ""
    where, difference = task(verdict), format_signed(verdict["difference"], number)
    return (
        f"{where[:1].upper()}{where[1:]}, {sides[0]} against {sides[1]}: {difference}{format_unit(number)} "
        f"({confidence_level(results)} interval {format_interval(verdict)}, {p}{paper})."
    )


def has_paper_numbers(verdict: Mapping[str, Any]) -> bool:
    """Whether the paper has both numbers, be it its claim or not."""
    return verdict["paper_difference"] is not None


def paper_difference(verdict: Mapping[str, Any]) -> str:
    value = verdict["paper_difference"]
    return NONE if value is None else format_signed(value, verdict["number"])


# ---- numbers


def format_signed(value: float | int, number: str = "top1") -> str:
    """+3.1, −0.4; with two digits where one would hide on which side of 0 it is, and for distances."""
    text = f"{value:+.1f}"
    if number in DISTANCES or (text[1:] == "0.0" and abs(value) >= 0.005):
        text = f"{value:+.2f}"
    return text.replace("-", "−") if float(text) else text[1:]


def format_unit(number: str) -> str:
    return "" if number in DISTANCES else " points"


def format_mean_std(values: Sequence[float | int], number: str = "top1") -> str:
    """61.2 ± 1.3: mean and standard deviation over the seeds."""
    if not values or not all(map(math.isfinite, values)):
        return NONE
    digits = 2 if number in DISTANCES else 1
    texts = [f"{each:.{digits}f}" for each in mean_and_std(values)]
    return " ± ".join(texts if len(values) > 1 else texts[:1])


def metric_label(number: str) -> str:
    return NUMBERS.get(number, number)


def confidence_level(results: Mapping[str, Any]) -> str:
    """99 %."""
    return f"{100 * results['confidence']:g} %"


# ---- tables


@dataclasses.dataclass(frozen=True)
class Column:
    """One column of an ablation's table, a cell each row."""

    task: str
    number: str  # empty for the paper's
    title: str  # where the paper's and ours are in one table
    short: str  # where each has its own
    cells: tuple[str, ...]
    best: frozenset[int]  # rows with the highest number; none for distances


def columns(ablation: Mapping[str, Any]) -> list[Column]:
    """For each task the paper's column, where it has numbers, then ours."""
    found, only = [], list(ablation["numbers"]) == ["top1"]
    for task in ablation["tasks"]:
        paper = [row["paper"].get(task) for row in ablation["rows"]]
        if any(value is not None for value in paper):
            cells = [NONE if value is None else f"{value:.1f}" for value in paper]
            found.append(Column(task, "", f"{task}, the paper", task, tuple(cells), _best(paper)))
        for number in ablation["numbers"]:
            scores = [row["scores"].get(task, {}).get(number, []) for row in ablation["rows"]]
            cells = [format_mean_std(values, number) for values in scores]
            means = [None if c == NONE else mean_and_std(v)[0] for c, v in zip(cells, scores)]
            title = f"{task}, ours" if only else f"{task}, ours: {metric_label(number)}"
            short = task if only else f"{task}, {metric_label(number)}"
            best = frozenset() if number in DISTANCES else _best(means)
            found.append(Column(task, number, title, short, tuple(cells), best))
    return found


def _best(values: Sequence[Any]) -> frozenset[int]:
    """Those that look equally good are equally good; none where there is nothing to compare."""
    texts = {i: f"{value:.1f}" for i, value in enumerate(values) if value is not None}
    most = max(texts.values(), key=float, default="")
    return frozenset(i for i, each in texts.items() if each == most and len(texts) > 1)


def tower_table(results: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A head and a line a tower: what it finds on images; empty where there is none."""
    asked = list(dict.fromkeys(task for tower in results["towers"].values() for task in tower))
    if not asked:
        return []
    return [
        ("image tower", *asked),
        *((size, *(format_mean_std(t.get(each, [])) for each in asked)) for size, t in results["towers"].items()),
    ]  # fmt: skip
