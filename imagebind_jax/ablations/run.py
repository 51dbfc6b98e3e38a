"""The ablation bench: the paper's ablations on the built-in world, paired over seeds, with verdicts."""

import dataclasses
import math
import os
import pathlib
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

import imagebind_jax
from imagebind_jax.ablations import jobs, models, report_text, scheduler, worker_process
from imagebind_jax.ablations.array_cache import ArrayCache
from imagebind_jax.ablations.budget import fit_to_budget, seeds_within_budget, select_ablations
from imagebind_jax.ablations.jobs import TrialResults
from imagebind_jax.ablations.paired_test import CONFIDENCE, MIN_SEEDS, paired_t_test
from imagebind_jax.ablations.report_html import write_html
from imagebind_jax.ablations.report_markdown import render_markdown
from imagebind_jax.ablations.spec import Ablation, Hypothesis
from imagebind_jax.errors import UserError
from imagebind_jax.evaluation.tasks import zero_shot
from imagebind_jax.runtime import console
from imagebind_jax.runtime.progress import Progress
from imagebind_jax.storage import atomic, checksummed, lock

SEEDS = 9  # worlds; by which all of them take some 70 minutes on two cores
FIRST_SEED = 100  # smaller ones were looked at while the bench was made
DEFAULT_BUDGET_SECONDS = 570.0  # seconds, for ablations that are named: estimates err by some 3 %, and ten minutes are the limit
REMEDY = "choose another --out"
RESUME_HINT = "the same command goes on"


def run_ablations(
    names: Sequence[str],
    out: str | os.PathLike,
    *,
    seeds: int | None = None,
    first_seed: int = FIRST_SEED,
    budget: float | None = None,
    workers: int | None = None,
    say: Callable[[str], None] = console.print_line,
) -> dict[str, Any]:
    """Runs ablations ("all", or names of `claims`) and reports; returns what science.json holds.

    out: gets science.json, .md and .html (or as the ablations are called), and the data and results
    of every run, with which the same command goes on: half a gigabyte a seed, and as much again until
    all is done.
    seeds: worlds, from `first_seed` on (None: SEEDS; fewer where ablations are named and it would take
    more than DEFAULT_BUDGET_SECONDS). budget: seconds; fewer seeds are taken, then ablations are left out from the
    end, so that it suffices by the costs in `jobs`; once it is spent, no run is begun. workers:
    processes, one a core, of 2 GB (None: all cores). Raises UserError.
    """
    begun, folder = time.monotonic(), pathlib.Path(out)
    chosen, workers = select_ablations(names), workers or worker_process.available_cores()
    if seeds is not None and not MIN_SEEDS <= seeds < 1000:
        raise UserError(f"--seeds {seeds}: a verdict needs from {MIN_SEEDS} to 999")
    if not 0 <= first_seed < 1_000_000:
        raise UserError(f"--first-seed {first_seed}: from 0 to 999,999")
    wanted = seeds or SEEDS
    worlds: Sequence[int] = range(first_seed, first_seed + wanted)
    report = folder / ("science" if "all" in names else "-".join(each.name for each in chosen))
    atomic.check_writable(folder, REMEDY)
    with lock.file_lock(folder / ".lock", f"{folder} is in use by another process: {REMEDY}"):
        results = TrialResults(jobs.results_dir(folder))
        spent = _ElapsedTime(results.folder)
        fitting, left_out = chosen, list[dict[str, str]]()
        if budget is not None:
            fitting, worlds, left_out = fit_to_budget(results, chosen, worlds, budget, workers)
        elif seeds is None and "all" not in names:
            worlds = seeds_within_budget(results, chosen, worlds, DEFAULT_BUDGET_SECONDS, workers)
        todo = results.todo(fitting, worlds)
        fewer = f" of {wanted}, by the time there is" if len(worlds) < wanted else ""
        say(
            f"{len(fitting)} ablations, {len(worlds)} seeds{fewer}, {workers} processes: {len(todo)} "
            f"jobs, about {math.ceil(jobs.estimate_makespan(todo, workers) / 60)} min -> {report}.html"
        )
        total = sum(job.cost for job in todo)
        with Progress("ablate: core seconds", round(total), shown=bool(todo)) as progress:

            def tell(done: float, job: jobs.Job) -> None:
                progress.update(round(done), job.says)
                spent.write()

            scheduler.run_jobs(results.folder, todo, workers, begun + (budget or math.inf), tell)
        if left := results.todo(fitting, worlds):
            say(f"the budget is spent: {len(left)} jobs are not done; {RESUME_HINT}")
        else:  # what only the towers' training needed
            for name in ("vision", "text"):  # by the first of them the second is believed
                for path in results.folder.glob(f"seed-*/captioned-{name}.npy"):
                    path.unlink()
        asked = [each.name for each in fitting] if left_out else names
        found = aggregate_results(results, fitting, worlds, left_out)
        found = {
            # With the seeds that were taken, whatever time there was.
            "command": f"imagebind-jax ablate {' '.join(asked)} --seeds {len(worlds)}"
            f" --first-seed {worlds[0]}",
            "machine": f"{platform.machine()}, {workers} processes on {worker_process.available_cores()} cores",
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
            raise UserError(f"no ablation was finished: there is no report; {RESUME_HINT}")
        checksummed.write_checksummed_json(report.with_suffix(".json"), found, indent=1)
        atomic.write_text_atomic(report.with_suffix(".md"), render_markdown(found))
        write_html(report.with_suffix(".html"), found)
    for ablation in found["ablations"]:
        say(f"\n{ablation['title']}")
        for verdict in ablation["verdicts"]:
            said = report_text.verdict_sentence(verdict, found)
            say(f"  {verdict['verdict']}: {verdict['says']}. {said}")
    say(f"{report.with_suffix('.html')}: open it in a browser; .md and .json say the same")
    return found


def aggregate_results(
    results: TrialResults,
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
            told.append(_summarize_ablation(results, ablation, seeds))
        except _MissingTrial:
            missing.append({"name": ablation.name, "why": "was not finished within the budget"})
    return {
        "seeds": list(seeds),
        "confidence": CONFIDENCE,
        "towers": _towers(results, ablations, seeds) if told else {},
        "ablations": told,
        "left_out": missing,
    }


class _MissingTrial(Exception):
    """A run that was not made."""


def _summarize_ablation(
    results: TrialResults, ablation: Ablation, seeds: Sequence[int]
) -> dict[str, Any]:
    rows = {}
    for row in ablation.rows:
        scores: dict[str, dict[str, list[float]]] = {}
        for task, setting in row.settings.items():
            found = [results.get(setting, seed) for seed in seeds]
            there = [each for each in found if each is not None]
            if len(there) < len(found):
                raise _MissingTrial
            scores[task] = {name: [float(each[name]) for each in there] for name in there[0]}
        rows[row.label] = (row, scores)

    def verdict(claim: Hypothesis) -> dict[str, Any]:
        (better, ours), (worse, theirs) = rows[claim.better], rows[claim.worse]
        said = dataclasses.asdict(
            paired_t_test(
                ours[claim.task][claim.number],
                theirs[claim.task][claim.other or claim.number],
                ours=claim.ours,
            )
        )
        paper = [row.paper[claim.task] for row in (better, worse) if claim.task in row.paper]
        known = len(paper) == 2 and not claim.other
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


def _towers(
    results: TrialResults, ablations: Sequence[Ablation], seeds: Sequence[int]
) -> dict[str, Any]:
    """How well each image tower that is in use does zero-shot on images, in percent by seed."""
    found: dict[str, dict[str, list[float]]] = {}
    used = {setting.image_encoder for each in ablations for setting in each.settings}
    folders = [ArrayCache(results.folder, seed) for seed in seeds]
    for size in models.IMAGE_ENCODERS:
        if size not in used or not all(folder.has(f"test-{size}") for folder in folders):
            continue
        for column, task in enumerate(models.LABEL_COLUMNS):
            values = found.setdefault(size, {}).setdefault(task, [])
            for of in folders:
                z, c = of.read(f"test-z-{size}.npy"), of.read(f"classes-{task}-{size}.npy")
                labels = of.read("test-labels.npy")[:, column]
                top1 = zero_shot.top1(np.asarray(z), np.asarray(c), np.asarray(labels))
                values.append(100 * top1)
    return found


class _ElapsedTime:
    """Seconds that all commands together have taken for what is in a folder, kept as they pass."""

    def __init__(self, folder: pathlib.Path):
        self._path, self._begun, self._written = folder / "spent.json", time.monotonic(), 0.0
        try:
            self._before = float(checksummed.read_checksummed_json(self._path)["seconds"])
        except (FileNotFoundError, ValueError, KeyError):
            self._before = 0.0

    def seconds(self) -> float:
        return round(self._before + time.monotonic() - self._begun, 1)

    def write(self, every: float = 10.0) -> None:
        now = time.monotonic()
        if now - self._written >= every:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            checksummed.write_checksummed_json(self._path, {"seconds": self.seconds()})
            self._written = now
