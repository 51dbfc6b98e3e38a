"""The ablation bench: the paper's ablations on the built-in world, paired over seeds, with verdicts."""

import dataclasses
import math
import os
import pathlib
import platform
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

import imagebind_jax
from imagebind_jax import files, metrics, saying
from imagebind_jax.ablate import claims, cores, data, jobs, towers
from imagebind_jax.ablate.ablation import Ablation, Claim
from imagebind_jax.ablate.jobs import Results
from imagebind_jax.ablate.markdown import markdown
from imagebind_jax.ablate.page import write_page
from imagebind_jax.ablate.verdicts import CONFIDENCE, FEWEST, judge
from imagebind_jax.errors import UserError
from imagebind_jax.evaluators import zero_shot

SEEDS = 6
FEWER = 5  # seeds, below which hardly a difference is called
REMEDY = "choose another --out"
GOES_ON = "the same command goes on"


def run(
    names: Sequence[str],
    out: str | os.PathLike,
    *,
    seeds: int = SEEDS,
    budget: float = math.inf,
    workers: int | None = None,
    command: str = "",
    say: Callable[[str], None] = saying.say,
) -> dict[str, Any]:
    """Runs ablations ("all", or names of `claims`) and reports; returns what results.json holds.

    out: gets results.json, science.md, science.html, and the data and results of every run, with
    which the same command goes on. budget: seconds; fewer seeds are taken, then ablations are left
    out from the end, so that it suffices by the costs in `jobs`; once it is spent, no run is begun.
    workers: processes, one a core (None: all cores). Raises UserError.
    """
    begun, folder = time.monotonic(), pathlib.Path(out)
    chosen, workers = choose(names), workers or cores.count()
    if not FEWEST <= seeds < 1000:
        raise UserError(f"--seeds {seeds}: a verdict needs from {FEWEST} to 999")
    files.check_writable(folder, REMEDY)
    with files.locked(folder / ".lock", f"{folder} is in use by another process: {REMEDY}"):
        results = Results(jobs.made(folder))
        spent = _Spent(results.folder)
        fitting, seeds, left_out = fit(results, chosen, seeds, budget, workers)
        todo = results.todo(fitting, range(seeds))
        minutes = math.ceil(jobs.least(todo, workers) / 60)
        say(
            f"{len(fitting)} ablations, {seeds} seeds, {workers} processes: {len(todo)} jobs, about "
            f"{minutes} min -> {folder}/science.html"
        )
        total = sum(job.cost for job in todo)
        with metrics.Progress("ablate", round(total), shown=bool(todo)) as progress:

            def tell(done: float, job: jobs.Job) -> None:
                progress.update(round(done), job.says)
                spent.write()

            left = jobs.do(results.folder, todo, workers, begun + budget, tell)
        if left:
            say(f"the budget is spent: {left} jobs were not begun; {GOES_ON}")
        found = gather(results, fitting, range(seeds), left_out)
        found = {
            "command": command or f"imagebind-jax ablate {' '.join(names)}",
            "machine": f"{platform.machine()}, {workers} processes on {cores.count()} cores",
            "seconds": spent.seconds(),
            "versions": {
                "imagebind_jax": imagebind_jax.__version__,
                "jax": jax.__version__,
                "python": platform.python_version(),
            },
            "made": results.folder.name,
            **found,
        }
        spent.write(0.0)
        if not found["ablations"]:
            raise UserError(f"no ablation was finished: there is no report; {GOES_ON}")
        files.write_sealed(folder / "results.json", found, indent=1)
        files.replace_text(folder / "science.md", markdown(found))
        write_page(folder / "science.html", found)
    for ablation in found["ablations"]:
        for verdict in ablation["verdicts"]:
            say(
                f"{verdict['verdict']:18} {ablation['name']}, {verdict['task']}: {verdict['says']} "
                f"({verdict['difference']:+.1f}, {verdict['low']:+.1f} to {verdict['high']:+.1f})"
            )
    say(f"{folder / 'science.html'}: open it in a browser; {folder / 'science.md'} says the same")
    return found


def choose(names: Sequence[str]) -> list[Ablation]:
    """The ablations of these names, each once, in the table's order. Raises UserError."""
    import difflib

    unknown = [name for name in names if name not in claims.BY_NAME and name != "all"]
    if unknown or not names:
        [near] = difflib.get_close_matches((unknown or [""])[0], claims.BY_NAME, 1, 0.0)
        hint = f"did you mean {near}? " if unknown else ""
        said = f"no ablation {unknown[0]!r}: " if unknown else "which ablation? "
        raise UserError(f"{said}{hint}there are all, {', '.join(claims.BY_NAME)}")
    return [each for each in claims.ABLATIONS if each.name in names or "all" in names]


def seconds(text: str) -> float:
    """ "30m", "1.5h", "90s" or "90" (minutes). Raises UserError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip())
    value = float(match[1]) * {"s": 1, "m": 60, "": 60, "h": 3600}[match[2]] if match else 0.0
    if not value > 0:
        raise UserError(f"--budget {text}: a time such as 30m, 90s or 1.5h")
    return value


def fit(
    results: Results, chosen: Sequence[Ablation], seeds: int, budget: float, workers: int
) -> tuple[list[Ablation], int, list[dict[str, str]]]:
    """(ablations, seeds, what is left out and why): what a budget of seconds suffices for."""

    def fits() -> bool:
        return jobs.least(results.todo(fitting, range(seeds)), workers) <= budget

    fitting = list(chosen)
    while seeds > FEWER and not fits():
        seeds -= 1
    while len(fitting) > 1 and not fits():
        fitting.pop()
    while seeds > FEWEST and not fits():
        seeds -= 1
    why = f"did not fit into the budget of {budget / 60:.3g} minutes"
    return fitting, seeds, [{"name": e.name, "why": why} for e in chosen[len(fitting) :]]


def gather(
    results: Results,
    ablations: Sequence[Ablation],
    seeds: Sequence[int],
    left_out: Sequence[Mapping[str, str]] = (),
) -> dict[str, Any]:
    """What the runs say: scores by ablation, row, task and number, and a verdict for each claim.

    An ablation of which some run is not there is left out, and said to be.
    """
    told, missing = [], list(left_out)
    for ablation in ablations:
        try:
            told.append(_told(results, ablation, seeds))
        except _NotThere:
            missing.append({"name": ablation.name, "why": "was not finished within the budget"})
    return {
        "seeds": list(seeds),
        "confidence": CONFIDENCE,
        "towers": _towers(results, seeds) if told else {},
        "ablations": told,
        "left_out": missing,
    }


class _NotThere(Exception):
    """A run that was not made."""


def _told(results: Results, ablation: Ablation, seeds: Sequence[int]) -> dict[str, Any]:
    rows = {}
    for row in ablation.rows:
        scores: dict[str, dict[str, list[float]]] = {}
        for task, setting in row.settings.items():
            found = [results.get(setting, seed) for seed in seeds]
            there = [each for each in found if each is not None]
            if len(there) < len(found):
                raise _NotThere
            scores[task] = {name: [float(each[name]) for each in there] for name in there[0]}
        rows[row.label] = (row, scores)

    def verdict(claim: Claim) -> dict[str, Any]:
        (better, ours), (worse, theirs) = rows[claim.better], rows[claim.worse]
        said = dataclasses.asdict(
            judge(
                ours[claim.task][claim.number],
                theirs[claim.task][claim.other or claim.number],
                ours=claim.ours,
            )
        )
        paper = [row.paper[claim.task] for row in (better, worse) if claim.task in row.paper]
        known = len(paper) == 2 and not claim.ours
        return {
            **dataclasses.asdict(claim) | {"paper_difference": None},
            **({"paper_difference": round(paper[0] - paper[1], 2)} if known else {}),
            **{("verdict" if name == "says" else name): value for name, value in said.items()},
        }

    return {
        "name": ablation.name,
        "title": ablation.title,
        "source": ablation.source,
        "about": ablation.about,
        "numbers": list(ablation.numbers),
        "tasks": list(ablation.tasks),
        "rows": [
            {
                "label": row.label,
                "paper_label": row.paper_label,
                "paper": dict(row.paper),
                "scores": {
                    task: {name: found[name] for name in ablation.numbers}
                    for task, found in scores.items()
                },
            }
            for row, scores in rows.values()
        ],
        "verdicts": [verdict(claim) for claim in ablation.claims],
    }


def _towers(results: Results, seeds: Sequence[int]) -> dict[str, Any]:
    """How well each image tower does zero-shot on images, in percent by seed."""
    found: dict[str, dict[str, list[float]]] = {}
    for size in towers.IMAGE_ENCODERS:
        for column, task in enumerate(("shape", "material")):
            values = found.setdefault(size, {}).setdefault(task, [])
            for seed in seeds:
                of = data.Folder(results.folder, seed)
                z, c = of.read(f"test-z-{size}.npy"), of.read(f"classes-{task}-{size}.npy")
                labels = of.read("test-labels.npy")[:, column]
                values.append(
                    100 * zero_shot.top1(np.asarray(z), np.asarray(c), np.asarray(labels))
                )
    return found


class _Spent:
    """Seconds that all commands together have taken for what is in a folder, kept as they pass."""

    def __init__(self, folder: pathlib.Path):
        self._path, self._begun, self._written = folder / "spent.json", time.monotonic(), 0.0
        try:
            self._before = float(files.read_sealed(self._path)["seconds"])
        except (FileNotFoundError, ValueError, KeyError):
            self._before = 0.0

    def seconds(self) -> float:
        return round(self._before + time.monotonic() - self._begun, 1)

    def write(self, every: float = 10.0) -> None:
        now = time.monotonic()
        if now - self._written >= every:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            files.write_sealed(self._path, {"seconds": self.seconds()})
            self._written = now
