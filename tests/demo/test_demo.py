"""The demo end to end at small size, and the control that must fail: shuffled pairs bind nothing."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from imagebind_jax.ablations import models
from imagebind_jax.demo import evaluate as demo_evaluate
from imagebind_jax.demo import run
from imagebind_jax.evaluation.tasks import zero_shot
from imagebind_jax.inputs import world
from imagebind_jax.inputs.pipeline import batches
from imagebind_jax.inputs.transforms import vision
from imagebind_jax.inputs.world.world import world_source
from imagebind_jax.models.encoder import EncoderConfig
from imagebind_jax.models.imagebind import TINY, ImageBind, embed
from imagebind_jax.optimizer import OptimizerConfig
from imagebind_jax.training import fit

pytestmark = [pytest.mark.jax, pytest.mark.usefixtures("two_devices")]

SMALL = {"width": 32, "depth": 1, "heads": 2}


def small(config, steps, batch_size):
    """The same run with narrow one-block encoders."""
    encoders = {
        name: dataclasses.replace(encoder, **SMALL) for name, encoder in TINY.encoders.items()
    }
    return dataclasses.replace(
        config,
        model=dataclasses.replace(TINY, encoders=encoders, embed_dim=32),
        steps=steps,
        batch_size=batch_size,
        checkpoint_every=steps,
    )


@pytest.mark.notebooks
def test_the_demo_writes_its_results_and_its_report(tmp_path, monkeypatch):
    def config(seed):
        full = run.demo_config(seed)
        pairs = tuple(
            dataclasses.replace(pair, source=dataclasses.replace(pair.source, count=24))
            for pair in full.pairs[:2]  # the others' encoders stay as they were made
        )
        return small(dataclasses.replace(full, pairs=pairs), steps=10, batch_size=16)

    said, spaces = [], []
    evaluate = demo_evaluate.evaluate_world

    def evaluated(space, tell):
        """Evaluate once: what is embedded the same has the same numbers."""
        spaces.append(space)
        if len(spaces) == 1:
            return evaluate(space, tell)
        jax.tree.map(np.testing.assert_array_equal, space.test, spaces[0].test)
        jax.tree.map(np.testing.assert_array_equal, space.classes, spaces[0].classes)
        return dict(results)

    monkeypatch.setattr(demo_evaluate, "evaluate_world", evaluated)
    results = run.run_demo(tmp_path, seed=3, config=config, probe=128, test=24, say=said.append)
    assert results == json.loads((tmp_path / "results.json").read_text())
    assert results["seed"] == 3
    assert {m: [row["task"] for row in rows] for m, rows in results["zero_shot"].items()} == {
        "audio": ["material"],
        "depth": ["shape"],
        "thermal": ["material", "shape"],
        "imu": ["motion"],
        "vision": ["shape", "material", "motion", "layout"],
    }
    for rows in results["zero_shot"].values():
        for row in rows:
            assert row["n"] == 24
            assert row["chance"] in (1 / 8, 1 / 4)
            assert 0 <= row["top1"] <= 1
            assert 0 <= row["probe"] <= 1
    assert len(results["retrieval"]) == 30
    assert results["retrieval"]["audio->depth"]["chance"] == 1 / 24
    assert results["trained_pairs"] == ["vision+text", "vision+audio"]
    page = (tmp_path / "report.html").read_text()
    assert "data:image" in page
    assert 'src="http' not in page
    assert any("committed step 10" in line for line in said)

    run.run_demo(tmp_path, seed=3, config=config, probe=128, test=24, say=said.append)
    assert any("going on from step 10" in line for line in said)  # nothing is trained twice
    assert len(spaces) == 2


def test_no_training_sample_is_in_two_pairs_and_none_is_tested_on():
    config = run.demo_config()
    spans = [(p.source.make.first, p.source.make.first + p.source.count) for p in config.pairs]
    assert all(a[1] <= b[0] for a, b in zip(spans, spans[1:]))
    assert {p.source.make.split for p in config.pairs} == {"train"}
    assert all(set(p.modalities) == set(p.source.make.modalities) for p in config.pairs)
    assert all("vision" in p.modalities for p in config.pairs)


@dataclasses.dataclass(frozen=True)
class Shuffled:
    """The same records, each with another one's second modality."""

    source: object
    modality: str

    def open(self):
        records = list(self.source.open())
        order = np.random.default_rng(0).permutation(len(records))
        return [r | {self.modality: records[o][self.modality]} for r, o in zip(records, order)]


@pytest.mark.notebooks
def test_audio_meets_text_through_vision_and_not_with_shuffled_pairs(tmp_path):
    scenes = world.World(0, size=32, antialias=False)
    pairs = [
        batches.ModalityPair(
            ("vision", m), world_source(scenes, "train", 512, 512 * i, ("vision", m))
        )
        for i, m in enumerate(("text", "audio"))
    ]
    tested = world_source(scenes, "test", 128, modalities=("audio",)).open()
    labels = np.array([record["labels"]["material"] for record in tested])
    full = run.demo_config()
    encoders = {
        "vision": EncoderConfig((2, 32, 32, 3), patch=(2, 16, 16), stem_norm=True, **SMALL),
        "text": dataclasses.replace(
            TINY.encoders["text"], shape=(24,), vocab_size=len(models.vocabulary()), **SMALL
        ),
        "audio": dataclasses.replace(TINY.encoders["audio"], **SMALL | {"patch": (128, 34)}),
    }  # few tokens and words, for a run of seconds
    spoken = models.WorldTokens()

    def emergent(name, pairs):
        config = dataclasses.replace(
            full,
            model=dataclasses.replace(TINY, encoders=encoders, embed_dim=32),
            inputs=dict(full.inputs) | {"vision": vision.FramesTransform(32), "text": spoken},
            pairs=tuple(pairs),
            steps=300,
            batch_size=64,
            optimizer=OptimizerConfig(learning_rate=3e-3, warmup_steps=30, weight_decay=0.05),
            checkpoint_every=300,
        )
        params = fit.fit(config, tmp_path / name)
        model = ImageBind(config.model)
        rows = batches.iterate_inputs(tested, config.inputs["audio"], "audio", "tested")
        z = np.asarray(embed(model, params, {"audio": np.stack([x for x, _ in rows])})["audio"])
        classes = zero_shot.zero_shot_weights(
            lambda texts: np.asarray(
                embed(
                    model, params, {"text": np.stack([spoken({"text": t}, None) for t in texts])}
                )["text"]
            ),
            world.CLASS_NAMES["material"],
            world.PROMPTS["material"],
        )
        return zero_shot.top1(z, classes, labels)

    chance = 1 / 8
    assert emergent("paired", pairs) > 4 * chance
    shuffled = [dataclasses.replace(p, source=Shuffled(p.source, p.modalities[1])) for p in pairs]
    assert emergent("shuffled", shuffled) < 2 * chance


def test_a_searched_space_of_perfect_embeddings_scores_perfectly():
    """Planted embeddings: every attribute has its own direction; audio hears the material alone."""
    rng = np.random.default_rng(0)
    n, axes = 384, {t: rng.standard_normal((8, 64)) for t in world.PROMPTS}
    labels = {t: rng.integers(len(world.ATTRIBUTES[t]), size=n) for t in world.PROMPTS}
    noise = {m: 0.01 * rng.standard_normal((n, 64)) for m in world.MODALITIES}
    both = sum(axes[t][labels[t]] for t in world.PROMPTS)
    z = {m: both + noise[m] for m in world.MODALITIES}
    z["audio"] = axes["material"][labels["material"]] + noise["audio"]
    classes = {t: axes[t][: len(world.ATTRIBUTES[t])] for t in world.PROMPTS}
    space = demo_evaluate.EmbeddedWorld(z, z, labels, labels, classes, [{}] * n)
    results = demo_evaluate.evaluate_world(space)
    assert results["summary"]["emergent_top1"] > 0.95
    assert results["summary"]["least_times_chance"] > 7
    mixed = results["arithmetic"]
    assert mixed["chance"] < mixed["image_alone"] < 0.3
    assert mixed["top1"] > 0.5
