"""The ablation bench: its table, what differs between settings, caching, order, budgets, the report."""

import dataclasses
import json
import math
import os
import signal
import time

import jax
import numpy as np
import pytest

from imagebind_jax import cli
from imagebind_jax.ablations import budget, datasets, jobs, models, registry, run, scheduler, trial
from imagebind_jax.ablations.array_cache import ArrayCache, marker_file
from imagebind_jax.ablations.baselines import AUDIO, BASELINE, DEPTH, THERMAL
from imagebind_jax.ablations.jobs import Job, TrialResults
from imagebind_jax.ablations.spec import Ablation, AblationRow, Hypothesis, TrialConfig
from imagebind_jax.errors import UserError
from imagebind_jax.models.imagebind import init

pytestmark = pytest.mark.usefixtures("two_devices")

# Table 5, 6 and 7 of the paper and its appendix, typed anew from there: (depth, audio).
PAPER = {
    "temperature": [(24.1, 54.8), (27.0, 56.7), (27.3, 52.4), (None, None), (26.7, 45.4), (28.0, 24.3)],
    "head": [(26.7, 56.7), (26.5, 51.0)],
    "epochs": [(26.7, 56.7), (27.9, 61.3), (29.9, 62.9)],
    "image-augmentation": [(25.4, 56.7), (26.7, 22.6)],
    "spatial-alignment": [(16.0, None), (26.7, None)],
    "random-erasing": [(24.2, None), (26.7, None)],
    "temporal-alignment": [(None, 55.7), (None, 56.7)],
    "frequency-masking": [(None, 56.5), (None, 56.7)],
    "capacity": [(30.7, 52.8), (26.7, 56.7), (33.3, 54.8), (29.5, 60.3)],
    "batch-size": [(47.3, 39.4), (46.5, 53.9), (43.0, 56.7), (39.9, 53.9)],
    "objective": [(31.74, None), (29.04, None), (25.17, None)],
}  # fmt: skip


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_numbers_stand_in_the_table(name):
    rows = registry.BY_NAME[name].rows
    assert [(row.paper.get("depth"), row.paper.get("audio")) for row in rows] == PAPER[name]


def test_each_claim_of_the_paper_holds_in_the_paper():
    checked = 0
    for ablation in registry.ABLATIONS:
        rows = {row.label: row for row in ablation.rows}
        for claim in ablation.claims:
            if not claim.ours:
                better, worse = (
                    rows[label].paper[claim.task] for label in (claim.better, claim.worse)
                )
                assert better > worse, (ablation.name, claim)
                checked += 1
    assert checked >= 20


def test_settings_of_an_ablation_differ_in_what_it_is_about_alone():
    """But for what is said of them: epochs that keep steps."""
    varied = {
        "null": {"repeat"}, "image-encoder": {"image_encoder"}, "temperature": {"temperature", "learned"},
        "head": {"head"}, "epochs": {"epochs"}, "image-augmentation": {"augmentation"},
        "spatial-alignment": {"aligned"}, "random-erasing": {"erase"}, "temporal-alignment": {"aligned"},
        "frequency-masking": {"mask_bands"}, "capacity": {"encoder", "image_encoder"},
        "batch-size": {"batch_size"}, "objective": {"objective"}, "hub": {"hub"},
        "pairs": {"pairs", "epochs"}, "gap": {"temperature"}, "sigmoid": {"objective", "batch_size"},
        "chained": {"hub", "epochs", "pairs"},
    }  # fmt: skip
    assert varied.keys() == registry.BY_NAME.keys()
    for name, fields in varied.items():
        for task in registry.BY_NAME[name].tasks:
            settings = [
                row.settings[task] for row in registry.BY_NAME[name].rows if task in row.settings
            ]
            found = {
                field.name
                for field in dataclasses.fields(TrialConfig)
                if len({getattr(setting, field.name) for setting in settings}) > 1
            }
            assert found and found <= fields, (name, task)


def test_the_baseline_is_in_each_of_the_papers_tables():
    for name in PAPER:
        for task in registry.BY_NAME[name].tasks:
            settings = [row.settings.get(task) for row in registry.BY_NAME[name].rows]
            assert BASELINE[task] in settings, (name, task)


def test_no_recording_is_in_two_sets_of_a_seed():
    first, each = datasets.FIRST, datasets.MOMENTS * datasets.PAIRS
    assert all(place % datasets.MOMENTS == 0 for place in first.values())
    assert first["depth"] >= datasets.MOMENTS * models.TOWER_PAIRS
    assert first["depth"] + each <= first["audio"]
    assert first["audio"] + each <= first["thermal"]


def test_as_many_steps_for_any_number_of_pairs():
    for task in BASELINE:
        steps = {models.steps(row.settings[task]) for row in registry.BY_NAME["pairs"].rows}
        assert len(steps) == 1


def test_a_setting_is_the_training_that_it_says():
    config = models.trial_config(dataclasses.replace(DEPTH, head="mlp", temperature=0.5), seed=3)
    encoder = config.model.encoders["depth"]
    assert (encoder.mlp_head, encoder.logit_scale, encoder.learn_scale) == (True, 2.0, False)
    assert (config.batch_size, config.steps, config.seed) == (32, 32 * 1024 // 32, 3)
    sigmoid = models.trial_config(
        dataclasses.replace(AUDIO, objective="sigmoid", batch_size=33), seed=0
    )
    assert sigmoid.objective == "sigmoid"
    assert sigmoid.model.encoders["audio"].logit_bias == pytest.approx(-math.log(32))
    again = models.trial_config(dataclasses.replace(DEPTH, repeat=1), seed=3)
    assert again.seed != config.seed and again.steps == config.steps


# ---- numbers


def on_circle(degrees):
    return np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], axis=1).astype(
        np.float32
    )


def test_numbers_known_by_hand():
    pictures = on_circle([0.0, 90.0, 180.0, 270.0])
    classes = on_circle([0.0, 90.0, 180.0, 270.0])
    found = trial.trial_metrics(pictures, pictures, classes, np.arange(4))
    assert found.pop("gap") == 0 and found == dict.fromkeys(NAMES, 100)
    far = on_circle([0.0, 4.0, 8.0, 12.0])  # all beside the first class, in another order
    found = trial.trial_metrics(far, pictures, classes, np.arange(4))
    assert found["top1"] == 25 and found["r1"] == 25
    assert found["gap"] == pytest.approx(1.0, abs=0.01)  # the pictures' mean is 0


def test_what_a_shared_offset_hides_centring_shows():
    rng = np.random.default_rng(0)
    pictures = rng.standard_normal((64, 16)).astype(np.float32)
    offset = np.zeros((1, 16), np.float32)
    offset[0, 0] = 12.0
    unit = lambda z: z / np.linalg.norm(z, axis=1, keepdims=True)  # noqa: E731
    moved = unit(pictures + rng.standard_normal((64, 16)).astype(np.float32) + offset)
    found = trial.trial_metrics(moved, unit(pictures), unit(pictures), np.arange(64))
    assert found["r1_centred"] > found["r1"] + 20


# ---- the order of jobs, and what is not made twice


NAMES = [number + end for number in ("top1", "r1", "r10") for end in ("", "_centred")]
COMMAND = "imagebind-jax ablate all --seeds 3 --first-seed 100"
SMALL = {"PAIRS": 16, "TEST": 12, "VIEWS": {"depth": 2, "audio": 2}}


def shrink(patch):
    """Make all that a seed's data are made of small."""
    for name, value in SMALL.items():
        patch.setattr(datasets, name, value)
    for name, value in {"TOWER_PAIRS": 16, "TOWER_STEPS": 2, "TOWER_BATCH": 8}.items():
        patch.setattr(models, name, value)
    chained = dataclasses.replace(DEPTH, pairs=16, epochs=1, batch_size=8)
    patch.setattr(trial, "DEPTH", chained)
    patch.setattr(jobs.worker_process, "report_progress", lambda number, share: None)


@pytest.fixture
def small(monkeypatch):
    shrink(monkeypatch)


SETTINGS = tuple(dict.fromkeys(s for each in registry.ABLATIONS for s in each.settings))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """made(settings): (a folder with their data, of seed 0; {part: the files written of it})"""
    folder, written = tmp_path_factory.mktemp("made"), {}
    write = ArrayCache.write

    def spy(self, name, array):
        [*written.values()][-1].append(name)  # of the part that is being made
        return write(self, name, array)

    def untrained(config, batch, tell=None):
        return jax.jit(lambda: init(config.model, jax.random.key(config.seed)))()

    def make(settings):
        with pytest.MonkeyPatch.context() as patch:
            shrink(patch)
            # What towers see matters here, not what they learn.
            patch.setattr(models, "train_on_arrays", untrained)
            patch.setattr(ArrayCache, "write", spy)
            for part in dict.fromkeys(
                part for s in settings for part in datasets.required_parts(s)
            ):
                if part not in written:
                    written[part] = []
                    datasets.build_part(folder, 0, part)
        return folder, written

    return make


def ablation(**changed):
    """A small one, of a few steps."""
    base = dataclasses.replace(DEPTH, pairs=16, epochs=1, batch_size=8)
    other = dataclasses.replace(base, **changed)
    return Ablation(
        "small", "Small", "",
        (AblationRow("one", {"depth": base}), AblationRow("other", {"depth": other})),
        (Hypothesis("one beats the other", "depth", "one", "other", ours=True),),
        "Nothing that means anything.",
    )  # fmt: skip


def test_parts_of_a_seed_come_one_after_the_other_and_before_its_runs():
    needed = datasets.required_parts(DEPTH)
    parts = [Job((seed,), part) for part in needed for seed in (0, 1)]
    runs_of = [Job((0,), setting=DEPTH), Job((0, 1), setting=AUDIO)]
    waiting = list(enumerate([*parts, *runs_of]))
    first = {job for _, job in jobs.runnable_jobs(waiting, set())}
    assert first == {Job((0,), needed[0]), Job((1,), needed[0])}
    left = [(n, job) for n, job in waiting if not (job.part and job.seeds == (0,))]
    assert Job((0,), setting=DEPTH) in {job for _, job in jobs.runnable_jobs(left, set())}
    running = {Job((0,), needed[-1])}
    assert Job((0,), setting=DEPTH) not in {job for _, job in jobs.runnable_jobs(left, running)}
    assert Job((0, 1), setting=AUDIO) not in {job for _, job in jobs.runnable_jobs(left, set())}


def test_only_what_a_setting_needs_is_made(tmp_path):
    todo = TrialResults(tmp_path).todo([registry.BY_NAME["temperature"]], [0])
    parts = [job.part for job in todo if job.part]
    assert parts[:4] == ["captioned", "tower-base", "test", "test-base"]
    assert sorted(parts[4:]) == [
        "audio",
        "audio-basic-aligned-whole-base",
        "depth-strong-aligned-erased-base",
    ]
    [job, *_] = [
        job for job in TrialResults(tmp_path).todo([registry.BY_NAME["chained"]], [0]) if job.part
    ]
    assert job.part == "captioned"
    (tmp_path / "seed-0").mkdir()
    (tmp_path / "seed-0" / "tower-base.npz").touch()
    todo = TrialResults(tmp_path).todo([registry.BY_NAME["temperature"]], [0])
    assert "captioned" not in [job.part for job in todo]


def test_a_setting_that_two_ablations_share_is_run_once(tmp_path):
    chosen = [registry.BY_NAME["temperature"], registry.BY_NAME["head"], registry.BY_NAME["gap"]]
    settings = [job.setting for job in TrialResults(tmp_path).todo(chosen, range(3)) if job.setting]
    # Six temperatures of each, of which the gap has four and one is the baseline; an MLP of each.
    assert len(settings) == len(set(settings)) == 2 * 6 + 2


@pytest.mark.notebooks
def test_a_whole_bench_on_two_settings(tmp_path, small, monkeypatch):
    """Data, runs, verdicts and reports, in this process; and again, from what is kept."""
    done = []

    def do(folder, todo, workers, deadline, tell):
        for number, job in enumerate(todo):
            jobs.run_job(folder, number, job, math.inf)
            done.append(job)

    monkeypatch.setattr(scheduler, "run_jobs", do)
    monkeypatch.setattr(registry, "ABLATIONS", (ablation(repeat=1),))
    said = []
    found = run.run_ablations(["all"], tmp_path, seeds=3, workers=1, say=said.append)
    assert len(done) == 3 * len(datasets.required_parts(DEPTH)) + 2
    [told] = found["ablations"]
    scores = [row["scores"]["depth"]["top1"] for row in told["rows"]]
    assert np.shape(scores) == (2, 3) and all(0 <= x <= 100 for row in scores for x in row)
    difference = np.subtract(*scores)
    assert told["verdicts"][0]["difference"] == pytest.approx(difference.mean())
    assert "Nothing that means anything." in (tmp_path / "science.md").read_text()
    assert json.loads((tmp_path / "science.json").read_text())["command"] == COMMAND
    assert (tmp_path / "science.html").exists()

    before, text = found["ablations"], (tmp_path / "science.md").read_text()
    done.clear()
    again = run.run_ablations(["all"], tmp_path, seeds=3, workers=1, say=said.append)
    assert not done and again["ablations"] == before
    results = TrialResults(jobs.results_dir(tmp_path))
    path = results._path(told_setting := ablation().settings[0], 101)
    path.write_text(path.read_text().replace('"top1"', '"top2"'))  # damaged: not believed
    assert results.get(told_setting, 101) is None
    run.run_ablations(["all"], tmp_path, seeds=3, workers=1, say=said.append)
    assert [(job.setting, job.seeds) for job in done] == [(told_setting, (101,))]
    assert (
        run.aggregate_results(results, registry.ABLATIONS, range(100, 103))["ablations"] == before
    )  # made the same
    assert text.split("## Small")[1] == (tmp_path / "science.md").read_text().split("## Small")[1]


@pytest.mark.variants
def test_every_setting_reads_nothing_but_its_data(made, small, monkeypatch):
    folder, written = made(SETTINGS)
    for part, names in written.items():
        assert ArrayCache(folder, 0).has(part)
        assert marker_file(part).endswith(".npz") or marker_file(part) in names
    read, of_folder = [], ArrayCache.read
    monkeypatch.setattr(
        ArrayCache, "read", lambda self, name: read.append(name) or of_folder(self, name)
    )
    # Towers that are there look at the baseline's pictures together.
    files = {part: {*names, marker_file(part)} for part, names in written.items()}
    for setting in SETTINGS:
        read.clear()
        trial._batches(dataclasses.replace(setting, pairs=16, batch_size=8), ArrayCache(folder, 0))
        listed = {
            name
            for part in datasets.required_parts(setting)
            for name in (
                *files[part],
                marker_file(part),
                marker_file(part.replace("-large", "-base")),
            )
        }
        assert set(read) <= listed | {
            f"depth-{datasets.augmentation_name(datasets.augmentation_key(setting))}.npy"
        }, setting


@pytest.mark.variants
def test_every_kind_of_setting_has_batches_that_its_encoder_takes(made, small):
    folder, _ = made(SETTINGS)
    short = dict.fromkeys(
        dataclasses.replace(s, pairs=16, batch_size=8, epochs=1, temperature=0.1) for s in SETTINGS
    )
    assert len(short) >= 15
    for setting in short:
        batch = trial._batches(setting, ArrayCache(folder, 0))(1)
        shape = models.trial_config(setting, 0).model.encoders[setting.modality].shape
        assert batch[setting.modality].shape == (8, *shape)
        assert np.allclose(np.linalg.norm(batch["anchor:vision"], axis=1), 1, atol=1e-2)


@pytest.mark.jax
@pytest.mark.parametrize(
    "setting",
    [
        pytest.param(THERMAL, id="thermal", marks=pytest.mark.variants),
        pytest.param(
            dataclasses.replace(AUDIO, objective="sigmoid", learned=True, head="mlp"), id="sigmoid"
        ),
        pytest.param(
            dataclasses.replace(DEPTH, objective="regression", encoder="small"),
            id="regression", marks=pytest.mark.variants,
        ),
    ],
)  # fmt: skip
def test_a_setting_trains(setting, made, small):
    setting = dataclasses.replace(setting, pairs=16, batch_size=8, epochs=1)
    found, _ = trial.run_trial(setting, 0, made([setting])[0])
    assert found.keys() == {*NAMES, "gap"}
    assert all(np.isfinite(value) for value in found.values())


def test_what_settings_share_is_drawn_the_same(made, small):
    base = dataclasses.replace(AUDIO, pairs=16, batch_size=16, mask_bands=0)
    apart = dataclasses.replace(base, aligned=False)
    folder = ArrayCache(made([base, apart])[0], 0)
    batches = [trial._batches(setting, folder) for setting in (base, apart)]
    for step in range(4):
        a, b = (batch(step) for batch in batches)
        assert (a["audio"] == b["audio"]).all()
        assert (a["anchor:vision"] != b["anchor:vision"]).any()
    masked = trial._batches(dataclasses.replace(base, mask_bands=12), folder)(0)["audio"]
    plain = trial._batches(base, folder)(0)["audio"]
    bands = (masked != plain).any(axis=(2, 3)).sum(axis=1)
    assert 0 < bands.max() <= 12
    assert np.unique(masked[masked != plain]).tolist() == [np.float32(trial.MASKED_BAND_VALUE)]


# ---- budgets and the command line


def test_a_budget_takes_seeds_first_and_then_ablations(tmp_path):
    results, chosen = TrialResults(tmp_path), list(registry.ABLATIONS)
    everything = budget.fit_to_budget(results, chosen, range(6), math.inf, 2)
    assert everything == (chosen, range(6), [])

    def cost(some, seeds, workers=2):
        return jobs.estimate_makespan(results.todo(some, range(seeds)), workers)

    fitting, seeds, left = budget.fit_to_budget(results, chosen, range(6), cost(chosen, 5) + 1, 2)
    assert (len(fitting), len(seeds), left) == (len(chosen), 5, [])
    fitting, seeds, left = budget.fit_to_budget(results, chosen, range(6), cost(chosen, 5) / 2, 2)
    assert len(seeds) == 5 and 1 < len(fitting) < len(chosen)
    assert [each["name"] for each in left] == [each.name for each in chosen[len(fitting) :]]
    assert cost(fitting, 5) <= cost(chosen, 5) / 2 < cost(chosen[: len(fitting) + 1], 5)
    fitting, seeds, left = budget.fit_to_budget(results, chosen, range(6), 1.0, 2)
    assert (len(fitting), len(seeds)) == (1, 3)  # as little as there is
    parts = {part for each in chosen for s in each.settings for part in datasets.required_parts(s)}
    one_seed = sum(Job((0,), part).cost for part in parts)
    assert cost(chosen, 3, workers=1000) > one_seed  # its parts wait for each other


@pytest.mark.parametrize("name", registry.BY_NAME)
def test_any_ablation_takes_ten_minutes_on_two_cores(name, tmp_path):
    """By the costs, with the seeds that it then has."""
    results, chosen = TrialResults(tmp_path), [registry.BY_NAME[name]]
    seeds = budget.seeds_within_budget(
        results, chosen, range(100, 109), run.DEFAULT_BUDGET_SECONDS, 2
    )
    assert 3 <= len(seeds) <= 9
    assert jobs.estimate_makespan(results.todo(chosen, seeds), 2) <= run.DEFAULT_BUDGET_SECONDS


def test_the_same_command_takes_the_same_seeds_however_much_is_done(tmp_path):
    results, chosen = TrialResults(tmp_path), [registry.BY_NAME["temperature"]]
    before = budget.seeds_within_budget(results, chosen, range(9), run.DEFAULT_BUDGET_SECONDS, 2)
    assert len(before) < 9
    for setting in chosen[0].settings:
        for seed in before:
            results.put(setting, seed, {"top1": 1.0})
    assert (
        budget.seeds_within_budget(results, chosen, range(9), run.DEFAULT_BUDGET_SECONDS, 2)
        == before
    )
    assert budget.fit_to_budget(results, chosen, range(9), 1.0, 2)[1] == before[:5]
    for setting in chosen[0].settings:
        for seed in range(9):
            results.put(setting, seed, {"top1": 1.0})
    assert budget.seeds_within_budget(
        results, chosen, range(9), run.DEFAULT_BUDGET_SECONDS, 2
    ) == range(9)  # nothing to do


def test_no_two_verdicts_read_the_same():
    said = [(claim.says, claim.task) for each in registry.ABLATIONS for claim in each.claims]
    assert len(said) == len(set(said))


def test_what_was_not_finished_is_said(tmp_path):
    found = run.aggregate_results(TrialResults(tmp_path), [ablation()], range(3))
    assert found["ablations"] == []
    assert found["left_out"] == [{"name": "small", "why": "was not finished within the budget"}]


@pytest.mark.parametrize("text, seconds", [("30m", 1800), ("90s", 90), ("1.5h", 5400), ("2", 120)])
def test_times(text, seconds):
    assert budget.parse_duration(text) == seconds


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["temprature"], "did you mean temperature?"),
        ([], "which ablation?"),
        (["null", "--seeds", "2"], "--seeds 2"),
        (["null", "--budget", "soon"], "--budget soon"),
        (["null", "--workers", "0"], "--workers"),
    ],
)
def test_mistakes_are_one_line(arguments, expected, mistake, tmp_path):
    assert expected in mistake("ablate", *arguments, "--out", str(tmp_path / "out"))


def test_the_list(capsys):
    assert cli.main(["ablate", "--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(
        registry.BY_NAME
    )


# ---- processes


def toy(folder, number, job, deadline):
    """In place of `jobs.run_job`: leaves a note of when and where it was done."""
    import jax

    begun = time.monotonic()
    if job.part == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    jobs.worker_process.report_progress(number, 0.5)
    time.sleep(0.3)
    said = {
        "begun": begun,
        "ended": time.monotonic(),
        "cores": sorted(os.sched_getaffinity(0)),
        "threads": os.environ["OPENBLAS_NUM_THREADS"],
        "kept": jax.config.jax_compilation_cache_dir is not None,
    }
    (folder / f"{number}.json").write_text(json.dumps(said))


def test_jobs_wait_for_what_they_need_and_each_process_has_a_core(tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")  # else JAX keeps programs by itself
    todo = [Job((seed,), part) for seed in (0, 1) for part in ("captioned", "tower-base")]
    todo += [Job((0,), setting=DEPTH), Job((0, 1), setting=AUDIO)]
    heard = []
    before = os.environ.get("OPENBLAS_NUM_THREADS")
    scheduler.run_jobs(tmp_path, todo, 2, math.inf, lambda done, job: heard.append(done), toy)
    assert os.environ.get("OPENBLAS_NUM_THREADS") == before
    done = [json.loads((tmp_path / f"{i}.json").read_text()) for i in range(len(todo))]
    for first, second in ((0, 1), (2, 3), (1, 4), (1, 5), (3, 5)):
        assert done[first]["ended"] <= done[second]["begun"], (first, second)
    assert all(len(each["cores"]) == 1 and each["threads"] == "1" for each in done)
    assert len({each["cores"][0] for each in done}) == min(2, jobs.worker_process.available_cores())
    assert all(each["kept"] for each in done)  # compiled programs
    assert heard == sorted(heard) and heard[-1] == pytest.approx(sum(job.cost for job in todo))


@pytest.mark.processes
def test_a_process_that_is_killed_ends_all_with_what_to_do(tmp_path):
    todo = [Job((0,), "captioned"), Job((1,), "kill"), Job((2,), "captioned")]
    with pytest.raises(UserError, match="ended before its time .*the same command goes on"):
        scheduler.run_jobs(tmp_path, todo, 2, math.inf, lambda done, job: None, toy)


def test_a_deadline_begins_nothing(tmp_path):
    todo = [Job((0,), "captioned")]
    scheduler.run_jobs(tmp_path, todo, 1, time.monotonic() - 1, lambda done, job: None, toy)
    assert not list(tmp_path.iterdir())


@pytest.mark.processes
def test_an_error_in_a_process_is_heard(tmp_path):
    """Its data are not there, so the run fails, and all ends with what to do."""
    with pytest.raises(UserError, match="seed-0 are damaged .*: remove the folder"):
        scheduler.run_jobs(
            tmp_path, [Job((0,), setting=DEPTH)], 1, math.inf, lambda done, job: None
        )


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"modality": "smell"}, "modality 'smell'"),
        ({"hub": "depth"}, "depth is bound to vision, text, labels, both"),
        ({"modality": "thermal", "hub": "text"}, "thermal is bound to vision, depth"),
        ({"hub": "text", "image_encoder": "large"}, "only pictures are seen"),
        ({"head": "deep"}, "head 'deep': not one of linear, mlp"),
    ],
)
def test_settings_that_nothing_stands_for_are_refused(wrong, said):
    with pytest.raises(UserError, match=said):
        TrialConfig(**wrong)
