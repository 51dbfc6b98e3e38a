"""What is to be done for some ablations and seeds, in which order, what it costs; and doing it."""

import dataclasses
import hashlib
import heapq
import importlib.metadata
import pathlib
import time
from collections.abc import Iterator, Sequence

from imagebind_jax.ablations import datasets, models, trial, worker_process
from imagebind_jax.ablations.array_cache import ArrayCache
from imagebind_jax.ablations.baselines import DEPTH
from imagebind_jax.ablations.spec import Ablation, TrialConfig
from imagebind_jax.storage import checksummed
from imagebind_jax.storage.fingerprint import fingerprint_fields, json_sha256

# Seconds on one core of BENCHMARKS.md's machine, by which progress and budgets are reckoned.
PART_COSTS = {
    "captioned": 40.0, "tower-small": 40.0, "tower-base": 43.0, "tower-large": 70.0, "test": 12.0,
    "audio": 17.0, "thermal": 9.0,
}  # fmt: skip
QUICK, VIEWS = 3.0, {"depth": 16.0, "audio": 24.0}  # of embeddings of what is there, and of views
COMPILING = 5.0
STEP_COSTS = {"depth": (1.2e-3, 7.5e-5), "thermal": (1.2e-3, 7.5e-5), "audio": (2.5e-3, 2.7e-4)}
# The sources that decide what a trial measures (no report, no command): with others a result is not taken for the same.
FINGERPRINTED_SOURCES = (
    "ablations/array_cache.py", "ablations/baselines.py", "ablations/datasets.py", "ablations/models.py",
    "ablations/trial.py", "ablations/worker_process.py", "inputs/**/*.py", "models/*.py", "losses/*.py",
    "training/frozen_towers.py", "training/gradients.py", "training/skip_step.py", "training/step.py",
    "distributed/device_view.py", "distributed/sharding.py", "evaluation/metrics/*.py",
    "evaluation/tasks/zero_shot.py", "optimizer.py", "config.py",
)  # fmt: skip
LIBRARIES = ("jax", "jaxlib", "flax", "optax", "numpy", "scipy", "pillow")


@dataclasses.dataclass(frozen=True)
class Job:
    """One part of a seed's data, or the runs of one setting with several seeds."""

    seeds: tuple[int, ...]
    part: str = ""
    setting: TrialConfig | None = None

    @property
    def cost(self) -> float:
        """Seconds, about, on one core."""
        if self.setting is None:
            kind, _, rest = self.part.partition("-")
            # Towers that are there look at the baseline's pictures together, with the base one.
            views = VIEWS.get(kind, QUICK) if rest.endswith("-base") else QUICK
            return PART_COSTS.get(self.part, views)
        settings = [self.setting, *([DEPTH] if self.setting.hub == "depth" else [])]
        return COMPILING + len(self.seeds) * sum(map(_cost, settings))

    @property
    def says(self) -> str:
        if self.setting is None:
            return f"seed {self.seeds[0]}: {self.part}"
        return f"{self.setting.modality}, {len(self.seeds)} seeds"


def _cost(setting: TrialConfig) -> float:
    fixed, each = STEP_COSTS[setting.modality]
    return models.steps(setting) * (fixed + each * setting.batch_size)


def runnable_jobs(
    waiting: Sequence[tuple[int, Job]], running: set[Job]
) -> Iterator[tuple[int, Job]]:
    """Jobs that nothing unfinished comes before: parts of a seed one after the other, then runs."""
    first: dict[int, Job] = {}
    for other in (*running, *(job for _, job in waiting)):
        if other.part:
            first.setdefault(other.seeds[0], other)
    for number, job in waiting:
        if job.part:
            if first[job.seeds[0]] == job:
                yield number, job
        elif not first.keys() & set(job.seeds):
            yield number, job


def estimate_makespan(todo: Sequence[Job], workers: int) -> float:
    """Seconds that jobs take, about: each as soon as it is ready and a process is free."""
    waiting, running, now = list(enumerate(todo)), list[tuple[float, int]](), 0.0
    while waiting or running:
        while waiting and len(running) < workers:
            found = next(runnable_jobs(waiting, {todo[number] for _, number in running}), None)
            if found is None:
                break
            waiting.remove(found)
            heapq.heappush(running, (now + found[1].cost, found[0]))
        now, _ = heapq.heappop(running)
    return now


def code_fingerprint() -> str:
    """A digest of what results depend on."""
    package = pathlib.Path(__file__).parents[1]
    found = hashlib.sha256(str([importlib.metadata.version(name) for name in LIBRARIES]).encode())
    for pattern in FINGERPRINTED_SOURCES:
        for path in sorted(package.glob(pattern)):
            found.update(path.name.encode() + path.read_bytes())
    return found.hexdigest()[:8]


def results_dir(out: pathlib.Path) -> pathlib.Path:
    """The folder, in `out`, of what this code makes: data and results of other code are not in it."""
    return out / f"made-{code_fingerprint()}"


class TrialResults:
    """The numbers of finished runs: a file each, sealed; what is damaged is made again."""

    def __init__(self, folder: pathlib.Path):
        """folder: that of `results_dir`."""
        self.folder = folder

    def _path(self, setting: TrialConfig, seed: int) -> pathlib.Path:
        return self.folder / "runs" / f"{json_sha256(fingerprint_fields(setting))[:16]}-{seed}.json"

    def get(self, setting: TrialConfig, seed: int) -> trial.Metrics | None:
        try:
            return checksummed.read_checksummed_json(self._path(setting, seed))["numbers"]
        except (FileNotFoundError, ValueError, KeyError):
            return None

    def put(self, setting: TrialConfig, seed: int, numbers: trial.Metrics) -> None:
        path = self._path(setting, seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        checksummed.write_checksummed_json(
            path, {"setting": fingerprint_fields(setting), "seed": seed, "numbers": numbers}
        )

    def todo(self, ablations: Sequence[Ablation], seeds: Sequence[int]) -> list[Job]:
        """Data first, then each setting once, in the order of the ablations."""
        settings = dict.fromkeys(s for ablation in ablations for s in ablation.settings)
        missing = {
            setting: left
            for setting in settings
            if (left := tuple(seed for seed in seeds if self.get(setting, seed) is None))
        }
        parts = {
            seed: dict.fromkeys(
                part
                for setting, left in missing.items()
                if seed in left
                for part in datasets.required_parts(setting)
                if not ArrayCache(self.folder, seed).has(part)
            )
            for seed in seeds
        }
        for some in parts.values():  # what only towers need, and is not kept
            if not any(part.startswith("tower-") for part in some):
                some.pop("captioned", None)
        made = [Job((seed,), part) for seed in seeds for part in parts[seed]]
        made.sort(key=lambda job: _order(job.part))  # so that no process waits for another's seed
        return made + [Job(left, setting=setting) for setting, left in missing.items()]


def run_job(folder: pathlib.Path, number: int, job: Job, deadline: float) -> None:
    """One job, in a process of `cores`. folder: that of `results_dir`; deadline: of time.monotonic()."""
    results = TrialResults(folder)
    if job.setting is None:
        [seed] = job.seeds
        datasets.build_part(
            folder, seed, job.part, lambda share: worker_process.report_progress(number, share)
        )
        return
    for i, seed in enumerate(job.seeds):
        if time.monotonic() >= deadline:
            return

        def tell(share: float, before: int = i) -> None:
            worker_process.report_progress(number, (before + share) / len(job.seeds))

        numbers, _ = trial.run_trial(job.setting, seed, folder, tell)
        results.put(job.setting, seed, numbers)


def _order(part: str) -> int:
    """Parts that others need come first."""
    kinds = ("captioned", "tower", "test")
    kind = part.partition("-")[0]
    return 2 * kinds.index(kind) + ("-" in part) if kind in kinds else 2 * len(kinds)
