"""Which ablations, and how many seeds: by name, and by the time there is."""

import difflib
import re
from collections.abc import Sequence

from imagebind_jax.ablations import jobs, registry
from imagebind_jax.ablations.jobs import TrialResults
from imagebind_jax.ablations.paired_test import MIN_SEEDS
from imagebind_jax.ablations.spec import Ablation
from imagebind_jax.errors import UserError

SEED_COUNTS = 5  # seeds, below which hardly a difference is called


def select_ablations(names: Sequence[str]) -> list[Ablation]:
    """The ablations of these names, each once, in the table's order. Raises UserError."""
    unknown = [name for name in names if name not in registry.BY_NAME and name != "all"]
    if unknown or not names:
        [near] = difflib.get_close_matches((unknown or [""])[0], registry.BY_NAME, 1, 0.0)
        hint = f"did you mean {near}? " if unknown else ""
        said = f"no ablation {unknown[0]!r}: " if unknown else "which ablation? "
        raise UserError(f"{said}{hint}there are all, {', '.join(registry.BY_NAME)}")
    return [each for each in registry.ABLATIONS if each.name in names or "all" in names]


def parse_duration(text: str) -> float:
    """ "30m", "1.5h", "90s" or "90" (minutes). Raises UserError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip())
    value = float(match[1]) * {"s": 1, "m": 60, "": 60, "h": 3600}[match[2]] if match else 0.0
    if not value > 0:
        raise UserError(f"--budget {text}: a time such as 30m, 90s or 1.5h")
    return value


def fit_to_budget(
    results: TrialResults,
    chosen: Sequence[Ablation],
    seeds: Sequence[int],
    budget: float,
    workers: int,
) -> tuple[list[Ablation], Sequence[int], list[dict[str, str]]]:
    """(ablations, seeds, what is left out and why): what a budget of seconds suffices for.

    Down to SEED_COUNTS seeds, then ablations are left out from the end, then seeds down to MIN_SEEDS.
    """
    fitting, seeds = (
        list(chosen),
        seeds_within_budget(results, chosen, seeds, budget, workers, SEED_COUNTS),
    )

    def fits() -> bool:
        return jobs.estimate_makespan(results.todo(fitting, seeds), workers) <= budget

    while len(fitting) > 1 and not fits():
        fitting.pop()
    while len(seeds) > MIN_SEEDS and not fits():
        seeds = seeds[:-1]
    why = f"did not fit into the budget of {budget / 60:.3g} minutes"
    return fitting, seeds, [{"name": e.name, "why": why} for e in chosen[len(fitting) :]]


def seeds_within_budget(
    results: TrialResults,
    chosen: Sequence[Ablation],
    seeds: Sequence[int],
    budget: float,
    workers: int,
    fewest: int = MIN_SEEDS,
) -> Sequence[int]:
    """The seeds that a budget of seconds suffices for, from nothing; all, where all is done.

    Not by what is left to do: the same command would take more seeds each time, until a verdict falls.
    """
    if not results.todo(chosen, seeds):
        return seeds
    nothing = TrialResults(results.folder / "nothing")
    while (
        len(seeds) > fewest
        and jobs.estimate_makespan(nothing.todo(chosen, seeds), workers) > budget
    ):
        seeds = seeds[:-1]
    return seeds
