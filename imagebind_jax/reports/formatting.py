"""How measured numbers are written: percent with one digit, intervals, what others report beside them."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

PAPER = "paper"  # whose reports stand in a column of their own


@dataclasses.dataclass(frozen=True)
class FormattedMetric:
    """One number of one benchmark, as texts; empty where there is none."""

    benchmark: str
    number: str
    headline: bool  # the benchmark's first
    ours: str
    interval: str
    paper: str
    difference: str
    outside: bool  # the paper's number is not within our interval
    others: str
    chance: str
    n: str
    spread: str
    # Where they are on a line from 0 to 100; None where there are none, or where it is a rank.
    places: Mapping[str, float | None]


def format_metrics(results: Mapping[str, Any]) -> list[FormattedMetric]:
    """Every number in what a results.json holds, in its order."""
    return [
        _row(name, number, i == 0, entry)
        for name, entry in results["benchmarks"].items()
        for i, number in enumerate(entry["numbers"])
    ]


def _row(benchmark: str, name: str, headline: bool, entry: Mapping[str, Any]) -> FormattedMetric:
    number = entry["numbers"][name]
    value, low, high, share = (number[each] for each in ("value", "low", "high", "share"))
    said = {who: each[name] for who, each in entry["reported"].items() if name in each}
    paper = said.pop(PAPER, None)
    chance = entry["chance"].get(name)
    ends = [to_percent(low, share), to_percent(high, share)]
    return FormattedMetric(
        benchmark=benchmark,
        number=name,
        headline=headline,
        ours=format_value(value, share),
        interval=format_interval(low, high, share),
        paper="" if paper is None else format_reported(paper),
        difference=""
        if paper is None or value is None
        else format_signed(to_percent(value, share) - paper),
        outside=paper is not None and None not in ends and not ends[0] <= paper <= ends[1],
        others="; ".join(f"{who} {format_reported(each)}" for who, each in said.items()),
        chance="" if chance is None else format_value(chance, share),
        n=str(number["n"]),
        spread="" if number["spread"] is None else format_value(number["spread"], share),
        places={
            "value": to_percent(value, share),
            "low": ends[0],
            "high": ends[1],
            "chance": to_percent(chance, share),
            "paper": paper,
            **{f"other {who}": each for who, each in said.items()},
        }
        if share
        else {},
    )


def format_reported(number: float) -> str:
    """What others report, with as many digits as they gave: 66.9, 67.25."""
    return f"{number:.2f}".removesuffix("0")


def to_percent(value: Any, share: bool) -> Any:
    """In percent, where it is a share of 1."""
    return value if value is None else 100 * value if share else value


def format_value(value: float | None, share: bool = True) -> str:
    """0.6643 as "66.4"; a rank as it is; a dash for what is no number; small chance with two digits."""
    if value is None or not math.isfinite(value):
        return "–"
    number = to_percent(value, share)
    return f"{number:.2f}" if share and 0 < abs(number) < 1 else f"{number:.1f}"


def format_signed(difference: float) -> str:
    """With its sign, and no sign before zero; a dash for what is no number."""
    if not math.isfinite(difference):
        return "–"
    text = f"{difference:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text


def format_interval(
    low: float | None, high: float | None, share: bool = True, sign: bool = False
) -> str:
    """(65.1 to 68.0); empty without resamples."""
    if low is None or high is None:
        return ""
    ends = [to_percent(end, share) for end in (low, high)]
    return "({} to {})".format(*(format_signed(end) if sign else f"{end:.1f}" for end in ends))
