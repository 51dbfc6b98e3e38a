"""Emotions by face and voice, from a download in its official layout to numbers: the generated samples."""

import dataclasses
import json
import pathlib

import pytest
from test_paper_benchmarks import CONFIGS, MODEL, knows_nothing

from imagebind_jax.config import load_config
from imagebind_jax.evaluation.benchmark import Benchmark, EvalConfig
from imagebind_jax.evaluation.run import run_benchmarks
from imagebind_jax.evaluation.trained.fit_classifier import TrainingSchedule
from imagebind_jax.evaluation.trained.fusion import Fusion
from imagebind_jax.models.imagebind import ImageBindConfig
from imagebind_jax.prepare.run import prepare_dataset

pytest.importorskip("av")
BRIEF = TrainingSchedule(epochs=1, batch_size=8)
HEADS = ("concatenation", "tuned")


def quick(benchmark: Benchmark) -> Benchmark:
    small = {"channels": (8,)}
    if isinstance(benchmark.evaluation, Fusion):
        small = {"width": 8, "head": "concatenation"}  # the quickest to compile
    evaluation = dataclasses.replace(benchmark.evaluation, learning=BRIEF, seeds=1, **small)
    return dataclasses.replace(benchmark, evaluation=evaluation)


@pytest.mark.parametrize(
    "dataset, name, which",
    [
        pytest.param("ravdess", "RAVDESS", 0, marks=pytest.mark.variants),
        # Trains whole encoders, which takes too long for every run (test_fusion.py does it on toys).
        pytest.param("crema_d", "CREMA-D", 3, marks=pytest.mark.variants),
        pytest.param("ravdess", "RAVDESS", 4, marks=pytest.mark.variants),
        ("crema_d", "CREMA-D", 5),
    ],
)
def test_a_sample_is_measured(dataset, name, which, tmp_path):
    """Each benchmark but the dearest heads, on one of the datasets: their configs differ in names alone."""
    prepare_dataset(
        dataset, None, tmp_path / dataset, workers=1, allow_missing=1.0, say=lambda line: None
    )
    encoders = {m: MODEL.encoders[m] for m in ("vision", "audio")}
    knows_nothing(ImageBindConfig(encoders, MODEL.embed_dim), tmp_path / "tiny")
    config = load_config(
        CONFIGS / f"eval_{dataset}.py",
        EvalConfig,
        ["--records", str(tmp_path), "--resamples", "20", "--unusable", "0"],
    )
    assert [each.name for each in config.benchmarks] == [
        f"{name}-{x}"
        for x in ("concatenation", "attention", "transformer", "tuned", "mfcc", "images")
    ]
    chosen = (quick(config.benchmarks[which]),)
    config = dataclasses.replace(config, benchmarks=chosen)
    run_benchmarks(
        config, checkpoint=tmp_path / "tiny", out=tmp_path / "out", say=lambda line: None
    )
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["missing"] == {}
    assert list(results["benchmarks"]) == [each.name for each in chosen]
    for benchmark, entry in results["benchmarks"].items():
        assert entry["samples"] == (8 if dataset == "ravdess" else 7) and entry["unusable"] == 0
        fused = benchmark.removeprefix(f"{name}-") in HEADS
        wanted = {"fusion", "gain", "audio", "vision_angry"} if fused else {"accuracy_neutral"}
        assert wanted <= entry["numbers"].keys()
        for number, estimate in entry["numbers"].items():
            assert estimate["value"] is not None, (benchmark, number)
        headline = entry["numbers"]["fusion" if fused else "accuracy"]
        assert headline["n"] == 2 and 0 <= headline["value"] <= 1  # of two actors


def test_the_two_configs_differ_in_names_alone():
    one, other = (
        pathlib.Path(CONFIGS / f"eval_{name}.py").read_text().partition('"""\n\n')[2]
        for name in ("ravdess", "crema_d")
    )
    assert one.replace('"ravdess", "RAVDESS"', '"crema_d", "CREMA-D"') == other
